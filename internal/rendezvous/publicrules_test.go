package rendezvous

import (
	"net/netip"
	"strings"
	"testing"

	"rendezvous/internal/stripe"
)

func TestMayPublish(t *testing.T) {
	c := Config{Listen: netip.MustParseAddrPort("0.0.0.0:443"), Alternate: 3478, Ports: []uint16{8443}, PortConfig: PortConfig{Publish: []PublishRule{
		{Ports: []stripe.Range{{First: 51820, Last: 51820}, {First: 30000, Last: 30100}}},
		{Ports: []stripe.Range{{First: 6000, Last: 6001}}, Members: []string{"home"}, MaxClients: 5},
	}}}
	for _, tt := range []struct {
		member string
		port   uint16
		refuse string
	}{
		{"home", 51820, ""}, {"laptop", 30050, ""}, {"home", 6001, ""}, {"laptop", 6000, `can add "laptop"`},
		{"home", 51821, "opens no port 51821"}, {"home", 29999, "no port"},
		{"laptop", 443, `port 443 is the coordinator's own (` + "`listen`" + `) and can't be a service's; ask for another with ?public=PORT; open to "laptop" are 30000-30100, 51820`},
		{"home", 3478, "`alternate_port`"}, {"home", 8443, "6000-6001, 30000-30100"},
	} {
		rule, err := c.mayPublish(tt.member, tt.port)
		if (err == nil) != (tt.refuse == "") || err != nil && !strings.Contains(err.Error(), tt.refuse) || err == nil && !rule.contains(tt.port) {
			t.Errorf("%s asked for %d: %v", tt.member, tt.port, err)
		}
	}
	none := Config{Listen: c.Listen}
	if _, err := none.mayPublish("home", 443); err == nil || strings.Contains(err.Error(), "--publish 443") || !strings.Contains(err.Error(), "--publish PORT") {
		t.Errorf("the coordinator's own, without rules: %v", err)
	}
	if _, err := none.mayPublish("home", 1); err == nil || !strings.Contains(err.Error(), "--publish 1") {
		t.Errorf("without rules: %v", err)
	}
}
