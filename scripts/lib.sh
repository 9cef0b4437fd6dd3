# SPDX-License-Identifier: GPL-2.0-only
# What the scripts share: settings, messages, and steps that take time.
# shellcheck shell=bash

set -euo pipefail

# What was said to our make is not for others: BUILD=DIR means something to the kernel's.
unset MAKEFLAGS MAKEOVERRIDES

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly TOP

# The mainline tag that the series is for. Another one is only tried.
readonly PIN=v7.3
TAG=${TAG:-$PIN}
BUILD=${BUILD:-$TOP/build}
[ "$TAG" = "$PIN" ] || BUILD=$BUILD/$TAG
CACHE=${CACHE:-${XDG_CACHE_HOME:-${HOME:-$TOP/build}/.cache}/linux-balloon}
JOBS=${JOBS:-$(nproc)}
DEBUG=${DEBUG:-}

# The configuration, a row of kernel-config/matrix. DEBUG=1 is short for one.
VARIANT=${VARIANT:-${DEBUG:+debug}}
[ "$VARIANT" != default ] || VARIANT=

# Three trees: the series; v7.3; and v7.3 with nothing but the series' tests.
KIND=${KIND:-series}
TREE=$BUILD/series/tree		# The repository; the others are its worktrees.
# shellcheck disable=SC2034 # For those who source this.
readonly SPARSE=$BUILD/tools/sparse	# scripts/deps --all
OBJ=$BUILD/$KIND/obj${VARIANT:+-$VARIANT}

# Commits in $TREE must not depend on who makes them, nor on how git is set up.
IDENTITY="Balloon Series <balloon-series@localhost>"
export GIT_AUTHOR_NAME="${IDENTITY% <*}" GIT_COMMITTER_NAME="${IDENTITY% <*}"
export GIT_AUTHOR_EMAIL=balloon-series@localhost
export GIT_COMMITTER_EMAIL=balloon-series@localhost
export LC_ALL=C.UTF-8

say() { printf '%s\n' "$*"; }
warn() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { warn "$*"; exit 1; }

# usage TEXT "$@": the text on --help, an error on anything else.
usage()
{
	local text=$1
	shift
	[ $# -eq 0 ] && return
	case $1 in
	-h|--help) say "$text"; exit 0 ;;
	*) say "$text" >&2; exit 2 ;;
	esac
}

# read_variant: what the matrix says of VARIANT.
# shellcheck disable=SC2034 # For those who source this.
read_variant()
{
	local name arch tools
	while read -r name _ arch tools FRAGMENTS; do
		[ "$name" = "${VARIANT:-default}" ] || continue
		ARCH=$arch CROSS='' TOOLS=("CC=ccache gcc")
		case $tools in
		-) ;;
		*-linux-gnu-) CROSS=$tools TOOLS=("CC=ccache ${tools}gcc") ;;
		clang-*) TOOLS=("CC=ccache $tools" "LLVM=-${tools#clang-}") ;;
		sparse) TOOLS+=(C=1 CHECK="$SPARSE") ;;
		*) die "kernel-config/matrix: $name has unknown tools: $tools" ;;
		esac
		CONFIG_TARGET=tinyconfig
		if [[ $FRAGMENTS = all*config* ]]; then
			CONFIG_TARGET=${FRAGMENTS%% *}
			FRAGMENTS=${FRAGMENTS#"$CONFIG_TARGET"}
		fi
		# The compiler of the kernel can do both, but has no library for 32 bit.
		GUEST_CROSS=$CROSS
		[[ " $FRAGMENTS " != *" i386 "* ]] || GUEST_CROSS=i686-linux-gnu-
		case $arch in
		x86) IMAGE=$OBJ/arch/x86/boot/bzImage ;;
		*) IMAGE=$OBJ/vmlinux ;;
		esac
		ARCHIVE=$BUILD/$KIND/initramfs${GUEST_CROSS:+-${GUEST_CROSS%%-*}}.gz
		return
	done <"$TOP/kernel-config/matrix"
	die "VARIANT=$VARIANT is not in kernel-config/matrix"
}

# make in a kernel tree, for the variant, with the compilers behind ccache.
kernel_make()
{
	make ARCH="$ARCH" CROSS_COMPILE="$CROSS" "${TOOLS[@]}" HOSTCC="ccache gcc" -j"$JOBS" "$@"
}

# The machines of the variant's architecture, but for those that take too long for
# each run.
machines()
{
	local f
	for f in "$TOP"/selftests/machines/*; do
		# shellcheck source=../selftests/machines/managed
		(. "$f"; [ "${MACHINE_ARCH:-x86}${MACHINE_LONG:-}" != "$ARCH" ] || echo "${f##*/}")
	done
}

# git in a repository of ours, whatever the user's configuration says.
tree_git() { GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git -C "$TREE" "$@"; }

