// Package rendezvous is the coordinator: its registry of members and invites,
// the introductions that it times, its sockets, and the agents' side of the
// control connection. It learns no secret of the network and opens nothing
// that agents say to each other.
package rendezvous

import (
	"errors"
	"fmt"

	"github.com/quic-go/quic-go"

	"rendezvous/proto"
)

// CodeError is a refusal by the coordinator.
type CodeError struct {
	Code proto.Code
	Text string // what was asked and what to do
}

func (e *CodeError) Error() string { return e.Text }

// Is makes errors.Is compare codes, so that &CodeError{Code: c} matches any
// refusal of that code.
func (e *CodeError) Is(target error) bool {
	t, ok := target.(*CodeError)
	return ok && t.Code == e.Code
}

func refusef(code proto.Code, format string, args ...any) *CodeError {
	return &CodeError{Code: code, Text: fmt.Sprintf(format, args...)}
}

// asCode is the refusal that err stands for. What is no refusal is a fault of
// the coordinator, whose details are for its log and not for the agent.
func asCode(err error) *CodeError {
	var code *CodeError
	if errors.As(err, &code) {
		return code
	}
	return refusef(proto.Code_CODE_STORAGE, "the coordinator could not read or write its registry; its log says why")
}

// Application error codes with which control connections are closed. From
// closeCode on they carry a proto.Code, so that a refusal is not lost when
// the message that says it is.
const (
	closeDone     quic.ApplicationErrorCode = 0 // the agent has no more to say
	closeStopping quic.ApplicationErrorCode = 1 // the coordinator stops
	closeProtocol quic.ApplicationErrorCode = 2 // what came is not the protocol
	closeSlow     quic.ApplicationErrorCode = 3 // the agent does not read
	closeSilent   quic.ApplicationErrorCode = 4 // it neither enrolled nor registered in time
	closeCode     quic.ApplicationErrorCode = 0x100
)

// ErrStopping is the reason of a control connection that the coordinator
// closed because it stops; it may be back in seconds.
var ErrStopping = errors.New("the coordinator has stopped; it may be restarting")

// ErrRestarted is the reason of a control connection that the coordinator does
// not know any more, because it was started anew.
var ErrRestarted = errors.New("the coordinator was restarted")

// closeReason is what a closed control connection means.
func closeReason(err error) error {
	var reset *quic.StatelessResetError
	if errors.As(err, &reset) {
		return ErrRestarted
	}
	var idle *quic.IdleTimeoutError
	if errors.As(err, &idle) {
		return fmt.Errorf("the coordinator has been silent for %v", idleAfter)
	}
	var app *quic.ApplicationError
	if !errors.As(err, &app) || !app.Remote {
		return err
	}
	switch {
	case app.ErrorCode == closeStopping:
		return ErrStopping
	case app.ErrorCode > closeCode && app.ErrorCode <= closeCode+0xff:
		return &CodeError{Code: proto.Code(app.ErrorCode - closeCode), Text: app.ErrorMessage}
	case app.ErrorMessage != "":
		return fmt.Errorf("the coordinator closed the connection: %s", app.ErrorMessage)
	}
	return err
}
