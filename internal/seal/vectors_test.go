package seal

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew; another program's bytes then no longer fit")

const vectorsFile = "testdata/vectors.txt"

const vectorsHead = `# Fixed keys, and the bytes that follow from them as proto/SPEC.md says. A
# second implementation in another language (Python, 2026-11) gave the same
# bytes. Each line is: name = hex.
`

// table is the vectors of one test, in the order of the file.
type table struct {
	names []string
	value map[string][]byte
}

func (v *table) add(name string, b []byte) []byte {
	v.names = append(v.names, name)
	v.value[name] = b
	return b
}

func (v *table) String() string {
	var s strings.Builder
	s.WriteString(vectorsHead)
	for _, name := range v.names {
		fmt.Fprintf(&s, "%s = %x\n", name, v.value[name])
	}
	return s.String()
}

// The fixed values that all vectors begin with.
type fixed struct {
	initiator, responder Identity
	secret               Secret
	ephemeral            [2][32]byte
}

func newFixed(t *testing.T) fixed {
	return fixed{
		initiator: fixedIdentity(t, 0x01),
		responder: fixedIdentity(t, 0x41),
		secret:    Secret(counting(0x81, 32)),
		ephemeral: [2][32]byte{[32]byte(counting(0xa1, 32)), [32]byte(counting(0xc1, 32))},
	}
}

func computeVectors(t *testing.T) *table {
	v, x := &table{value: map[string][]byte{}}, newFixed(t)
	addIdentities(t, v, x)
	addMeeting(t, v, x)
	addHandshake(t, v, x)
	addDatagrams(v)
	addProbes(v, x)
	addMessages(t, v, x)
	addLegs(t, v)
	return v
}

// addLegs are a datagram that crosses whole, and one in parts, on a sealed leg
// under the data key.
func addLegs(t *testing.T, v *table) {
	key := [KeySize]byte(v.value["data key"])
	agent, coordinator := NewLeg(key, false), NewLeg(key, true)
	for name, l := range map[string]*Leg{"agent": agent, "coordinator": coordinator} {
		for _, b := range sealed(t, l, dgram.One(legAt, v.value["data plaintext"])) {
			v.value["on a leg from "+name+", counter 0"] = b.Buf
		}
	}
	v.names = append(v.names, "on a leg from agent, counter 0", "on a leg from coordinator, counter 0")
	parts := sealed(t, agent, dgram.One(legAt, counting(0, 1381)))
	v.add("on a leg from agent, the second part of 1381 counting bytes, id 1, counter 2", parts[0].Buf[parts[0].Size:])
}

func addIdentities(t *testing.T, v *table, x fixed) {
	for n, id := range []Identity{x.initiator, x.responder} {
		b, err := id.MarshalBinary()
		check(t, err)
		v.add([]string{"initiator", "responder"}[n]+" identity", b)
	}
	v.add("secret", x.secret[:])
	v.add("initiator key", x.initiator.Key())
	v.add("initiator static key", x.initiator.StaticKey())
	v.add("responder key", x.responder.Key())
	v.add("responder static key", x.responder.StaticKey())
	v.add("initiator fingerprint, in ASCII", []byte(Fingerprint(x.initiator.Key())))
	v.add("network id, in ASCII", []byte(x.secret.ID()))
	cert, err := x.initiator.Certificate()
	check(t, err)
	spki, err := x509.MarshalPKIXPublicKey(x.initiator.Key())
	check(t, err)
	if !bytes.Equal(spki, cert.Leaf.RawSubjectPublicKeyInfo) {
		t.Error("the certificate is of another key")
	}
	v.add("initiator SubjectPublicKeyInfo", spki)
}

func addHandshake(t *testing.T, v *table, x fixed) {
	v.add("initiator ephemeral private", x.ephemeral[0][:])
	v.add("responder ephemeral private", x.ephemeral[1][:])
	i, msg1, err := initiate(x.initiator, x.responder.StaticKey(), x.secret, v.add("payload 1", []byte("hello")), x.ephemeral[0], flagAES)
	check(t, err)
	v.add("message 1, flags 01", msg1)
	r, err := respond(x.responder, x.secret, msg1, x.ephemeral[1], flagAES)
	check(t, err)
	msg2, keys, err := r.Finish(v.add("payload 2", []byte("answer")))
	check(t, err)
	v.add("message 2, flags 01", msg2)
	v.add("key from initiator", keys.Receive[:])
	v.add("key from responder", keys.Send[:])
	v.add("export", keys.Export[:])
	if _, _, err := i.Finish(msg2); err != nil {
		t.Error(err)
	}
}

