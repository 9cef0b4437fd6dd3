// SPDX-License-Identifier: GPL-2.0-only
/*
 * The first and only program of the guest.
 *
 * Mounts what tests need, copies the results of the KUnit tests that ran at
 * boot, runs the kselftests, and powers off. All results go to a virtio-serial
 * port, or to the terminal that "lab.results=TTY" names; "lab.host=TTY" names the
 * one through which the kselftests ask the host. The console is just a log. The
 * lines that this program adds to the results start with "lab: ".
 *
 * Words on the kernel's command line choose another job: "lab=probe" powers off
 * at once, "lab=shell" is for a person, "lab.test=COLLECTION:TEST" runs a single
 * kselftest, "lab.skip=COLLECTION:TEST" all others, and
 * "lab.run=PROGRAM,ARGUMENT,..." runs that instead of all tests. "lab=kunit" is for
 * the KUnit tests, without kselftests, but before "lab.run".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define RESULTS_PORT	"org.kernel.balloon.results"
#define KUNIT_DIR	"/sys/kernel/debug/kunit"

static int results = STDOUT_FILENO;

static void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	if (vdprintf(results, fmt, args) < 0)
		perror("results");
	va_end(args);
}

static void power_off(void)
{
	sync();
	reboot(RB_POWER_OFF);
	/* Not reached, unless there is no way to power off: then panic. */
	exit(1);
}

static void mount_fs(const char *type, const char *dir, const char *options)
{
	if (mkdir(dir, 0755) && errno != EEXIST)
		perror(dir);
	if (mount(type, dir, type, 0, options) && errno != EBUSY)
		fprintf(stderr, "lab: can't mount %s on %s: %s\n", type, dir,
			strerror(errno));
}

/* The value of @key= on the kernel's command line, or an empty string. */
static const char *cmdline(const char *key)
{
	static char line[4096];
	static char buf[256];
	size_t len = strlen(key);
	FILE *f = fopen("/proc/cmdline", "r");
	char *word;

	buf[0] = '\0';
	if (!f)
		return buf;
	if (fgets(line, sizeof(line), f)) {
		for (word = strtok(line, " \n"); word; word = strtok(NULL, " \n"))
			if (!strncmp(word, key, len) && word[len] == '=')
				snprintf(buf, sizeof(buf), "%s", word + len + 1);
	}
	fclose(f);
	return buf;
}

/* Open the virtio-serial port called @name; -1 if there is none. */
static int open_port(const char *name)
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *d;
	int fd = -1;

	if (!dir)
		return -1;
	while (fd < 0 && (d = readdir(dir))) {
		char path[512], found[64] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name",
			 d->d_name);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fgets(found, sizeof(found), f))
			found[strcspn(found, "\n")] = '\0';
		fclose(f);
		if (strcmp(found, name))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", d->d_name);
		fd = open(path, O_WRONLY | O_CLOEXEC);
	}
	closedir(dir);
	return fd;
}

/* Open a terminal that leaves alone what is written to it; -1 without. */
static int open_tty(const char *path)
{
	int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
	struct termios tio;

	if (fd >= 0 && !tcgetattr(fd, &tio)) {
		cfmakeraw(&tio);
		tcsetattr(fd, TCSANOW, &tio);
	}
	return fd;
}

/* Copy what can be read from @fd to the results, to its end. */
static void copy_fd(int fd)
{
	char buf[4096];
	ssize_t len;

	while ((len = read(fd, buf, sizeof(buf))) > 0)
		if (write(results, buf, len) != len)
			break;
	close(fd);
}

static void copy_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		say("lab: can't read %s: %s\n", path, strerror(errno));
	else
		copy_fd(fd);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void copy_kunit_results(void)
{
	struct dirent **suites;
	int i, n;

	n = scandir(KUNIT_DIR, &suites, NULL, by_name);
	for (i = 0; i < n; i++) {
		char path[512];

		if (suites[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), KUNIT_DIR "/%s/results",
			 suites[i]->d_name);
		say("lab: kunit %s\n", suites[i]->d_name);
		copy_file(path);
	}
}

/*
 * Run a program and copy its output to the results. It gets a pipe instead of
 * the port because it may want to open /dev/stdout again.
 */
