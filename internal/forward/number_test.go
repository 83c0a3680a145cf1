package forward

import (
	"math/rand/v2"
	"testing"
	"time"

	"rendezvous/proto"
)

func unused(uint16) bool { return false }

func TestNumbersBeginInTheirHalf(t *testing.T) {
	low, high := newNumbers(true), newNumbers(false)
	for i := range 3 {
		a, _ := low.take(0, time.Minute, unused)
		b, _ := high.take(0, time.Minute, unused)
		if a != uint16(1+i) || b != uint16(8192+i) {
			t.Errorf("%d: %d and %d", i, a, b)
		}
	}
}

func TestNumbersRestBeforeTheyAreUsedAgain(t *testing.T) {
	n := newNumbers(true)
	n.own = n.ownEnd - 2
	take := func(now time.Duration) uint16 {
		t.Helper()
		number, ok := n.take(now, time.Minute, unused)
		if !ok {
			t.Fatal("no number")
		}
		return number
	}
	a, b := take(0), take(0)
	n.free(b, 10*time.Second)
	n.free(a, 20*time.Second)
	if got := take(30 * time.Second); got != proto.MaxFlow {
		t.Errorf("while both rest: %d, want one from the other half", got)
	}
	if got := take(70 * time.Second); got != b {
		t.Errorf("got %d, want %d, which was freed first", got, b)
	}
	n.other = n.otherEnd
	if got := take(71 * time.Second); got != a {
		t.Errorf("when nothing else is left: %d, want %d", got, a)
	}
	if number, ok := n.take(72*time.Second, time.Minute, unused); ok {
		t.Errorf("%d came from nowhere", number)
	}
}

// TestNumbersAreUnique: of two sides that draw and free at random, neither
// gets a number that it has, or that it knows the other to have.
func TestNumbersAreUnique(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	sides := []numbers{newNumbers(true), newNumbers(false)}
	owner := make(map[uint16]int)
	var mine [2][]uint16
	used := func(n uint16) bool { _, ok := owner[n]; return ok }
	for i := range 200000 {
		now := time.Duration(i) * 10 * time.Millisecond
		side := rnd.IntN(2)
		if limit := 5000 + 6000*side; len(mine[side]) > limit || len(mine[side]) > 0 && rnd.IntN(3) == 0 {
			last := rnd.IntN(len(mine[side]))
			number := mine[side][last]
			mine[side][last] = mine[side][len(mine[side])-1]
			mine[side] = mine[side][:len(mine[side])-1]
			delete(owner, number)
			sides[side].free(number, now)
			continue
		}
		number, ok := sides[side].take(now, time.Minute, used)
		if !ok {
			t.Fatalf("no number left with %d and %d in use", len(mine[0]), len(mine[1]))
		}
		if used(number) || number == 0 || number > proto.MaxFlow {
			t.Fatalf("%d was given", number)
		}
		owner[number] = side
		mine[side] = append(mine[side], number)
	}
	if n := len(sides[0].freed) + len(sides[1].freed); n > 2*proto.MaxFlow {
		t.Errorf("%d freed numbers are remembered", n)
	}
}
