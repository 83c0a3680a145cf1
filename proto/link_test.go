package proto

import (
	"reflect"
	"strings"
	"testing"
)

func fixedLink(coordinator string, secret bool) Link {
	l := Link{Coordinator: coordinator}
	for i := range l.Pin {
		l.Pin[i] = byte(i)
	}
	for i := range l.Token {
		l.Token[i] = 0xf0 + byte(i)
	}
	if secret {
		l.Secret = make([]byte, 32)
		l.Secret[0], l.Secret[31] = 0xfb, 0xff // - and _ in base64
	}
	return l
}

const (
	linkPin    = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	linkToken  = "8PHy8_T19vf4-fr7_P3-_w"
	linkSecret = "-wAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8"
)

func veiledLink(coordinator string) Link {
	l := fixedLink(coordinator, true)
	l.Veil = true
	return l
}

func TestLinkVectors(t *testing.T) {
	for want, l := range map[string]Link{
		"rdv://203.0.113.10:443/#" + linkPin + "." + linkToken:                           fixedLink("203.0.113.10:443", false),
		"rdv://vps.example.net:8443/#" + linkPin + "." + linkToken + "." + linkSecret:    fixedLink("vps.example.net:8443", true),
		"rdv://[2001:db8::7]:443/#" + linkPin + "." + linkToken + "." + linkSecret:       fixedLink("[2001:db8::7]:443", true),
		"rdv://a-b_c.example:65535/#" + linkPin + "." + linkToken + "." + linkSecret:     fixedLink("a-b_c.example:65535", true),
		"rdv://vps.example.net:443/veil#" + linkPin + "." + linkToken + "." + linkSecret: veiledLink("vps.example.net:443"),
		"rdv://xn--bcher-kva.example:1/#" + linkPin + "." + linkToken + "." + linkSecret: fixedLink("xn--bcher-kva.example:1", true),
	} {
		if got := l.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		for _, s := range []string{want, "  " + want + "\n", want + "\r\n"} {
			if got, err := ParseLink(s); err != nil || !reflect.DeepEqual(got, l) {
				t.Errorf("%q: %+v, %v", s, got, err)
			}
		}
	}
}

func TestLinkRefuses(t *testing.T) {
	good := fixedLink("vps.example.net:443", true).String()
	if _, err := ParseLink(good); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"nothing":               "",
		"another scheme":        strings.Replace(good, "rdv", "https", 1),
		"no fragment":           good[:strings.Index(good, "#")],
		"cut off":               good[:len(good)-1],
		"cut off at a part":     good[:strings.Index(good, ".")],
		"no port":               strings.Replace(good, ":443", "", 1),
		"empty port":            strings.Replace(good, ":443", ":", 1),
		"port 0":                strings.Replace(good, ":443", ":0", 1),
		"port too high":         strings.Replace(good, ":443", ":65536", 1),
		"port by name":          strings.Replace(good, ":443", ":https", 1),
		"no host":               strings.Replace(good, "vps.example.net", "", 1),
		"space in the host":     strings.Replace(good, "vps.", "vps ", 1),
		"user in the host":      strings.Replace(good, "vps.", "me@vps.", 1),
		"path in the host":      strings.Replace(good, ":443/", ":443/x/", 1),
		"bare IPv6":             strings.Replace(good, "vps.example.net", "2001:db8::7", 1),
		"zone":                  strings.Replace(good, "vps.example.net", "[fe80::1%eth0]", 1),
		"long host":             strings.Replace(good, "vps", strings.Repeat("a", 300), 1),
		"a fourth part":         good + "." + linkToken,
		"an empty third part":   good[:strings.LastIndex(good, ".")+1],
		"padding":               good + "=",
		"a line break in it":    good[:len(good)-10] + "\n" + good[len(good)-10:],
		"a space in it":         good[:len(good)-10] + " " + good[len(good)-10:],
		"the other base64":      strings.Replace(good, "-w", "+w", 1),
		"a second spelling":     good[:len(good)-1] + "9",
		"pin and token swapped": "rdv://vps.example.net:443/#" + linkToken + "." + linkPin,
	} {
		_, err := ParseLink(s)
		if err == nil {
			t.Errorf("%s was taken: %s", name, s)
			continue
		}
		for _, secret := range []string{linkToken, linkSecret, linkSecret[:20]} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error repeats what is secret: %v", name, err)
			}
		}
	}
}
