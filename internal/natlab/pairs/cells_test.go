package pairs

import "testing"

// Each two kinds that are to meet do so in one cell, and the scenes in one.
func TestCells(t *testing.T) {
	var p Plan
	for _, k := range Kinds() {
		p.Kinds = append(p.Kinds, k.Name)
	}
	p.Scenes, p.Seed = []string{"same-lan"}, 7
	for name, only := range map[string][][2]string{"all": nil, "one": {{"no-udp", "public"}}} {
		p.Only = only
		met, scenes, seeds := map[[2]string]int{}, 0, map[uint64]bool{}
		for _, c := range p.cells() {
			for _, pair := range c.Only {
				met[pair]++
			}
			scenes += len(c.Scenes)
			if len(c.Kinds) > 2*few || seeds[c.Seed] {
				t.Errorf("%s: a cell of %d kinds by seed %d", name, len(c.Kinds), c.Seed)
			}
			seeds[c.Seed] = true
		}
		want := len(only)
		if only == nil {
			want = len(p.Kinds) * (len(p.Kinds) + 1) / 2
		}
		if len(met) != want || scenes != 1 {
			t.Errorf("%s: %d pairs in cells, want %d; %d scenes", name, len(met), want, scenes)
		}
		for pair, n := range met {
			if n != 1 {
				t.Errorf("%s: %v is in %d cells", name, pair, n)
			}
		}
	}
}
