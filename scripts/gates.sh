# SPDX-License-Identifier: GPL-2.0-only
# What scripts/check and scripts/check-all share: gates, and what they came to.
# shellcheck shell=bash

# With these, something else would be checked.
for v in APPEND BOOT_OPTIONS CORE_BENCH DEBUG EXTRA_CONFIG FAULTS MACHINES PATCHES PLAN RESULTS SCENARIO SCENARIOS SCENARIO_LIMIT SEED TEST V73 VARIANT WIP; do
	[ -z "${!v:-}" ] || die "all of it is checked: leave $v=${!v} out"
done

gates_begin=$SECONDS passed=0 failed=0 failures=() table=()
mkdir -p "${LOG:?}"

log_of() { echo "$LOG/${1//[^a-zA-Z0-9]/-}.log"; }
selected() { [ -z "${ONLY:-}" ] || [[ $1 =~ $ONLY ]]; }

# gate NAME COMMAND...: one check, with its output in a log of its own. After a
# failure it goes on, to tell all; $gate_passed says what it was.
gate()
{
	local name=$1 begin=$SECONDS log
	shift
	gate_passed=
	selected "$name" || return 0
	log=$(log_of "$name")
	if step "$name" "$log" "$@"; then
		# shellcheck disable=SC2034 # For check-all.
		gate_passed=1
		passed=$((passed + 1))
		table+=("passed  $(elapsed "$begin")  $name")
	else
		failed=$((failed + 1))
		failures+=("$name")
		table+=("FAILED  $(elapsed "$begin")  $name")
		tail -n 15 "$log" | sed 's/^/    /'
	fi
}

# scripts/each, of all commits, or those that are named. Little of what one touches can be
# built in parallel, but commits can.
each_in_parts()
{
	local i n=$((JOBS < 4 ? JOBS : 4)) bad=0 parts=()
	for ((i = 1; i <= n; i++)); do
		"$TOP/scripts/each" --part "$i/$n" "$@" &
		parts+=($!)
	done
	for i in "${parts[@]}"; do
		wait "$i" || bad=1
	done
	return $bad
}

# What a patch may be told by checkpatch, and why:
#   its author can't sign it off (coding-assistants.rst): whoever posts it does
#   without history, there are no commits for Fixes: to be looked up in
#   what page-flags.h calls its flags is not up to us
#   whether MAINTAINERS has new files, get_maintainer.pl knows better: maintainers()
patch_is_clean()
{
	local patch=$1 out
	local -a ignore=(--ignore UNKNOWN_COMMIT_ID) history=()
	# $TREE has none. A clone that is the user's may.
	if git -C "${LINUX:-/dev/null}" rev-parse -q --verify "$TAG~" >/dev/null 2>&1; then
		ignore=()
		history=(GIT_DIR="$(git -C "$LINUX" rev-parse --absolute-git-dir)" GIT_WORK_TREE="$TREE"
			GIT_INDEX_FILE="$(tree_git rev-parse --absolute-git-dir)/index")
	fi
	# Its Python helper wants the modules of the system's python3.
	out=$(env -C "$TREE" PATH="/usr/bin:$PATH" "${history[@]}" perl scripts/checkpatch.pl --strict --codespell --show-types \
		"${ignore[@]}" "$TOP/patches/$patch" 2>&1 || true)
	grep -q '^total: [0-9]' <<<"$out" || { echo "checkpatch does not work: $out"; return 1; }
	out=$(grep -E '^(ERROR|WARNING|CHECK):' <<<"$out" |
		grep -vx 'ERROR:MISSING_SIGN_OFF: Missing Signed-off-by: line(s)' |
		grep -vxE 'CHECK:CAMELCASE: Avoid CamelCase: <(__SetPageOffline|MovableOpsIsolated)>' |
		grep -v '^WARNING:FILE_PATH_CHANGES: ' || true)
	if grep -q '^Signed-off-by:' "$TOP/patches/$patch"; then
		out+=$'\nSigned-off-by: is for the human who posts'
	fi
	grep -q '^Assisted-by: LLM' "$TOP/patches/$patch" || out+=$'\nAssisted-by: LLM is missing'
	# Without the commit, checkpatch does not look at the rest of the line.
	if sed '/^---$/q' "$TOP/patches/$patch" | grep '^Fixes:' | grep -qvE '^Fixes: [0-9a-f]{12,40} \(".+"\)$'; then
		out+=$'\nFixes: has to be a commit, and ("its subject")'
	fi
	if awk '/^---$/ { exit } !/^(Fixes|Link|Subject|From|Date|  )/ && length > 75 { bad = 1 } END { exit !bad }' "$TOP/patches/$patch"; then
		out+=$'\nthe message has lines of more than 75 columns'
	fi
	[ -z "$out" ] || { echo "$out"; return 1; }
}

checkpatch()
{
	export TOP TREE TAG
	export -f patch_is_clean tree_git
	# shellcheck disable=SC2016 # It is for the shells that look at one patch each.
	series_patches | xargs -n 1 -P "$JOBS" bash -c 'out=$(patch_is_clean "$1") || { printf "%s:\n%s\n" "$1" "$out"; exit 1; }' checkpatch
}

# What all of it came to; the exit status is for the script to end with.
gates_end()
{
	local f
	for f in "${failures[@]}"; do
		echo "failed: $f: $(log_of "$f")"
		# Again, as whoever sees only the end of this may not have the log.
		tail -n 8 "$(log_of "$f")" | tr -cd '[:print:]\n' | cut -c 1-150 | sed 's/^/    /'
	done
	echo "make ${0##*/}: $(elapsed "$gates_begin")"
	echo "$passed passed, $failed failed"
	if [ $((passed + failed)) -eq 0 ]; then
		warn "ONLY=${ONLY:-} names nothing"
		return 1
	fi
	[ $failed -eq 0 ]
}

progress() { tail -n 1 "$1" | tr -cd '[:print:]' | cut -c 1-90; }
