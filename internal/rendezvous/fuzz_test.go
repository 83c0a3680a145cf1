package rendezvous

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// FuzzControlStream gives a coordinator what a client may write on its control
// stream, and looks that a refusal is all that comes of it.
func FuzzControlStream(f *testing.F) {
	registry := testRegistry(f, f.TempDir())
	f.Cleanup(func() { _ = registry.Close() })
	home := newGuest(f, "home")
	token := mustInvite(f, registry, noon, time.Hour, MaxUses, "")
	seed := func(bodies ...*proto.ToCoordinator) {
		var b bytes.Buffer
		for i, m := range bodies {
			m.Id = uint64(i)
			if err := proto.WriteMessage(&b, m); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	enrol := &proto.ToCoordinator{Body: &proto.ToCoordinator_Enrol{Enrol: home.enrolment(token)}}
	register := &proto.ToCoordinator{Body: &proto.ToCoordinator_Register{Register: &proto.Register{Instance: 1, Record: home.record()}}}
	seed(enrol, register)
	seed(enrol, register, home.introduce(home, true, true), reply(7, ""), reply(8, "no"))
	seed(enrol, register, home.revocation(home), approval(home, "secret"))
	seed(enrol, register, &proto.ToCoordinator{Body: &proto.ToCoordinator_CreateInvite{CreateInvite: &proto.CreateInvite{Uses: 3}}})
	seed(enrol, register, &proto.ToCoordinator{Body: &proto.ToCoordinator_ListPending{}}, &proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{}})
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Server{
			registry:      registry,
			log:           zerolog.Nop(),
			relay:         relay.NewServer(relay.Limits{}),
			present:       newPresence(),
			introductions: newIntroductions(4),
			door:          newDoor(4),
		}
		a := &agentConn{server: s, key: home.key(), closed: true}
		r := bufio.NewReaderSize(bytes.NewReader(b), readBuffer)
		for {
			var m proto.ToCoordinator
			if proto.ReadMessage(r, &m) != nil {
				return // the connection would be closed
			}
			if m.GetRegister() != nil {
				// Only a real connection can register: play that it did.
				if m.GetRegister().GetStanding() != nil && checkRegister(a.key, member{Name: "home", StaticKey: home.id.StaticKey()}, m.GetRegister()) == nil {
					s.present.arrive(noon, a.key, attendance{conn: a, name: "home"})
				}
				continue
			}
			out, err := s.serve(noon, a, &m)
			if (err == nil) != (len(out) > 0) {
				t.Fatalf("%v gave %v and %v", &m, out, err)
			}
		}
	})
}
