package portmap

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"rendezvous/internal/dgram"
)

// UPnP's error codes that something can be done about (UPnP IGD
// WANIPConnection:1 section 2.4.16).
const (
	upnpInvalidArgs   = 402
	upnpActionFailed  = 501
	upnpNoSuchEntry   = 714 // NoSuchEntryInArray
	upnpConflict      = 718 // ConflictInMappingEntry: the port is another's
	upnpSamePorts     = 724 // SamePortValuesRequired
	upnpOnlyPermanent = 725 // OnlyPermanentLeasesSupported
	upnpConflicts     = 729 // ConflictWithOtherMechanisms
)

const (
	description = "rendezvous agent"
	// otherPorts is how many other external ports are tried where the one
	// wanted is another's.
	otherPorts = 3
	// maxHeader bounds the headers of an answer.
	maxHeader = 8 << 10
)

// upnpClient speaks UPnP with one service of a gateway.
type upnpClient struct {
	road    road
	http    *http.Client
	service service
	at      netip.Addr
	// permanent says that the gateway grants leases only for ever.
	permanent bool
}

// findUPnP searches, reads the description and takes the first connection that
// has an external address.
func findUPnP(ctx context.Context, n dgram.Network, tcp dgram.Streams, r road) (client, error) {
	at, err := findDevice(ctx, n, r)
	if err != nil {
		return nil, err
	}
	c := &upnpClient{road: r, http: onlyTo(tcp, r)}
	services, err := c.describe(ctx, at)
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, s := range services {
		if _, err = onGateway(s.control, r.gateway); err == nil {
			c.service = s
			c.at, err = c.external(ctx)
		}
		if err == nil {
			return c, nil
		}
		faults = append(faults, err)
	}
	return nil, faults[0]
}

// onlyTo is an HTTP client that reaches nobody but the gateway, follows
// nothing, keeps nothing open and believes no long header.
func onlyTo(tcp dgram.Streams, r road) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				to, err := netip.ParseAddrPort(addr)
				if err != nil || to.Addr().Unmap() != r.gateway.Unmap() {
					return nil, faultf(otherHost, "UPnP: %s is not the gateway %v", short(addr), r.gateway)
				}
				return tcp.DialTCP(ctx, netip.AddrPortFrom(r.source, 0), to)
			},
		},
	}
}

func (c *upnpClient) protocol() Protocol { return UPnP }

func (c *upnpClient) address() netip.Addr { return c.at }

// describe fetches the description.
func (c *upnpClient) describe(ctx context.Context, at *url.URL) ([]service, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, faultf(badAnswer, "UPnP: %q: %v", short(at.String()), err)
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, faultf(badAnswer, "UPnP: its description at %s is answered with %s", short(at.String()), short(resp.Status))
	}
	return decodeDescription(resp.Body, at)
}

// do sends a request; a redirect is an error.
func (c *upnpClient) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, faultf(noAnswer, "UPnP: %s: no answer in %v", short(req.URL.String()), askWithin)
	case err != nil:
		var f *fault
		if errors.As(err, &f) {
			return nil, f
		}
		return nil, faultf(badAnswer, "UPnP: %v", err)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		_ = resp.Body.Close()
		return nil, faultf(otherHost, "UPnP: %s sends us to %q; that is not followed", short(req.URL.String()), short(resp.Header.Get("Location")))
	}
	return resp, nil
}

// argument is one of an action's.
type argument struct{ name, value string }

// act has an action done and returns the named field of its answer.
func (c *upnpClient) act(ctx context.Context, action string, want string, args ...argument) (string, error) {
	fields, err := c.ask(ctx, action, []string{want}, args...)
	return strings.TrimSpace(fields[want]), err
}

// ask has an action done and returns the named fields of its answer (UPnP
// Device Architecture 1.1 section 3.2.1).
func (c *upnpClient) ask(ctx context.Context, action string, want []string, args ...argument) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:` + action + ` xmlns:u="` + c.service.kind + `">`)
	for _, a := range args {
		b.WriteString("<" + a.name + ">")
		_ = xml.EscapeText(&b, []byte(a.value)) // a bytes.Buffer takes all
		b.WriteString("</" + a.name + ">")
	}
	b.WriteString("</u:" + action + "></s:Body></s:Envelope>")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.service.control.String(), &b)
	if err != nil {
		return nil, faultf(badAnswer, "UPnP: %q: %v", short(c.service.control.String()), err)
	}
	req.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
	req.Header["SOAPAction"] = []string{`"` + c.service.kind + "#" + action + `"`} // some look for this very spelling
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	fields, err := decodeFields(resp.Body, append(want, "errorCode", "errorDescription")...)
	if resp.StatusCode == http.StatusOK && err == nil {
		return fields, nil
	}
	return nil, refusalOf(action, resp.StatusCode, fields, err)
}

// refusalOf is why an action was not done.
func refusalOf(action string, status int, fields map[string]string, err error) error {
	if err != nil {
		return err
	}
	code, err := strconv.ParseUint(strings.TrimSpace(fields["errorCode"]), 10, 16)
	if err != nil {
		return faultf(badAnswer, "UPnP: %s is answered with status %d and no code", action, status)
	}
	f := faultf(refusedIt, "UPnP: %s: %q (code %d)", action, short(strings.TrimSpace(fields["errorDescription"])), code)
	f.code = int(code)
	return f
}

