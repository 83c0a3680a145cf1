package portmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/natlab/gateway"
)

// quirk is a gateway with a fault, and what is to come of it.
type quirk struct {
	options   gateway.Options
	fault     string // told once; empty: none
	by        Protocol
	maps      bool // a mapping comes of it all the same
	neighbour bool // the neighbour answers as well, or in its place
	heavy     bool // looked at for less long
}

// onMap changes answers of MAP, of PCP or NAT-PMP.
func onMap(change func(b []byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		if b[0] == 2 && b[1] == 0x81 || b[0] == 0 && (b[1] == 129 || b[1] == 130) {
			return change(b)
		}
		return b
	}
}

// at is where a field of a MAP answer stands.
func at(pcp, pmp int, set ...byte) func([]byte) []byte {
	return onMap(func(b []byte) []byte {
		i := pmp
		if b[0] == 2 {
			i = pcp
		}
		copy(b[i:], set)
		return b
	})
}

func page(path, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		_, _ = io.WriteString(w, body)
		return true
	}
}

const (
	describes = "/desc.xml"
	controls  = "/ctl/IPConn"
)

// endless writes until nobody reads any more.
func endless(path, head, piece string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		_, _ = io.WriteString(w, head)
		for range 1 << 16 {
			if _, err := io.WriteString(w, strings.Repeat(piece, 16)); err != nil {
				break
			}
		}
		return true
	}
}

// drips writes a little at a time.
func drips(w http.ResponseWriter, r *http.Request) bool {
	for range 1000 {
		if _, err := io.WriteString(w, "<a>"); err != nil || r.Context().Err() != nil {
			break
		}
		w.(http.Flusher).Flush()
		time.Sleep(time.Second)
	}
	return true
}

func redirects(to string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		return true
	}
}

func describedAt(control string) string {
	return `<root><device><serviceList><service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>` +
		control + `</controlURL></service></serviceList></device></root>`
}

func udpQuirks() map[string]quirk {
	all := make(map[string]quirk)
	for name, o := range map[string]gateway.Options{"pcp": {PCP: true}, "nat-pmp": {NATPMP: true}} {
		by := PCP
		if o.NATPMP {
			by = NATPMP
		}
		add := func(what string, q quirk) {
			q.options.PCP, q.options.NATPMP, q.by = o.PCP, o.NATPMP, by
			all[name+": "+what] = q
		}
		garbage := bytes.Repeat([]byte{0xff}, 60)
		add("garbage", quirk{options: gateway.Options{Answer: func([]byte) []byte { return garbage }}, fault: badAnswer})
		add("garbage for mappings", quirk{options: gateway.Options{Answer: onMap(func([]byte) []byte { return garbage })}, fault: badAnswer})
		add("nothing at all", quirk{options: gateway.Options{Answer: func([]byte) []byte { return []byte{} }}, fault: badAnswer})
		add("cut short", quirk{options: gateway.Options{Answer: onMap(func(b []byte) []byte { return b[:12] })}, fault: badAnswer})
		add("64 KiB", quirk{options: gateway.Options{Answer: func(b []byte) []byte { return append(b, make([]byte, 1<<10+200)...) }}, fault: badAnswer})
		add("port 0", quirk{options: gateway.Options{Answer: at(42, 10, 0, 0)}, fault: badPort})
		add("another internal port", quirk{options: gateway.Options{Answer: at(40, 8, 1, 2)}, fault: badAnswer})
		add("lease 0", quirk{options: gateway.Options{Answer: at(4, 12, 0, 0, 0, 0)}, fault: badLease})
		add("lease 1 s", quirk{options: gateway.Options{Answer: at(4, 12, 0, 0, 0, 1)}, fault: badLease})
		add("lease for ever", quirk{options: gateway.Options{Answer: at(4, 12, 255, 255, 255, 255)}, maps: true})
		add("another host answers", quirk{options: gateway.Options{Answer: func([]byte) []byte { return nil }}, neighbour: true})
		add("another host answers too", quirk{maps: true, neighbour: true})
		add("slow", quirk{options: gateway.Options{Slow: 2 * time.Second}, maps: true})
		add("far too slow", quirk{options: gateway.Options{Slow: 20 * time.Second}})
		add("the port is taken", quirk{options: gateway.Options{Taken: []uint16{port}}, maps: true})
		add("behind another NAT", quirk{options: gateway.Options{External: netip.MustParseAddr("100.64.0.9")}, maps: true})
		for _, ip := range []string{"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"} {
			add("its address is "+ip, quirk{options: gateway.Options{External: netip.MustParseAddr(ip)}, fault: badAddress})
		}
		for code := byte(1); code < 16; code++ {
			add(fmt.Sprintf("refuses with %d", code), quirk{fault: refusedIt, options: gateway.Options{Answer: onMap(func(b []byte) []byte {
				b[3] = code
				return b
			})}})
		}
	}
	all["pcp: another nonce"] = quirk{options: gateway.Options{PCP: true, Answer: at(24, 0, 1, 2, 3, 4)}, fault: badAnswer, by: PCP}
	all["pcp: an error for all time"] = quirk{fault: refusedIt, by: PCP, options: gateway.Options{PCP: true, Answer: onMap(func(b []byte) []byte {
		b[3] = 8
		binary.BigEndian.PutUint32(b[4:], 1<<32-1)
		return b
	})}}
	return all
}

