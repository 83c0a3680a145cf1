//go:build linux

package debian

import "testing"

func TestMirror(t *testing.T) {
	tests := []struct {
		name, text string
		stanzas    bool
		want       source
	}{
		{"stanza", "Types: deb\n# a note: more\nURIs: http://mirror.test/debian\nSuites: one one-updates\nComponents: main\nSigned-By: /keys/a.gpg\n\n" +
			"Types: deb\nURIs: http://other.test/\nSuites: two\n", true, source{"http://mirror.test/debian", "one", "/keys/a.gpg"}},
		{"another stanza", "Types: deb\nURIs: http://mirror.test/debian\nSuites: two\n\nTypes: deb deb-src\nURIs: http://other.test/ http://x.test/\nSuites: one\n",
			true, source{"http://other.test/", "one", ""}},
		{"sources alone", "Types: deb-src\nURIs: http://mirror.test/debian\nSuites: one\n", true, source{}},
		{"line", "# deb http://no.test one main\ndeb-src http://src.test one main\ndeb http://mirror.test/debian one main contrib\n", false, source{"http://mirror.test/debian", "one", ""}},
		{"line with options", "deb [ arch=amd64 signed-by=/k.gpg ] http://mirror.test/debian one main\n", false, source{"http://mirror.test/debian", "one", ""}},
		{"none", "deb http://mirror.test/debian two main\n", false, source{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := findSource(tt.text, "one", tt.stanzas)
			if got != tt.want || ok != (tt.want != source{}) {
				t.Errorf("got %v %v, want %v", got, ok, tt.want)
			}
		})
	}
}
