package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

// troubles are why attempts of the last races came to nothing, each by its
// latest reason, so that what is told stays the same while nothing changes.
type troubles map[attempt]error

// note takes in one.
func (t troubles) note(a attempt, err error) { t[a.same()] = err }

// maxReasons bounds the reasons that are told of each transport.
const maxReasons = 3

// sum is all troubles in one line: the ports of each transport, by reason.
func (t troubles) sum(addr string, without *path.Failure) error {
	var parts []string
	for _, a := range slices.SortedFunc(maps.Keys(t), func(a, b attempt) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) {
		if errors.Is(t[a], ErrWrongKey) {
			return t[a] // says more than any silence
		}
	}
	for _, over := range []proto.Transport{proto.Transport_TRANSPORT_UDP, proto.Transport_TRANSPORT_TLS, proto.Transport_TRANSPORT_FAKE_TCP} {
		parts = append(parts, t.ofTransport(over)...)
	}
	if without != nil && len(parts) > 0 {
		parts = append(parts, "fake TCP was not tried: "+without.Reason)
	}
	if len(parts) == 0 {
		return fmt.Errorf("nothing was tried that reaches the coordinator %s", addr)
	}
	return fmt.Errorf("no way to the coordinator %s: %s; is it running, and does this network let any of these pass?", addr, strings.Join(parts, "; "))
}

func (t troubles) ofTransport(over proto.Transport) (parts []string) {
	ports := make(map[string][]uint16)
	for a, err := range t {
		if why := reason(err); a.over == over && !slices.Contains(ports[why], a.port()) {
			ports[why] = append(ports[why], a.port())
		}
	}
	reasons := make([]string, 0, len(ports))
	for why, list := range ports {
		slices.Sort(list)
		reasons = append(reasons, why)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		if len(ports[a]) != len(ports[b]) {
			return len(ports[b]) - len(ports[a])
		}
		return strings.Compare(a, b)
	})
	for _, why := range reasons[:min(len(reasons), maxReasons)] {
		words := make([]string, len(ports[why]))
		for i, port := range ports[why] {
			words[i] = strconv.Itoa(int(port))
		}
		parts = append(parts, fmt.Sprintf("%s %s: %s", overName(over), strings.Join(words, ", "), why))
	}
	return parts
}

// reason is an error in the fewest words that say it. What a proxy did is no
// doing of the coordinator's.
func reason(err error) string {
	var proxy interface {
		Proxy() (where string, err error)
	}
	if errors.As(err, &proxy) {
		where, err := proxy.Proxy()
		why, _, _ := strings.Cut(reason(err), " to CONNECT ") // each port's answer is the same
		return "proxy " + where + ": " + why
	}
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "no answer"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route"
	}
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "dial coordinator "); ok {
		if _, after, found := strings.Cut(rest, ": "); found {
			text = after
		}
	}
	if what, _, found := strings.Cut(text, "; "); found {
		text = what // the question behind it is asked once, for all
	}
	return text
}
