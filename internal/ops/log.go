package ops

import (
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// LogLevels are the words that NewLog knows.
var LogLevels = [...]string{"debug", "info", "warn", "error"}

// NewLog is a log to f (stderr): lines for people when f is a terminal, else
// JSON. level is one of LogLevels; empty means info.
func NewLog(f *os.File, level string) (zerolog.Logger, error) {
	l := zerolog.InfoLevel
	if level != "" {
		var err error
		if l, err = zerolog.ParseLevel(strings.ToLower(level)); err != nil || l < zerolog.DebugLevel || l > zerolog.ErrorLevel {
			return zerolog.Nop(), Usage("there is no log level %q; there are %v", level, LogLevels)
		}
	}
	if isatty.IsTerminal(f.Fd()) {
		console := zerolog.ConsoleWriter{Out: f, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != ""}
		return zerolog.New(console).Level(l).With().Timestamp().Logger(), nil
	}
	return zerolog.New(f).Level(l).With().Timestamp().Logger(), nil
}

// Slog is log for libraries that speak log/slog.
func Slog(log zerolog.Logger) *slog.Logger { return slog.New(zerolog.NewSlogHandler(log)) }