# sparse_clone DIR [PATCHES]: a clone that borrows the objects of $TREE. Its files are
# those that the patches name, and what git has to know to make a diff of them.
sparse_clone()
{
	rm -rf "$1"
	tree_git clone -q --shared --no-checkout "$TREE" "$1" &&
	{ echo /.gitattributes; sed -n 's,^\(---\|+++\) [ab]/,/,p' "${2:-$TOP/patches}"/*.patch; } | sort -u |
		tree_git -C "$1" sparse-checkout set --no-cone --stdin &&
	tree_git -C "$1" checkout -q -B series
}

# One job at a time in a build directory; the lock goes away with its holder.
lock_build()
{
	mkdir -p "$BUILD" || die "can't create $BUILD: set BUILD to a directory that is yours"
	[ -z "${BALLOON_LOCKED:-}" ] || return 0
	exec 9>"$BUILD/.lock"
	flock -n 9 || die "another make is at work in $BUILD: wait for it, or set BUILD to another directory"
	export BALLOON_LOCKED=1
}

# need_space MB WHAT: refuse to begin what will not fit.
need_space()
{
	local free
	free=$(df -Pm "$BUILD" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$1" ] ||
		die "not enough disk space: $2 needs $1 MB and $BUILD has $free MB; free some, or set BUILD to a directory elsewhere"
}

# A failed command may only have had no room to write to: say so, then.
explain_failure()
{
	local free
	free=$(df -Pm "$BUILD" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge 16 ] || warn "no disk space left on $BUILD"
}

elapsed()
{
	local s=$((SECONDS - $1))
	printf '%d:%02d' $((s / 60)) $((s % 60))
}

# End a job with everything that it has started.
end_job()
{
	[ -n "${1:-}" ] || return 0
	kill -TERM -- "-$1" 2>/dev/null || kill -TERM "$1" 2>/dev/null || return 0
	wait "$1" 2>/dev/null || true
}

# step TITLE LOG COMMAND...: run a command whose output goes to a log. Says how
# long it took, and every 10 s that it is still at work ("progress", a function
# that the caller may have, prints how far it is). The caller's traps run on
# Ctrl-C; the command does not survive them.
step()
{
	local title=$1 log=$2 begin=$SECONDS said=$SECONDS rc=0
	shift 2
	printf '  %-44s ' "$title"
	mkdir -p "${log%/*}"
	set -m
	"$@" >"$log" 2>&1 9>&- </dev/null &
	step_pid=$!
	set +m
	trap 'end_job "$step_pid"; echo; warn "interrupted"; exit 130' INT TERM HUP
	while kill -0 "$step_pid" 2>/dev/null; do
		sleep 0.2
		if [ $((SECONDS - said)) -ge 10 ]; then
			said=$SECONDS
			printf '\n    %s  %s' "$(elapsed "$begin")" \
				"$(progress "$log" 2>/dev/null || tail -n 1 "$log" | cut -c 1-60)"
		fi
	done
	wait "$step_pid" || rc=$?
	trap - INT TERM HUP
	[ $said -eq "$begin" ] || printf '\n  %-44s ' "$title"
	if [ $rc -eq 0 ]; then
		printf 'done    %s\n' "$(elapsed "$begin")"
	else
		printf 'FAILED  %s\n' "$(elapsed "$begin")"
		explain_failure
	fi
	return $rc
}

# unchanged TITLE: a step that has nothing to do.
unchanged() { printf '  %-44s unchanged\n' "$1"; }

# shellcheck disable=SC2034 # For those who source this.
# What a kernel in trouble says. "Modules linked in" and the like come after it.
readonly SPLAT='Kernel panic|Oops[: ]|BUG:|kernel BUG at|WARNING:|UBSAN:|KASAN:|KCSAN:|KFENCE:|INFO: task .* blocked|INFO: rcu|rcu: INFO:|rcu: .*detected .*stall|stalls on CPUs|self-detected stall|soft lockup|hard LOCKUP|INFO: possible|INFO: inconsistent|INFO: suspicious|INFO: trying to register|circular locking|inconsistent lock state|suspicious RCU usage|DEBUG_LOCKS_WARN_ON|general protection fault|unable to handle|unreferenced object|Out of memory: Killed process|Attempted to kill init|scheduling while atomic|sleeping function called|list_(add|del) corruption|Bad page state|pagealloc: (memory corruption|single bit error)|Invalid ELF|nosmp'

# The patches to apply, in order: all of the series, PATCHES=FROM..TO of them,
# or those that the series marks with "# test".
series_patches()
{
	local -a all
	local from=1 to

	if [ "$KIND" = tests ]; then
		sed -n 's/^\([^#[:space:]]\+\)[[:space:]]*# test$/\1/p' "$TOP/series"
		return
	fi
	mapfile -t all < <(sed 's/[[:space:]]*#.*//; /^[[:space:]]*$/d' "$TOP/series")
	to=${#all[@]}
	if [ -n "${PATCHES:-}" ]; then
		[[ $PATCHES =~ ^([0-9]+)(\.\.([0-9]+))?$ ]] ||
			die "PATCHES=$PATCHES: say 3, or 1..3"
		from=${BASH_REMATCH[1]}
		to=${BASH_REMATCH[3]:-$from}
		if [ "$from" -lt 1 ] || [ "$from" -gt "$to" ] || [ "$to" -gt "${#all[@]}" ]; then
			die "PATCHES=$PATCHES: the series has ${#all[@]} patches"
		fi
	fi
	[ "$to" -gt 0 ] || return 0
	printf '%s\n' "${all[@]:from-1:to-from+1}"
}

# Here, as it is only called in subshells, which "die" would end instead of us.
[ -z "${PATCHES:-}" ] || series_patches >/dev/null

# A name for the contents of the series as it is to be applied.
series_id()
{
	local -a patches
	mapfile -t patches < <(series_patches)
	for p in "${patches[@]}"; do
		[ -f "$TOP/patches/$p" ] || die "series names patches/$p, which does not exist"
	done
	(cd "$TOP/patches" && printf '%s\n' "${patches[@]}" && cat -- "${patches[@]}") | sha256sum | cut -c 1-16
}

# series_comment NAME: the value of a line "# NAME: VALUE" of the series.
series_comment() { sed -n "s/^# $1: *//p" "$TOP/series"; }

# The text of the cover letter, the subject first, without what git adds.
readonly COVER=$TOP/patches/0000-cover-letter.patch
cover_text()
{
	sed -n 's/^Subject: \[PATCH[^]]*\] //p' "$COVER"
	echo
	sed "1,/^\$/d; /^${IDENTITY% <*} ([0-9]*):\$/,\$d" "$COVER"
}
