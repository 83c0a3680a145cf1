#!/bin/sh
# Writes a manual page out of a program's own --help, so that it says what the
# program says: man.sh PROGRAM TITLE-DATE FILES
set -eu

program=$1
date=$2
name=$(basename "$program")

# Text as it stands: a backslash and a leading dot or quote mean something to roff.
verbatim() {
	printf '.nf\n'
	sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^\([.']\)/\\\\\&\1/"
	printf '.fi\n'
}

upper=$(echo "$name" | tr '[:lower:]' '[:upper:]')
short=$("$program" --help | sed -n 1p)
printf '.TH %s 1 "%s" "rendezvous"\n' "$upper" "$date"
printf '.SH NAME\n%s \\- %s\n' "$name" "$short"
printf '.SH SYNOPSIS\n.B %s\n.I COMMAND\n[\\fIARGUMENT\\fR ...]\n' "$name"
printf '.SH DESCRIPTION\n'
"$program" --help | sed 1d | verbatim
printf '.SH COMMANDS\n'
for command in $("$program" --help | awk '/^Available Commands:/ { list = 1; next } !NF { list = 0 } list { print $1 }'); do
	case $command in help) continue ;; esac
	printf '.SS %s %s\n' "$name" "$command"
	"$program" "$command" --help | verbatim
done
printf '.SH FILES\n'
shift 2
for file; do printf '.TP\n.I %s\n' "$file"; done
printf '.SH EXIT STATUS\n0 done, 1 it failed, 2 wrong usage or settings, 3 no daemon is running.\n'
