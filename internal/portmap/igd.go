package portmap

import (
	"encoding/xml"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
)

// maxDocument bounds a description and an answer; those of home routers have
// some 10 KiB.
const maxDocument = 128 << 10

// wanServices are those that map ports, best first (UPnP IGD 2 and 1).
var wanServices = [...]string{"urn:schemas-upnp-org:service:WANIPConnection:2", "urn:schemas-upnp-org:service:WANIPConnection:1",
	"urn:schemas-upnp-org:service:WANPPPConnection:1"}

// maxServices is how many of a gateway's connections are asked whether they are
// up.
const maxServices = 4

// service is one of the gateway's that maps ports.
type service struct {
	kind    string
	control *url.URL
}

// device is what is read of a description (UPnP Device Architecture 1.1 section
// 2.3).
type device struct {
	Services []struct {
		Kind    string `xml:"serviceType"`
		Control string `xml:"controlURL"`
	} `xml:"serviceList>service"`
	Devices []device `xml:"deviceList>device"`
}

// decodeDescription reads a device's description: the services that map ports.
// The addresses in it are not judged.
func decodeDescription(r io.Reader, at *url.URL) ([]service, error) {
	var root struct {
		Base   string `xml:"URLBase"`
		Device device `xml:"device"`
	}
	bounded := &bounded{r: r, left: maxDocument}
	if err := newXML(bounded).Decode(&root); err != nil {
		return nil, bounded.why("its description", err)
	}
	base := at
	if text := strings.TrimSpace(root.Base); text != "" {
		u, err := at.Parse(text)
		if err != nil {
			return nil, faultf(badAnswer, "UPnP: the base %q of its description: %v", short(text), err)
		}
		base = u
	}
	var found []service
	for rest := []device{root.Device}; len(rest) > 0; rest = append(rest[1:], rest[0].Devices...) {
		for _, s := range rest[0].Services {
			kind := strings.TrimSpace(s.Kind)
			if !slices.Contains(wanServices[:], kind) {
				continue
			}
			u, err := base.Parse(strings.TrimSpace(s.Control))
			if err != nil {
				return nil, faultf(badAnswer, "UPnP: %q, where it is controlled: %v", short(s.Control), err)
			}
			found = append(found, service{kind, u})
		}
	}
	if len(found) == 0 {
		return nil, faultf(badAnswer, "UPnP: it describes no service that maps ports")
	}
	slices.SortStableFunc(found, func(a, b service) int {
		return slices.Index(wanServices[:], a.kind) - slices.Index(wanServices[:], b.kind)
	})
	return found[:min(len(found), maxServices)], nil
}

// newXML is a decoder that takes what routers write: they name all kinds of
// character sets and mean ASCII.
func newXML(r io.Reader) *xml.Decoder {
	d := xml.NewDecoder(r)
	d.Strict = false
	d.CharsetReader = func(_ string, r io.Reader) (io.Reader, error) { return r, nil }
	return d
}

// bounded ends after so many bytes, whatever comes.
type bounded struct {
	r    io.Reader
	left int
}

var errTooLong = errors.New("there is no end to it")

// Read is the reader's, up to the bound.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// why is a fault of reading something.
func (b *bounded) why(what string, err error) error {
	if errors.Is(err, errTooLong) {
		return faultf(tooLong, "UPnP: %s has more than %d bytes", what, maxDocument)
	}
	return faultf(badAnswer, "UPnP: %s: %v", what, err)
}

// maxText bounds one text that is taken from an answer.
const maxText = 256

// decodeFields reads the texts of the named elements of an answer to an action,
// wherever they stand in it (UPnP Device Architecture 1.1 section 3.2).
func decodeFields(r io.Reader, names ...string) (map[string]string, error) {
	bounded := &bounded{r: r, left: maxDocument}
	d := newXML(bounded)
	found := make(map[string]string)
	var in string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, bounded.why("an answer", err)
		}
		switch t := token.(type) {
		case xml.StartElement:
			in = ""
			if slices.Contains(names, t.Name.Local) {
				in = t.Name.Local
			}
		case xml.EndElement:
			in = ""
		case xml.CharData:
			if in != "" && len(found[in])+len(t) <= maxText {
				found[in] += string(t)
			}
		}
	}
}
