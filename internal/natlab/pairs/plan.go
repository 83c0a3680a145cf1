package pairs

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Plan says who meets whom and how often.
type Plan struct {
	Kinds []string // by name
	// Only are the pairs of kinds that are to meet; nil: all, each with itself
	// too.
	Only   [][2]string
	Scenes []string // to run besides
	// Runs is how often each two kinds meet.
	Runs int
	// Enough meetings of two kinds, none of which went directly, are the last
	// of these; 0: there is no such number. They cost several times as much as
	// those that do.
	Enough int
	// Members of each kind, of which each is behind a NAT of its own.
	Members   int
	RoundTrip time.Duration // of any two hosts
	Seed      uint64
}

// wants says whether two kinds are to meet.
func (p Plan) wants(a, b string) bool {
	return p.Only == nil || slices.Contains(p.Only, [2]string{a, b}) || slices.Contains(p.Only, [2]string{b, a})
}

// few is how many kinds a cell has at most twice: whatever happens in a world
// touches what all its agents have in memory, and in a small one that is in the
// processor's cache. In one world of all kinds a meeting takes three times as
// long as in such.
const few = 4

// cells are plans that come to the same as p, in worlds of few agents. Those
// that take long come first.
func (p Plan) cells() (out []Plan) {
	groups := slices.Collect(slices.Chunk(p.Kinds, few))
	for i, a := range groups {
		for j, b := range groups[i:] {
			c := p
			c.Scenes, c.Only, c.Kinds = nil, []([2]string){}, slices.Clone(a)
			if j > 0 {
				c.Kinds = append(c.Kinds, b...)
			}
			for k, x := range a {
				from := 0
				if j == 0 {
					from = k
				}
				for _, y := range b[from:] {
					if p.wants(x, y) {
						c.Only = append(c.Only, [2]string{x, y})
					}
				}
			}
			if len(c.Only) > 0 {
				out = append(out, c)
			}
		}
	}
	if len(p.Scenes) > 0 {
		c := p
		c.Kinds, c.Only = nil, nil
		out = append(out, c)
	}
	for i := range out {
		out[i].Seed = p.Seed*1000 + uint64(i) + 1
	}
	slices.SortStableFunc(out, func(a, b Plan) int { return cmp.Compare(b.sprays(), a.sprays()) })
	return out
}

// sprays is how many of the pairs take many ports.
func (p Plan) sprays() (n int) {
	for _, pair := range p.Only {
		a, _ := Find(pair[0])
		b, _ := Find(pair[1])
		if max(a.tcpChoice(), b.tcpChoice()) == anyPort && !Easy(a, b) {
			n++
		}
	}
	return n
}

// wish is two groups of members that are still to meet.
type wish struct {
	a, b  int // in dispatch.free
	left  int
	begun int // meetings, those under way too
	tally *Tally
}

// Run lets all meet that the plan says, many at once, in the bubble of virtual
// time that it is called in.
func (p Plan) Run(t testing.TB) []*Tally {
	t.Helper()
	w := newWorld(t, p.Seed, p.RoundTrip)
	defer w.close()
	d := &dispatch{world: w, enough: p.Enough, over: make(chan ended)}
	all := append(p.kinds(d), p.scenes(d)...)
	if err := w.ready(all); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(p.Seed, 1))
	r.Shuffle(len(d.wishes), func(i, j int) { d.wishes[i], d.wishes[j] = d.wishes[j], d.wishes[i] })
	return d.run()
}

// kinds makes the members of all kinds, and the wishes of each two.
func (p Plan) kinds(d *dispatch) (all []*member) {
	d.free = make([][]*member, len(p.Kinds))
	for range p.Members {
		for i, name := range p.Kinds {
			k, ok := Find(name)
			if !ok {
				d.world.t.Fatalf("there is no kind %q", name)
			}
			m := d.world.join(k, len(all))
			d.free[i], all = append(d.free[i], m), append(all, m)
		}
		time.Sleep(between)
	}
	for a, k := range p.Kinds {
		for b := a; b < len(p.Kinds); b++ {
			if o := p.Kinds[b]; p.wants(k, o) {
				d.wishes = append(d.wishes, &wish{a: a, b: b, left: p.Runs, tally: newTally(k, o)})
			}
		}
	}
	return all
}