static void run(char *const argv[])
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC)) {
		say("lab: pipe: %s\n", strerror(errno));
		return;
	}
	pid = fork();
	if (!pid) {
		dup2(fds[1], STDOUT_FILENO);
		dup2(fds[1], STDERR_FILENO);
		execv(argv[0], argv);
		dprintf(fds[1], "lab: can't run %s: %s\n", argv[0],
			strerror(errno));
		_exit(127);
	}
	close(fds[1]);
	copy_fd(fds[0]);
	/* As init, reap everybody who came by. */
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void run_kselftests(void)
{
	char *argv[4] = { "/kselftest/run_kselftest.sh" };

	if (access(argv[0], X_OK))
		return;
	if (*cmdline("lab.test")) {
		argv[1] = "-t";
		argv[2] = (char *)cmdline("lab.test");
	} else if (*cmdline("lab.skip")) {
		argv[1] = "-S";
		argv[2] = (char *)cmdline("lab.skip");
	}
	say("lab: kselftest\n");
	run(argv);
}

static void run_program(const char *words)
{
	char *argv[32] = {};
	int argc = 0;

	for (char *word = strtok((char *)words, ","); word && argc < 31;
	     word = strtok(NULL, ","))
		argv[argc++] = word;
	say("lab: run %s\n", argv[0]);
	run(argv);
}

/* Non-zero if anything has gone wrong that tests don't notice. */
static unsigned long tainted(void)
{
	unsigned long value = ~0UL;
	FILE *f = fopen("/proc/sys/kernel/tainted", "r");

	if (f) {
		if (fscanf(f, "%lu", &value) != 1)
			value = ~0UL;
		fclose(f);
	}
	return value;
}

/*
 * If the kernel can look for memory that it has leaked, have it do so, and tell the
 * console, as any other complaint of the kernel. It looks twice, to see that what it
 * suspects has not changed, and not at what is younger than five seconds.
 */
static void find_leaks(void)
{
	int fd = open("/sys/kernel/debug/kmemleak", O_RDWR | O_CLOEXEC);
	char buf[4096];
	ssize_t len;

	if (fd < 0 && errno == ENOENT)
		return;
	sleep(6);
	for (int i = 0; i < 2; i++)
		if (write(fd, "scan", 4) != 4)
			printf("WARNING: kmemleak: %s\n", strerror(errno));
	while ((len = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, len, stdout);
	fflush(stdout);
	close(fd);
}

static void shell(void)
{
	char *argv[] = { "/bin/sh", "-l", NULL };
	pid_t pid = fork();

	if (!pid) {
		setsid();
		ioctl(STDIN_FILENO, TIOCSCTTY, 1);
		puts("\nkselftests: /kselftest/run_kselftest.sh   "
		     "KUnit: " KUNIT_DIR "/*/results\n"
		     "\"exit\" powers off; Ctrl-A X ends QEMU.");
		fflush(stdout);
		execv(argv[0], argv);
		perror(argv[0]);
		_exit(127);
	}
	while (waitpid(-1, NULL, 0) != pid)
		;
}

int main(void)
{
	struct utsname uts;
	bool kunit;
	int fd;

	mount_fs("proc", "/proc", NULL);
	mount_fs("sysfs", "/sys", NULL);
	mount_fs("devtmpfs", "/dev", NULL);
	mount_fs("debugfs", "/sys/kernel/debug", NULL);
	mount_fs("tracefs", "/sys/kernel/tracing", NULL);
	mount_fs("tmpfs", "/tmp", "size=64m");
	if (symlink("/proc/self/fd", "/dev/fd") ||
	    symlink("/proc/self/fd/1", "/dev/stdout"))
		perror("symlink");
	setenv("PATH", "/usr/bin:/bin:/usr/sbin:/sbin", 1);
	setenv("HOME", "/tmp", 1);
	if (*cmdline("lab.host"))
		setenv("BALLOON_HOST", cmdline("lab.host"), 1);

	fd = open_port(RESULTS_PORT);
	if (fd < 0 && *cmdline("lab.results"))
		fd = open_tty(cmdline("lab.results"));
	if (fd >= 0)
		results = fd;
	if (uname(&uts))
		uts.release[0] = '\0';
	say("lab: up %s\n", uts.release);

	if (!strcmp(cmdline("lab"), "probe"))
		power_off();
	if (!strcmp(cmdline("lab"), "shell")) {
		shell();
		power_off();
	}

	kunit = !strcmp(cmdline("lab"), "kunit");
	if (kunit || !*cmdline("lab.run"))
		copy_kunit_results();
	if (*cmdline("lab.run"))
		run_program(cmdline("lab.run"));
	else if (!kunit)
		run_kselftests();
	find_leaks();
	say("lab: tainted %lu\n", tainted());
	say("lab: done\n");
	if (fd >= 0)
		close(fd);
	power_off();
}
