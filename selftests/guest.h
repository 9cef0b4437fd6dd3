/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the guest's test programs share that are no kselftests: they test one thing
 * after the other, and print KTAP like that of KUnit, which scripts/ktap.awk knows.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdarg.h>

#include "balloon.h"

#ifndef INDENT
#define INDENT	"    "
#endif

static bool failed;

/* Say why the current test fails. */
static void __attribute__((format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list args;

	failed = true;
	printf(INDENT "# ");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
}

static inline void expect(const char *what, long is, long should)
{
	if (is != should)
		fail("%s is %ld, and should be %ld", what, is, should);
}

static inline void nap(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static inline void set(const char *path, const char *value)
{
	int ret = write_file(path, value);

	if (ret)
		fail("can't write %s to %s: %s", value, path, strerror(-ret));
}

/* kB. */
static inline long meminfo(const char *key)
{
	return read_meminfo(key) / 1024;
}

struct test {
	const char *name;
	void (*run)(void);
};

/*
 * Run tests, with @before before each: those of which it fails do not run. What was
 * wrong even before that, is with the first one.
 */
static inline void run_tests(const char *suite, const struct test *tests, unsigned int nr,
			     void (*before)(void))
{
	unsigned int nr_failed = 0;

	for (unsigned int i = 0; i < nr; i++) {
		if (i > 0)
			failed = false;
		before();
		if (!failed)
			tests[i].run();
		nr_failed += failed;
		printf(INDENT "%sok %u %s\n", failed ? "not " : "", i + 1,
		       tests[i].name);
	}
	printf("%sok 1 %s\n", nr_failed ? "not " : "", suite);
}

static inline void begin_tests(const char *suite, unsigned int nr)
{
	setlinebuf(stdout);
	printf("KTAP version 1\n1..1\n");
	printf(INDENT "KTAP version 1\n" INDENT "# Subtest: %s\n" INDENT "1..%u\n",
	       suite, nr);
}

#endif /* GUEST_H */
