package seal

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// fixedIdentity is the identity whose bytes count up from first.
func fixedIdentity(t testing.TB, first byte) Identity {
	t.Helper()
	var id Identity
	if err := id.UnmarshalBinary(counting(first, IdentitySize)); err != nil {
		t.Fatal(err)
	}
	return id
}

// counting is n bytes: first, first+1 ...
func counting(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func TestIdentitySurvivesAFile(t *testing.T) {
	id := newIdentity(t)
	b, err := id.MarshalBinary()
	if err != nil || len(b) != IdentitySize {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	var back Identity
	if err := back.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	clear(b) // the identity must not share the file's memory
	if !bytes.Equal(back.Key(), id.Key()) || !bytes.Equal(back.StaticKey(), id.StaticKey()) {
		t.Error("another identity came back")
	}
	again, err := back.MarshalBinary()
	want, _ := id.MarshalBinary()
	if err != nil || !bytes.Equal(again, want) {
		t.Error("it does not marshal to the same bytes")
	}
}

func TestIdentityRefusesADamagedFile(t *testing.T) {
	var id Identity
	for _, n := range []int{0, 1, IdentitySize - 1, IdentitySize + 1} {
		if err := id.UnmarshalBinary(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were taken", n)
		}
	}
}

func TestEmptyIdentityIsRefusedNotUsed(t *testing.T) {
	var id Identity
	if id.Key() != nil || len(id.StaticKey()) != 0 {
		t.Error("an empty identity has keys")
	}
	if _, err := id.MarshalBinary(); err == nil {
		t.Error("an empty identity was marshalled")
	}
	if _, err := id.Certificate(); err == nil {
		t.Error("an empty identity has a certificate")
	}
}

func TestNoLogShowsPrivateKeys(t *testing.T) {
	id, secret := newIdentity(t), NewSecret()
	private, _ := id.MarshalBinary()
	k := Keys{Send: [32]byte{0xaa, 0xbb}, Receive: [32]byte{0xaa, 0xbb}, Export: [32]byte{0xaa, 0xbb}}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		for name, leak := range map[string][]byte{"seed": private[:8], "private": private[32:40], "secret": secret[:8], "key": {0xaa, 0xbb}} {
			got := fmt.Sprintf(verb+verb+verb, id, secret, k)
			for _, form := range []string{fmt.Sprintf("%x", leak), fmt.Sprintf("%v", leak)[1:], fmt.Sprintf("%#v", leak)[7:], string(leak)} {
				if strings.Contains(got, form) {
					t.Errorf("%s shows the %s: %s", verb, name, got)
				}
			}
		}
	}
}

func TestFingerprintIsShortAndStable(t *testing.T) {
	a := Fingerprint([]byte("one key"))
	if !regexp.MustCompile(`^([a-z2-7]{4}-){3}[a-z2-7]{4}$`).MatchString(a) {
		t.Errorf("%q is not four groups of four", a)
	}
	if a != Fingerprint([]byte("one key")) || a == Fingerprint([]byte("another key")) {
		t.Error("it does not follow the key")
	}
}

func TestCertificateIsTheSameEachTimeAndServesBothEnds(t *testing.T) {
	id := newIdentity(t)
	one, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	two, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Certificate[0], two.Certificate[0]) {
		t.Error("two calls gave two certificates")
	}
	if one.Leaf.NotAfter.Before(time.Now().AddDate(100, 0, 0)) || one.Leaf.SerialNumber.Sign() <= 0 {
		t.Errorf("not after %v, serial %v", one.Leaf.NotAfter, one.Leaf.SerialNumber)
	}
	client, server := handshakeTLS(t, newIdentity(t), id)
	if !bytes.Equal(server.RawSubjectPublicKeyInfo, one.Leaf.RawSubjectPublicKeyInfo) {
		t.Error("the client saw another key")
	}
	if client.PublicKey == nil {
		t.Error("the server saw no key")
	}
}

// handshakeTLS gives the certificate of the client as the server saw it, and
// the other way round.
func handshakeTLS(t *testing.T, client, server Identity) (fromClient, fromServer *x509.Certificate) {
	t.Helper()
	cc, err := client.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	sc, err := server.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	s := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{sc}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13})
	done := make(chan error, 1)
	go func() { done <- s.Handshake() }()
	c := tls.Client(near, &tls.Config{Certificates: []tls.Certificate{cc}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return s.ConnectionState().PeerCertificates[0], c.ConnectionState().PeerCertificates[0]
}
