package ops

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// maxRequest bounds what a request on the control socket may hold, in bytes.
const maxRequest = 1 << 20

// failure is how an error crosses the control socket.
type failure struct {
	Error string `json:"error"`
	Exit  int    `json:"exit"`
}

// streamed is one line of a stream: a value, or the error that ended it.
type streamed struct {
	Value   json.RawMessage `json:"value,omitempty"`
	Failure *failure        `json:"failure,omitempty"`
}

// Handle answers POST requests at path ("/status") with do: the JSON body
// becomes In (an empty body its zero value), what do returns becomes the JSON
// answer. An error reaches the client with its exit code.
func Handle[In, Out any](mux *http.ServeMux, path string, do func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		in, err := decode[In](r.Body)
		if err != nil {
			refuse(w, err)
			return
		}
		out, err := do(r.Context(), in)
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, http.StatusOK, out)
	})
}

// HandleStream answers POST requests at path with a line of JSON for each
// value that do emits, as it is emitted. The request's context ends when the
// client goes away or the daemon stops; emit fails then too.
func HandleStream[In, Out any](mux *http.ServeMux, path string, do func(ctx context.Context, in In, emit func(Out) error) error) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		in, err := decode[In](r.Body)
		if err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/jsonl")
		w.WriteHeader(http.StatusOK)
		lines, flush := json.NewEncoder(w), http.NewResponseController(w)
		emit := func(out Out) error {
			raw, err := json.Marshal(out)
			if err != nil {
				return err
			}
			if err := lines.Encode(streamed{Value: raw}); err != nil {
				return err
			}
			return flush.Flush()
		}
		// The client must see that its stream has begun before the first value.
		if err := flush.Flush(); err != nil {
			return
		}
		if err := do(r.Context(), in, emit); err != nil {
			// The client may be gone, and then there is nobody to tell.
			_ = lines.Encode(streamed{Failure: &failure{Error: err.Error(), Exit: ExitCode(err)}})
		}
	})
}

func decode[In any](body io.Reader) (In, error) {
	var in In
	err := json.NewDecoder(io.LimitReader(body, maxRequest)).Decode(&in)
	if err != nil && !errors.Is(err, io.EOF) {
		return in, Usage("the request is not the JSON that this daemon reads (%w); are command and daemon of one version?", err)
	}
	return in, nil
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if ExitCode(err) == ExitUsage {
		status = http.StatusBadRequest
	}
	answer(w, status, failure{Error: err.Error(), Exit: ExitCode(err)})
}

// answer writes v; a client that went away is no error of the daemon's.
func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
