package portmap

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"rendezvous/internal/dgram"
)

// SSDP's constants (UPnP Device Architecture 1.1 section 1.3).
const (
	ssdpPort    = 1900
	ssdpLongest = 4096
	ssdpAgain   = 500 * time.Millisecond // doubling
)

var ssdpGroup = netip.AddrPortFrom(netip.AddrFrom4([4]byte{239, 255, 255, 250}), ssdpPort)

// igdTypes are what is searched for. A device of version 2 answers to both.
var igdTypes = [...]string{"urn:schemas-upnp-org:device:InternetGatewayDevice:1", "urn:schemas-upnp-org:device:InternetGatewayDevice:2"}

// search is M-SEARCH (UPnP Device Architecture 1.1 section 1.3.2).
func search(kind string) []byte {
	return []byte("M-SEARCH * HTTP/1.1\r\nHOST: " + ssdpGroup.String() + "\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: " + kind + "\r\n\r\n")
}

// decodeSSDP reads an answer to a search: where the device describes itself.
func decodeSSDP(b []byte) (*url.URL, error) {
	if len(b) > ssdpLongest {
		return nil, faultf(tooLong, "UPnP: an answer of %d bytes to a search", len(b))
	}
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
	if err != nil {
		return nil, faultf(badAnswer, "UPnP: an answer to a search: %v", err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, faultf(badAnswer, "UPnP: a search was answered with %d", r.StatusCode)
	}
	if kind := r.Header.Get("ST"); !slices.Contains(igdTypes[:], kind) {
		return nil, faultf(badAnswer, "UPnP: %q answered a search for gateways", short(kind))
	}
	u, err := url.Parse(r.Header.Get("Location"))
	if err != nil {
		return nil, faultf(badAnswer, "UPnP: its description is at %q: %v", short(r.Header.Get("Location")), err)
	}
	return u, nil
}

// short is text of a stranger's, for an error.
func short(s string) string { return fmt.Sprintf("%.60s", s) }

// onGateway is the address in u if that is the gateway's own, over plain HTTP.
func onGateway(u *url.URL, gateway netip.Addr) (netip.AddrPort, error) {
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil || ip.Unmap() != gateway.Unmap() || u.Scheme != "http" {
		return netip.AddrPort{}, faultf(otherHost, "UPnP: the gateway %v sends us to %q, which is not its own; it is not asked", gateway, short(u.String()))
	}
	port := uint64(80)
	if text := u.Port(); text != "" {
		if port, err = strconv.ParseUint(text, 10, 16); err != nil || port == 0 {
			return netip.AddrPort{}, faultf(badAnswer, "UPnP: %q has no port", short(u.String()))
		}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}

// findDevice searches for the gateway's UPnP, at the gateway itself and in the
// group: some listen only there. What others answer is not followed.
func findDevice(ctx context.Context, n dgram.Network, r road) (*url.URL, error) {
	conn, err := n.ListenUDP(netip.AddrPortFrom(r.source, 0))
	if err != nil {
		return nil, faultf(unreachable, "search for UPnP from %v: %v", r.source, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	defer stop()
	var found *url.URL
	take := func(b dgram.Burst) (bool, error) {
		if b.Addr.Addr().Unmap() != r.gateway.Unmap() {
			return false, faultf(otherHost, "UPnP: %v answered a search, and is not the gateway %v; it is not asked", b.Addr.Addr(), r.gateway)
		}
		u, err := decodeSSDP(b.Buf)
		if err == nil {
			_, err = onGateway(u, r.gateway)
		}
		found = u
		return err == nil, err
	}
	q := &questions{conn: conn, ends: time.Now().Add(askWithin)}
	for pause := ssdpAgain; ; pause *= 2 {
		for _, kind := range igdTypes {
			_ = conn.Write(dgram.One(netip.AddrPortFrom(r.gateway, ssdpPort), search(kind)))
			_ = conn.Write(dgram.One(ssdpGroup, search(kind)))
		}
		done, err := q.hear(ctx, time.Now().Add(pause), take)
		if err != nil {
			return nil, err
		}
		if done {
			return found, nil
		}
	}
}
