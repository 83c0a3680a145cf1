//go:build linux

// Package debian looks at our Debian packages: what is in them, and how they
// install, run, upgrade and leave in a Debian root of their own.
package debian

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Deb is a package's file, read by dpkg-deb.
type Deb struct {
	File    string
	Control map[string]string // fields of its control file
	Scripts map[string]string // the other control files, postinst say
	Files   []File
}

// File is one that a package brings.
type File struct {
	tar.Header
	Path    string // "/usr/bin/agent"; a folder's ends without a slash
	Content []byte
}

// Build makes packages of a version in a folder by scripts/packages.sh.
func Build(module, dir, version string) ([]*Deb, error) {
	cmd := exec.Command(filepath.Join(module, "scripts/packages.sh"))
	cmd.Env = append(os.Environ(), "DIST="+dir, "VERSION="+version)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make the packages: %w: %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var all []*Deb
	for _, file := range files {
		d, err := Read(file)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// Read reads a package.
func Read(file string) (*Deb, error) {
	d := &Deb{File: file, Control: map[string]string{}, Scripts: map[string]string{}}
	control, err := unpack(file, "--ctrl-tarfile")
	if err != nil {
		return nil, err
	}
	for _, f := range control {
		if f.Path == "/control" {
			d.readControl(f.Content)
		} else if f.Typeflag == tar.TypeReg {
			d.Scripts[strings.TrimPrefix(f.Path, "/")] = string(f.Content)
		}
	}
	d.Files, err = unpack(file, "--fsys-tarfile")
	return d, err
}

func (d *Deb) readControl(content []byte) {
	last := ""
	for line := range strings.Lines(string(content)) {
		line = strings.TrimRight(line, "\n")
		if rest, ok := strings.CutPrefix(line, " "); ok {
			d.Control[last] += "\n" + rest
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		last = key
		d.Control[key] = strings.TrimSpace(value)
	}
}

// Name is the package's name.
func (d *Deb) Name() string { return d.Control["Package"] }

// Lookup finds a file by its path, nil when there is none.
func (d *Deb) Lookup(path string) *File {
	i := slices.IndexFunc(d.Files, func(f File) bool { return f.Path == path })
	if i < 0 {
		return nil
	}
	return &d.Files[i]
}

// Conffiles are the paths that the package marks as settings.
func (d *Deb) Conffiles() []string { return strings.Fields(d.Scripts["conffiles"]) }

// Renumbered is the same package with another version, in a folder: what an
// upgrade needs of a release.
func (d *Deb) Renumbered(dir, version string) (*Deb, error) {
	tree := filepath.Join(dir, d.Name()+"-"+version)
	if out, err := exec.Command("dpkg-deb", "-R", d.File, tree).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w: %s", d.File, err, out)
	}
	file := filepath.Join(tree, "DEBIAN/control")
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	text = bytes.Replace(text, []byte("Version: "+d.Control["Version"]), []byte("Version: "+version), 1)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return nil, err
	}
	made := tree + ".deb"
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, made).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("pack %s: %w: %s", made, err, out)
	}
	return Read(made)
}

func unpack(file, what string) ([]File, error) {
	cmd := exec.Command("dpkg-deb", what, file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("dpkg-deb %s %s: %w: %s", what, file, err, stderr.String())
	}
	var all []File
	for r := tar.NewReader(bytes.NewReader(out)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read what dpkg-deb %s gives of %s: %w", what, file, err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		all = append(all, File{*header, filepath.Clean("/" + header.Name), content})
	}
}
