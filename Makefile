# SPDX-License-Identifier: GPL-2.0-only
# Every verb is a script in scripts/ with a --help of its own. "make help" lists
# them, and the variables that they know: make passes on all that were set.

VERBS := all deps base tree config image initramfs test base-image reproduce \
	 boot bench hostile refresh b4 version-diff ci-matrix check check-all selfcheck

# What an object depends on, the compiler says when it is done: no need to have ccache
# preprocess all of it first.
export CCACHE_DEPEND := 1

# The same source links to the same image, however often it was linked.
export KBUILD_BUILD_VERSION := 1

# Everybody means the same directory, wherever they are.
ifneq ($(BUILD),)
export override BUILD := $(abspath $(BUILD))
endif

.NOTPARALLEL:
.PHONY: $(VERBS) help clean

ifndef BALLOON_LOCKED

# One make at a time in a build directory, from its first step to its last. By a name
# that make does not know, or "make -n" would call it.
SUBMAKE = $(MAKE)
$(VERBS):
	@scripts/locked $(SUBMAKE) --no-print-directory $@

else

all: image initramfs
	@scripts/test --if-changed
deps:
	@scripts/deps
base: deps
	@scripts/base
tree: base
	@scripts/tree
config: tree
	@scripts/configure
image: config
	@scripts/build
initramfs: tree
	@scripts/initramfs
test: image initramfs
	@scripts/test
boot: image initramfs
	@scripts/boot --shell --accel "$$(scripts/accel)" $(MACHINES:%=--machine %)
base-image:
	@$(MAKE) KIND=base image
reproduce:
	@$(MAKE) KIND=tests test
bench:
	@scripts/bench --check
	@$(MAKE) KIND=series CORE_BENCH=1 initramfs image
	@$(MAKE) KIND=$(or $(V73),base) CORE_BENCH=1 image
	@KIND=series scripts/bench
hostile: initramfs
	@$(MAKE) VARIANT=um image
	@VARIANT=um scripts/hostile
refresh:
	@scripts/refresh
b4: base
	@scripts/b4
version-diff: base
	@scripts/version-diff
ci-matrix:
	@scripts/ci-matrix
check: deps
	@scripts/check
check-all:
	@scripts/deps --all
	@scripts/check-all
selfcheck: all
	@$(MAKE) VARIANT=um image
	@scripts/selfcheck

endif

all:	# What a plain "make" does.

help:
	@scripts/help
clean:
	@scripts/clean
