package path

// Failure is why a rung did not end in a path, as `agent explain` shows it:
// a code, what was seen, and what its user can do.
type Failure struct {
	Reason   string // a code, such as "no-answer"
	Evidence string
	Advice   string
	Skipped  bool // nothing was tried
}

func (f *Failure) Error() string {
	if f.Evidence == "" {
		return f.Reason
	}
	return f.Reason + ": " + f.Evidence
}