func upnpQuirks() map[string]quirk {
	all := make(map[string]quirk)
	add := func(what string, q quirk) {
		q.options.UPnP, q.by = true, UPnP
		all["upnp: "+what] = q
	}
	const neighbour = "http://192.168.1.3:5000"
	add("garbage to the search", quirk{options: gateway.Options{Answer: func([]byte) []byte { return []byte("garbage\r\n\r\n") }}, fault: badAnswer})
	add("a device of another kind", quirk{fault: badAnswer, options: gateway.Options{Answer: func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte("InternetGatewayDevice"), []byte("MediaServer"))
	}}})
	add("described by another host", quirk{options: gateway.Options{Location: neighbour + describes}, fault: otherHost})
	add("described by a name", quirk{options: gateway.Options{Location: "http://router.example/desc.xml"}, fault: otherHost})
	add("described nowhere", quirk{options: gateway.Options{Location: "http://192.168.1.1:0/"}, fault: badAnswer})
	add("described in a file", quirk{options: gateway.Options{Location: "file:///etc/passwd"}, fault: otherHost})
	add("described over TLS elsewhere", quirk{options: gateway.Options{Location: "https://203.0.113.5/"}, fault: otherHost})
	add("a port where nobody listens", quirk{options: gateway.Options{Location: "http://192.168.1.1:81/"}, fault: badAnswer})
	add("controlled by another host", quirk{options: gateway.Options{Page: page(describes, describedAt(neighbour+controls))}, fault: otherHost})
	add("its base is another host", quirk{fault: otherHost, options: gateway.Options{Page: page(describes,
		strings.Replace(describedAt(controls), "<root>", "<root><URLBase>"+neighbour+"</URLBase>", 1))}})
	add("its base is the internet", quirk{fault: otherHost, options: gateway.Options{Page: page(describes, describedAt("http://203.0.113.5/x"))}})
	add("redirects to another host", quirk{options: gateway.Options{Page: redirects(neighbour + describes)}, fault: otherHost})
	add("redirects to the internet", quirk{options: gateway.Options{Page: redirects("http://203.0.113.5/")}, fault: otherHost})
	add("redirects to itself", quirk{options: gateway.Options{Page: redirects(describes)}, fault: otherHost})
	add("endless description", quirk{heavy: true, options: gateway.Options{Page: endless(describes, "<root>", "<device><x/></device>")}, fault: tooLong})
	add("endless depth", quirk{heavy: true, options: gateway.Options{Page: endless(describes, "<root>", "<device><deviceList>")}, fault: badAnswer})
	add("endless name", quirk{heavy: true, options: gateway.Options{Page: endless(describes, "<", "a")}, fault: tooLong})
	add("endless answer", quirk{heavy: true, options: gateway.Options{Page: endless(controls, "<x>", "<NewExternalIPAddress>1")}, fault: tooLong})
	add("drips", quirk{options: gateway.Options{Page: drips}, fault: badAnswer})
	add("garbage description", quirk{options: gateway.Options{Page: page(describes, "\x00\x01<<>>")}, fault: badAnswer})
	add("maps nothing", quirk{options: gateway.Options{Page: page(describes, "<root><device/></root>")}, fault: badAnswer})
	add("garbage answer", quirk{options: gateway.Options{Page: page(controls, "\x00\x01<<>>")}, fault: badAnswer})
	add("no address", quirk{options: gateway.Options{Page: page(controls, "<NewExternalIPAddress></NewExternalIPAddress>")}, fault: badAddress})
	add("its address is text", quirk{options: gateway.Options{Page: page(controls, "<NewExternalIPAddress>"+strings.Repeat("x", 1000)+"</NewExternalIPAddress>")}, fault: badAddress})
	add("its address is 0.0.0.0", quirk{options: gateway.Options{External: netip.IPv4Unspecified()}, fault: badAddress})
	add("its address is IPv6", quirk{options: gateway.Options{External: netip.MustParseAddr("2001:db8::1")}, fault: badAddress})
	add("behind another NAT", quirk{options: gateway.Options{External: netip.MustParseAddr("192.168.178.2")}, maps: true})
	add("718, the port is taken", quirk{options: gateway.Options{Taken: []uint16{port}}, maps: true})
	add("725, leases for ever only", quirk{options: gateway.Options{OnlyPermanent: true}, fault: noLeaseTerms, maps: true})
	add("401, invalid action", quirk{fault: refusedIt, options: gateway.Options{Page: refuses(401)}})
	add("606, not authorized", quirk{fault: refusedIt, options: gateway.Options{Page: refuses(606)}})
	add("718, always", quirk{fault: refusedIt, options: gateway.Options{Page: refuses(718)}})
	add("an error without code", quirk{fault: badAnswer, options: gateway.Options{Page: refuses(-1)}})
	add("another host answers", quirk{options: gateway.Options{Answer: func([]byte) []byte { return nil }}, neighbour: true})
	add("another host answers too", quirk{maps: true, neighbour: true})
	add("slow", quirk{options: gateway.Options{Slow: 2 * time.Second}, maps: true})
	return all
}