// external asks for the gateway's address.
func (c *upnpClient) external(ctx context.Context) (netip.Addr, error) {
	text, err := c.act(ctx, "GetExternalIPAddress", "NewExternalIPAddress")
	if err != nil {
		return netip.Addr{}, err
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, faultf(badAddress, "UPnP: its external address is %q", short(text))
	}
	return ip.Unmap(), checkAddress(UPnP, ip.Unmap())
}

func (c *upnpClient) hold(ctx context.Context, p Port, external netip.AddrPort) (grant, error) {
	at, err := c.external(ctx)
	if err != nil {
		return grant{}, err
	}
	port := external.Port()
	if p.External != 0 {
		if err := c.mayTake(ctx, p, port); err != nil {
			return grant{}, err
		}
		if err := c.add(ctx, p, port); err != nil {
			return grant{}, err
		}
		return c.held(at, port)
	}
	for range otherPorts + 1 {
		err = c.add(ctx, p, port)
		if code := codeOf(err); code != upnpConflict && code != upnpConflicts {
			break
		}
		port = uint16(1<<14 + rand.IntN(1<<15))
	}
	if codeOf(err) == upnpSamePorts {
		port = p.Number
		err = c.add(ctx, p, port)
	}
	if err != nil {
		return grant{}, err
	}
	return c.held(at, port)
}

// held is what was granted.
func (c *upnpClient) held(at netip.Addr, port uint16) (grant, error) {
	c.at = at
	g := grant{external: netip.AddrPortFrom(at, port), lease: leaseWanted, permanent: c.permanent}
	return g, g.check(UPnP, false)
}

// entry is a mapping as the gateway tells it.
type entry struct {
	client      netip.Addr
	port        uint16
	description string
}

// nameOf are the arguments that name a mapping, in their order.
func nameOf(t Transport, external uint16) []argument {
	return []argument{
		{"NewRemoteHost", ""},
		{"NewExternalPort", strconv.Itoa(int(external))},
		{"NewProtocol", strings.ToUpper(t.String())},
	}
}

// entryOf asks who has an external port; nil: nobody.
func (c *upnpClient) entryOf(ctx context.Context, t Transport, external uint16) (*entry, error) {
	fields, err := c.ask(ctx, "GetSpecificPortMappingEntry", []string{"NewInternalClient", "NewInternalPort", "NewPortMappingDescription"},
		nameOf(t, external)...)
	switch {
	case codeOf(err) == upnpNoSuchEntry:
		return nil, nil
	case err != nil:
		return nil, err
	}
	client, err1 := netip.ParseAddr(strings.TrimSpace(fields["NewInternalClient"]))
	port, err2 := strconv.ParseUint(strings.TrimSpace(fields["NewInternalPort"]), 10, 16)
	if err1 != nil || err2 != nil {
		return nil, faultf(badAnswer, "UPnP: port %d leads to %q, port %q", external, short(fields["NewInternalClient"]), short(fields["NewInternalPort"]))
	}
	return &entry{client.Unmap(), uint16(port), strings.TrimSpace(fields["NewPortMappingDescription"])}, nil
}

// mayTake says whether a port that a service may have is free: a gateway has
// each host replace its own mappings, whichever program made them (UPnP IGD
// WANIPConnection:1 section 2.4.16).
func (c *upnpClient) mayTake(ctx context.Context, p Port, external uint16) error {
	e, err := c.entryOf(ctx, p.Transport, external)
	if err != nil {
		return err
	}
	if e == nil || *e == (entry{c.road.source, p.Number, description}) {
		return nil
	}
	f := faultf(refusedIt, "UPnP: port %d leads to %v, port %d, already (%q)", external, e.client, e.port, short(e.description))
	f.code = upnpConflict
	return f
}

// add makes the mapping for a time, or for ever where the gateway knows
// nothing else. Some say so with other codes than the one for it.
func (c *upnpClient) add(ctx context.Context, p Port, external uint16) error {
	if !c.permanent {
		err := c.addFor(ctx, p, external, leaseWanted)
		if code := codeOf(err); code != upnpOnlyPermanent && code != upnpInvalidArgs && code != upnpActionFailed {
			return err
		}
	}
	err := c.addFor(ctx, p, external, 0)
	c.permanent = c.permanent || err == nil
	return err
}

func (c *upnpClient) addFor(ctx context.Context, p Port, external uint16, lease time.Duration) error {
	_, err := c.act(ctx, "AddPortMapping", "", append(nameOf(p.Transport, external),
		argument{"NewInternalPort", strconv.Itoa(int(p.Number))},
		argument{"NewInternalClient", c.road.source.String()},
		argument{"NewEnabled", "1"},
		argument{"NewPortMappingDescription", description},
		argument{"NewLeaseDuration", fmt.Sprint(int(lease / time.Second))})...)
	return err
}

func (c *upnpClient) release(ctx context.Context, p Port, external netip.AddrPort) error {
	_, err := c.act(ctx, "DeletePortMapping", "", nameOf(p.Transport, external.Port())...)
	return err
}

// codeOf is the code that a gateway refused with; 0: none.
func codeOf(err error) int {
	var f *fault
	if errors.As(err, &f) {
		return f.code
	}
	return 0
}
