//go:build !linux && !darwin && !freebsd

package dgram

import (
	"context"
	"errors"
)

// Changes is not available here.
func Changes(context.Context) (<-chan struct{}, error) { return nil, errors.ErrUnsupported }
