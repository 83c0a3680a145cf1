package ops

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs a program's root command with the arguments behind its name, until
// it ends or a signal ends its context, and returns the exit code.
func Main(root *cobra.Command, args []string) int {
	// A second signal ends the program at once, because stop restores the
	// default after the first.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root.SetArgs(args)
	return Report(os.Stderr, root.Name(), root.ExecuteContext(ctx))
}

// Root makes cmd a program's root command: it has a version, says what was
// wrong with a call as a UsageError, and leaves the words on it to Report.
func Root(cmd *cobra.Command) *cobra.Command {
	// A flag of our own: cobra's prints by a template, and whoever links templates
	// links every method there is, for it might be called by name. That is a fifth
	// of a program.
	cmd.Flags().BoolP("version", "v", false, "version for "+cmd.Name())
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.Args, cmd.RunE = unknownCommand, versionOnly
	cmd.SuggestionsMinimumDistance = 2 // cobra's own default, which it sets too late for unknownCommand
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Usage("%w; see `%s --help`", err, cmd.CommandPath())
	})
	return cmd
}

// Group makes cmd one that only stands over its subcommands, as Root's does.
func Group(cmd *cobra.Command) *cobra.Command {
	cmd.Args, cmd.RunE = unknownCommand, noCommand
	return cmd
}

// versionOnly is what a root command does by itself.
func versionOnly(cmd *cobra.Command, args []string) error {
	asked, err := cmd.Flags().GetBool("version")
	if err != nil {
		return err
	}
	if !asked {
		return noCommand(cmd, args)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), Version())
	return err
}

func noCommand(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return Usage("give a command")
}

func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return Usage("there is no command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return Usage("there is no command %q; see `%s --help`", args[0], cmd.CommandPath())
}

// Takes checks that a command got exactly the arguments that these words name.
func Takes(words ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(words):
			return Usage("%s is missing; see `%s --help`", words[len(args)], cmd.CommandPath())
		case len(args) > len(words):
			return Usage("%q is one argument too many; see `%s --help`", args[len(words)], cmd.CommandPath())
		}
		return nil
	}
}