func refuses(code int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Contains(body, []byte("AddPortMapping")) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = fmt.Fprintf(w, "<e><errorCode>%d</errorCode></e>", code)
		return true
	}
}

// Gateways as users met them (tailscale#5502, #13785, #14344, #18348; NetBird
// PR #5826): a fault is told once, nobody but the gateway is spoken to, and
// what a gateway says costs little time.
func TestQuirks(t *testing.T) {
	t.Parallel()
	all := udpQuirks()
	for name, q := range upnpQuirks() {
		all[name] = q
	}
	for name, q := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) { q.test(t) })
		})
	}
}

func (q quirk) test(t *testing.T) {
	w := newWorld(t, q.options)
	if q.neighbour {
		silent := q.options.Answer != nil
		w.gw.Change(func(o *gateway.Options) { o.Also, o.OthersOnly, o.Answer = w.neighbour, silent, nil })
	}
	m, stop := w.run(udpPortOf(port))
	began := w.lab.SentTo(w.host.Addr())
	time.Sleep(10 * time.Second)
	rounds := 18
	if q.heavy {
		rounds = 0
	}
	for range rounds {
		if got := len(m.Mappings()); (got == 1) != q.maps {
			t.Fatalf("%d mappings; the gateway was asked %v", got, w.gw.Asked())
		}
		time.Sleep(10 * time.Minute)
	}
	if q.maps {
		q.holds(t, w, only(t, m))
	}
	told := w.reasons(q.by)
	if q.fault != "" && !slices.Contains(told, q.fault) {
		t.Errorf("told of %v, want %s", told, q.fault)
	}
	slices.Sort(told)
	if len(slices.Compact(slices.Clone(told))) != len(told) {
		t.Errorf("told more than once: %v", told)
	}
	if n := w.lab.SentTo(w.neighbour.Addr()) + w.lab.SentTo(w.stranger.Addr()); n != 0 {
		t.Errorf("%d datagrams and segments went to others than the gateway", n)
	}
	if got := w.lab.SentTo(w.host.Addr()) - began; got > 10_000 { // five descriptions that fill a TCP window
		t.Errorf("%d datagrams and segments of the gateway's were taken", got)
	}
	if n := w.gw.Count("zero"); n != 0 {
		t.Errorf("port 0 was asked for %d times", n)
	}
	over := time.Now()
	stop()
	if took := time.Since(over); took > leaveWithin {
		t.Errorf("the end took %v", took)
	}
}

// holds looks at a mapping that came in spite of the quirk.
func (q quirk) holds(t *testing.T, w *world, got Mapping) {
	t.Helper()
	if got.External.Port() == 0 || got.Internal.Port() != port || !w.reaches(netip.AddrPortFrom(w.nat.Addr(), got.External.Port()), v4(port)) {
		t.Errorf("%+v does not lead to us; the gateway has %v", got, w.gw.Held())
	}
	if slices.Contains(q.options.Taken, got.External.Port()) {
		t.Errorf("%+v is another's", got)
	}
	if left := time.Until(got.Until); !q.options.OnlyPermanent && left > leaseWanted {
		t.Errorf("it is believed in for %v", left)
	}
}
