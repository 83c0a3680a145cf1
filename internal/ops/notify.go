package ops

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells the service manager, when there is one, that the daemon works
// now (sd_notify(3)); status is the line that `systemctl status` shows.
func Ready(status string) error { return notify(daemon.SdNotifyReady, status) }

// Stopping tells the service manager that the daemon is about to end.
func Stopping(status string) error { return notify(daemon.SdNotifyStopping, status) }

func notify(state, status string) error {
	if status != "" {
		state += "\nSTATUS=" + status
	}
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("tell the service manager %q: %w", state, err)
	}
	return nil
}

// Watchdog tells the service manager at half the interval that it asks for
// (WatchdogSec=) that the daemon is alive, as long as alive gives nil, until
// ctx ends. Without a watchdog it returns at once. alive must come back soon
// and should pass through what could hang.
func Watchdog(ctx context.Context, alive func(context.Context) error) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return err
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		if alive(ctx) == nil {
			if err := notify(daemon.SdNotifyWatchdog, ""); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