// between is the pause between some dozen agents that begin: the coordinator
// lets in so many strangers a second.
const between = 100 * time.Millisecond

// scenes makes the members of all scenes. Only those two meet that are behind
// one NAT.
func (p Plan) scenes(d *dispatch) (all []*member) {
	n := p.Members * len(p.Kinds)
	for _, s := range Scenes() {
		if !slices.Contains(p.Scenes, s.Name) {
			continue
		}
		tally := newTally(s.Name, s.Name)
		duos := max(p.Members/2, 1)
		for i := range duos {
			hosts, nats := s.place(d.world, n)
			n += 2
			for side, h := range hosts {
				m := d.world.member(Kind{Name: s.Name}, h, nats[side])
				d.free, all = append(d.free, []*member{m}), append(all, m)
			}
			last := len(d.free) - 1
			d.wishes = append(d.wishes, &wish{a: last - 1, b: last, left: (p.Runs + i) / duos, tally: tally})
		}
		time.Sleep(between)
	}
	return all
}

// dispatch has members meet as they are free.
type dispatch struct {
	world  *world
	wishes []*wish
	free   [][]*member // by kind
	next   int         // the wish that is looked at first
	under  int         // way
	enough int         // see Plan
	over   chan ended
}

// ended is a meeting that is over.
type ended struct {
	of   *wish
	a, b *member
	came Meeting
}

func (d *dispatch) run() []*Tally {
	for {
		for d.begin() {
		}
		if d.under == 0 {
			break
		}
		e := <-d.over
		d.under--
		e.of.tally.add(e.came)
		if t := e.of.tally; d.enough > 0 && t.Direct == 0 && t.Runs >= d.enough {
			e.of.left = 0
		}
		d.free[e.of.a] = append(d.free[e.of.a], e.a)
		d.free[e.of.b] = append(d.free[e.of.b], e.b)
	}
	var tallies []*Tally
	for _, w := range d.wishes {
		if !slices.Contains(tallies, w.tally) {
			tallies = append(tallies, w.tally)
		}
	}
	return tallies
}

// begin starts one meeting, if any wish has two free members.
func (d *dispatch) begin() bool {
	for i := range d.wishes {
		w := d.wishes[(d.next+i)%len(d.wishes)]
		if w.left == 0 || d.enough > 0 && w.tally.Direct == 0 && w.begun >= d.enough {
			continue
		}
		a, b := d.take(w)
		if b == nil {
			continue
		}
		d.next = (d.next + i + 1) % len(d.wishes)
		w.left--
		w.begun++
		d.under++
		dialing, dialed := a, b
		if w.left%2 == 1 { // each kind dials as often as it is dialed
			dialing, dialed = b, a
		}
		first := a.met[b] == 1
		go func() {
			m := d.world.meet(dialing, dialed)
			m.First = first
			d.over <- ended{w, a, b, m}
		}()
		return true
	}
	return false
}

// take finds two free members for a wish, those first that have met least;
// none, where there are no two.
func (d *dispatch) take(w *wish) (a, b *member) {
	least := -1
	for _, x := range d.free[w.a] {
		for _, y := range d.free[w.b] {
			if x != y && (least < 0 || x.met[y] < least) {
				a, b, least = x, y, x.met[y]
			}
		}
		if least == 0 {
			break
		}
	}
	if b == nil {
		return nil, nil
	}
	a.met[b]++
	b.met[a]++
	remove(&d.free[w.a], a)
	remove(&d.free[w.b], b)
	return a, b
}

func remove(list *[]*member, m *member) {
	for i, x := range *list {
		if x == m {
			*list = append((*list)[:i], (*list)[i+1:]...)
			return
		}
	}
}
