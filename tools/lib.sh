# SPDX-License-Identifier: Apache-2.0
# Words shared by ./run, ./test and the scripts in this folder. Sourced by sh, defines functions only.

say() { printf '%s\n' "$*" >&2; }
die() { say "$0: $*"; exit 1; }

# nth LINE: what a long command printed, thinned: ninja's steps by tenths, apt's by the package.
progress_line() {
	case $1 in
	\[*/*\]\ *)
		step=${1#\[}; step=${step%%\]*}; of=${step#*/}; step=${step%%/*}
		case $step$of in *[!0-9]*) return ;; esac
		tenth=$((step * 10 / of))
		[ "$tenth" = "${last_tenth:-}" ] && return
		last_tenth=$tenth
		say "    $step of $of" ;;
	Setting\ up\ *)
		set_up=$((${set_up:-0} + 1))
		[ $((set_up % 10)) = 0 ] && say "    $set_up packages set up" ;;
	Fetched\ *) say "    ${1%% in *}; unpacking" ;;
	Get:*) got=$((${got:-0} + 1)); [ $((got % 25)) = 0 ] && say "    $got files downloaded" ;;
	esac
	return 0
}

# with_progress LOG COMMAND…: the whole output goes to LOG, a thinned one to the terminal; on failure
# the last 40 lines are shown. Returns the command's exit status.
with_progress() {
	log=$1; shift
	mkdir -p "$(dirname "$log")"
	rc_file=$log.rc
	last_tenth= set_up=0 got=0
	{ rc=0; "$@" 2>&1 </dev/null || rc=$?; echo "$rc" >"$rc_file"; } | tee "$log" |
		while IFS= read -r line; do progress_line "$line"; done
	rc=$(cat "$rc_file"); rm -f "$rc_file"
	if [ "$rc" != 0 ]; then
		say "This failed with exit status $rc: $*"
		tail -n 40 "$log" >&2
		say "The whole output is in $log."
	fi
	return "$rc"
}

# node_dir: the folder with a node of our own, where the distribution's is older than 20.
node_of_ours() { printf '%s\n' "$root/.cache/node/bin"; }

node_is_new_enough() { # PROGRAM
	v=$("$1" --version 2>/dev/null) || return 1
	v=${v#v}; v=${v%%.*}
	[ "${v:-0}" -ge 20 ] 2>/dev/null
}
# find_node: prints the node to use, or fails.
find_node() {
	if [ -x "$(node_of_ours)/node" ]; then
		printf '%s\n' "$(node_of_ours)/node"
	elif node_is_new_enough node; then
		command -v node
	else
		return 1
	fi
}