func addMeeting(t *testing.T, v *table, x fixed) {
	m, first, err := meet(x.secret, v.add("meeting payload 1", []byte("hello")), x.ephemeral[0], flagAES)
	check(t, err)
	v.add("meeting message 1, flags 01", first)
	second, keys, err := met(x.secret, first, greetWith(string(v.add("meeting payload 2", []byte("answer")))), x.ephemeral[1], flagAES)
	check(t, err)
	v.add("meeting message 2, flags 01", second)
	v.add("meeting key from initiator", keys.Receive[:])
	v.add("meeting key from responder", keys.Send[:])
	v.add("meeting export", keys.Export[:])
	if _, _, err := m.Finish(second); err != nil {
		t.Error(err)
	}
	const word = "k7qy-3mfa-x2ce-p5wd"
	secret := SecretOfWord(word)
	v.add("word", []byte(word))
	v.add("secret of the word", secret[:])
}

// openMeeting takes only the file's bytes, as the far end would.
func openMeeting(t *testing.T, v map[string][]byte, x fixed) {
	second, k, err := met(x.secret, v["meeting message 1, flags 01"], greetWith(string(v["meeting payload 2"])), x.ephemeral[1], flagAES)
	check(t, err)
	if !bytes.Equal(second, v["meeting message 2, flags 01"]) || k.Cipher != AES256GCM || !bytes.Equal(k.Receive[:], v["meeting key from initiator"]) ||
		!bytes.Equal(k.Send[:], v["meeting key from responder"]) || !bytes.Equal(k.Export[:], v["meeting export"]) {
		t.Errorf("%x and %x", second, k.Receive)
	}
}

const vectorFlow, vectorCounter = 0x1234, 0x0102030405060708

func addDatagrams(v *table) {
	key := [KeySize]byte(v.add("data key", counting(0x21, KeySize)))
	plain := v.add("data plaintext", []byte("a datagram"))
	for _, c := range ciphers {
		v.add(fmt.Sprintf("sealed, %v, epoch 1, flow %#x, counter %#x", c, vectorFlow, vectorCounter),
			NewSealer(key, c).Seal(nil, 1, vectorFlow, vectorCounter, plain))
	}
}

func addProbes(v *table, x fixed) {
	seed := v.add("probe seed", counting(0x61, 32))
	k := DeriveProbeKeys(seed, x.secret, true)
	v.add("token of initiator", k.Local[:])
	v.add("token of responder", k.Remote[:])
	v.add("probe body", proto.AppendProbeBody(nil, probeBody))
	v.add("probe from initiator, counter 0x0102030405060708", k.Seal(nil, false, vectorCounter, probeBody, 0))
	v.add("answer from initiator, counter 0x0102030405060708, 100 bytes", k.Seal(nil, true, vectorCounter, probeBody, 100))
	peer := DeriveProbeKeys(seed, x.secret, false)
	v.add("probe from responder, counter 0", peer.Seal(nil, false, 0, proto.ProbeBody{}, 0))
}

