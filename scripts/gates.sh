# SPDX-License-Identifier: GPL-2.0-only
# What scripts/check and scripts/check-all share: gates, and what they came to.
# shellcheck shell=bash

# With these, something else would be checked.
for v in APPEND BOOT_OPTIONS CORE_BENCH DEBUG EXTRA_CONFIG MACHINES PATCHES PLAN RESULTS TEST VARIANT WIP; do
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

# scripts/each, of all commits. Little of what one touches can be built in parallel,
# but commits can.
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
