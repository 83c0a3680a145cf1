package rendezvous

import (
	"strings"
	"testing"

	"rendezvous/internal/stripe"
)

func TestMayPublish(t *testing.T) {
	c := Config{PortConfig: PortConfig{Publish: []PublishRule{
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
	} {
		rule, err := c.mayPublish(tt.member, tt.port)
		if (err == nil) != (tt.refuse == "") || err != nil && !strings.Contains(err.Error(), tt.refuse) || err == nil && !rule.contains(tt.port) {
			t.Errorf("%s asked for %d: %v", tt.member, tt.port, err)
		}
	}
	none := Config{}
	if _, err := none.mayPublish("home", 1); err == nil || !strings.Contains(err.Error(), "--publish 1") {
		t.Errorf("without rules: %v", err)
	}
}
