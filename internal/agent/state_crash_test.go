package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"rendezvous/internal/forward"
)

// A write that fails leaves file and memory as they were.
func TestFailedWriteChangesNothing(t *testing.T) {
	s := newTestState(t)
	before, err := os.ReadFile(filepath.Join(s.Dir(), stateFile))
	if err != nil {
		t.Fatal(err)
	}
	s.write = func(name string, _ []byte) error {
		return fileError(&fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC})
	}
	if err := s.PutPeer(Peer{Name: "laptop", Key: testKey(1)}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if _, ok := s.Peer("laptop"); ok {
		t.Error("memory changed")
	}
	after, err := os.ReadFile(filepath.Join(s.Dir(), stateFile))
	if err != nil || !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
}

// On a disk that is really full.
func TestFullDisk(t *testing.T) {
	dir := smallDisk(t)
	s, err := NewState(filepath.Join(dir, "state"), "home", testCoordinator)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Joined("home", nil); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	peer := Peer{Name: "laptop", Key: testKey(1), Record: make([]byte, 8<<10)}
	err = s.PutPeer(peer)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space there") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if _, ok := reopen(t, s).Peer("laptop"); ok {
		t.Error("the peer is there all the same")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.PutPeer(peer); err != nil {
		t.Errorf("with space again: %v", err)
	}
	if _, ok := reopen(t, s).Peer("laptop"); !ok {
		t.Error("the peer is lost")
	}
}

// fill writes until the disk is full.
func fill(name string) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for {
		if _, err := f.Write(make([]byte, 1024)); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestUnreadableFolder(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	s := newTestState(t)
	if err := os.Chmod(s.Dir(), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(s.Dir(), 0o700) })
	if _, err := OpenState(s.Dir()); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "--state") {
		t.Errorf("got %v", err)
	}
}

func TestFileErrorsSayWhatToDo(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.EACCES: "folder's owner",
		syscall.ENOSPC: "free some space",
		syscall.EROFS:  "make it writable",
		syscall.EIO:    "state folder: open x: ",
	} {
		err := fileError(&fs.PathError{Op: "open", Path: "x", Err: errno})
		if !strings.Contains(err.Error(), want) || !errors.Is(err, errno) {
			t.Errorf("%v gives %v", errno, err)
		}
	}
}

// dieVar makes a copy of this test program the victim of TestKilledWhileWriting.
const dieVar = "AGENT_TEST_DIE_IN"

// A process that dies at any step of a write leaves the old state or the new.
func TestKilledWhileWriting(t *testing.T) {
	if dir := os.Getenv(dieVar); dir != "" {
		writeUntilKilled(dir)
	}
	s := newTestState(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	for range 5 {
		victim := exec.CommandContext(t.Context(), self, "-test.run=^TestKilledWhileWriting$")
		victim.Env = append(os.Environ(), dieVar+"="+s.Dir())
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		var acknowledged int
		for range 10 {
			if _, err := fmt.Fscanln(out, &acknowledged); err != nil {
				t.Fatal(err)
			}
		}
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = victim.Wait() // it was killed, as its error says
		list, err := reopen(t, s).Services()
		if err != nil || len(list) != 1 {
			t.Fatalf("services %v, %v", list, err)
		}
		if got := int(list[0].Port); got < acknowledged || got <= last {
			t.Errorf("%d is there, but %d was acknowledged", got, acknowledged)
		}
		last = acknowledged
	}
}

func writeUntilKilled(dir string) {
	s, err := OpenState(dir)
	if err != nil {
		panic(err)
	}
	from := 0
	if list, err := s.Services(); err == nil && len(list) == 1 {
		from = int(list[0].Port)
	}
	for port := from + 1; port < 65536; port++ {
		if err := s.PutService(Service{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "h", Port: uint16(port)}}); err != nil {
			panic(err)
		}
		fmt.Println(port)
	}
	os.Exit(0)
}

// A temporary file that a killed process left is no obstacle.
func TestStaleTemporaryFile(t *testing.T) {
	s := newTestState(t)
	temp := filepath.Join(s.Dir(), stateFile+".new")
	if err := os.WriteFile(temp, []byte(strings.Repeat("x", 1<<16)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.PutPeer(Peer{Name: "laptop", Key: testKey(1)}); err != nil {
		t.Fatal(err)
	}
	if _, ok := reopen(t, s).Peer("laptop"); !ok {
		t.Error("the peer is not there")
	}
	if _, err := os.Stat(temp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary file: %v", err)
	}
}
