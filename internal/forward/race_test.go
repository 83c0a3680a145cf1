//go:build race

package forward

// raceDetector multiplies what memory is used.
const raceDetector = true