func addMessages(t *testing.T, v *table, x fixed) {
	body := v.add("body", []byte("a body"))
	s := Sign(x.initiator, &x.secret, ContextMember, body)
	v.add("signature, context member", s.Signature)
	v.add("mac, context member", s.Mac)
	nonce := [chacha20poly1305.NonceSizeX]byte(v.add("nonce", counting(0x01, chacha20poly1305.NonceSizeX)))
	v.add("standing of the body", sealNonce(deriveKey(x.secret[:], nil, labelStanding), nonce, body))
	v.add("message of the body under the data key", sealNonce(deriveKey(v.value["data key"], nil, labelMessage), nonce, body))
	to, err := sealTo(x.initiator, x.responder.StaticKey(), body, x.ephemeral[0])
	check(t, err)
	v.add("body sealed by initiator for responder", to)
	bind := proto.Bind{Allocation: proto.Token(counting(0x11, 8)), Leg: 1, Counter: 9}
	bind.MAC = BindMAC(v.value["data key"], bind)
	v.add("bind under the data key, allocation counting from 11, leg 1, counter 9", proto.AppendBind(nil, bind))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readVectors(t *testing.T) map[string][]byte {
	t.Helper()
	file, err := os.ReadFile(vectorsFile)
	check(t, err)
	values := map[string][]byte{}
	for line := range strings.Lines(string(file)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok || line[0] == '#' {
			continue
		}
		b, err := hex.DecodeString(value)
		check(t, err)
		values[name] = b
	}
	return values
}

func TestVectorsSeal(t *testing.T) {
	v := computeVectors(t)
	if *update {
		check(t, os.WriteFile(vectorsFile, []byte(v.String()), 0o644))
	}
	want := readVectors(t)
	if len(want) != len(v.names) {
		t.Errorf("%d vectors in the file, %d computed", len(want), len(v.names))
	}
	for _, name := range v.names {
		if !bytes.Equal(v.value[name], want[name]) {
			t.Errorf("%s\n got %x\nwant %x", name, v.value[name], want[name])
		}
	}
}

// TestVectorsOpen takes only the file's bytes, as the far end would.
func TestVectorsOpen(t *testing.T) {
	v, x := readVectors(t), newFixed(t)
	r, err := Respond(x.responder, x.secret, v["message 1, flags 01"])
	check(t, err)
	if !bytes.Equal(r.PeerStatic, v["initiator static key"]) || !bytes.Equal(r.Payload, v["payload 1"]) {
		t.Errorf("message 1: %x, %q", r.PeerStatic, r.Payload)
	}
	i, _, err := initiate(x.initiator, x.responder.StaticKey(), x.secret, v["payload 1"], x.ephemeral[0], flagAES)
	check(t, err)
	k, payload, err := i.Finish(v["message 2, flags 01"])
	check(t, err)
	if k.Cipher != AES256GCM || !bytes.Equal(payload, v["payload 2"]) || !bytes.Equal(k.Send[:], v["key from initiator"]) ||
		!bytes.Equal(k.Receive[:], v["key from responder"]) || !bytes.Equal(k.Export[:], v["export"]) {
		t.Errorf("message 2: %x %q", k.Send, payload)
	}
	for _, c := range ciphers {
		o := NewOpener([KeySize]byte(v["data key"]), c)
		name := fmt.Sprintf("sealed, %v, epoch 1, flow %#x, counter %#x", c, vectorFlow, vectorCounter)
		got, err := o.Open(nil, v[name], vectorFlow, vectorCounter)
		if err != nil || !bytes.Equal(got, v["data plaintext"]) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	probes := DeriveProbeKeys(v["probe seed"], x.secret, false)
	_, body, err := probes.Open(v["answer from initiator, counter 0x0102030405060708, 100 bytes"])
	if err != nil || body != probeBody {
		t.Errorf("answer: %+v, %v", body, err)
	}
	got, err := OpenFrom(x.responder, x.initiator.StaticKey(), v["body sealed by initiator for responder"])
	if err != nil || !bytes.Equal(got, v["body"]) {
		t.Errorf("sealed for a member: %q, %v", got, err)
	}
	openOldMessages(t, v, x)
	openMeeting(t, v, x)
}

func openOldMessages(t *testing.T, v map[string][]byte, x fixed) {
	got, err := OpenStanding(x.secret, v["standing of the body"])
	if err != nil || !bytes.Equal(got, v["body"]) {
		t.Errorf("standing: %q, %v", got, err)
	}
	got, err = OpenMessage([KeySize]byte(v["data key"]), v["message of the body under the data key"])
	if err != nil || !bytes.Equal(got, v["body"]) {
		t.Errorf("message: %q, %v", got, err)
	}
	s := &proto.Signed{Body: v["body"], Signer: v["initiator key"], Signature: v["signature, context member"], Mac: v["mac, context member"]}
	if err := Verify(s, &x.secret, ContextMember, v["initiator key"]); err != nil {
		t.Error(err)
	}
	bind, err := proto.ParseBind(v["bind under the data key, allocation counting from 11, leg 1, counter 9"])
	if err != nil || !CheckBind(v["data key"], bind) || bind.Leg != 1 || bind.Counter != 9 {
		t.Errorf("bind: %+v, %v", bind, err)
	}
}
