// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test vmw_host without a guest: this program is QEMU, as far as a debugger can
 * tell, and a driver, good or bad.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdint.h>
#include <sys/wait.h>

#include "host.h"

#define PAGE_SHIFT	12
#define BATCH_MAX	512
#define FRAMES_2M	512
#define BATCH_PFN	0x200UL
#define MEMORY_CHUNK	1024
#define RAM_FRAMES	0x40000UL	/* 1 GiB */

enum { RAX, RBX, RCX, RDX, RSI, RIP = 16, NR_REGS };

#define HV_MAGIC	0x456c6d6f
#define HV_PORT		0x5670

enum command {
	START, GET_TARGET, LOCK, UNLOCK, GUEST_ID, BATCHED_LOCK = 6,
	BATCHED_UNLOCK, BATCHED_2M_LOCK, BATCHED_2M_UNLOCK, DOORBELL_SET
};

enum status {
	SUCCESS, CMD_INVALID, PPN_INVALID, PPN_LOCKED, PPN_UNLOCKED,
	PPN_PINNED, PPN_NOTNEEDED, RESET, BUSY,
	SUCCESS_WITH_CAPABILITIES = 0x03000000
};

#define ALL_CAPABILITIES	0x2eUL
#define BASIC_CMDS		0x02UL
#define BATCHED_CMDS		0x04UL
#define BATCHED_2M_CMDS		0x08UL

/* What the host looks for in a vmlinux: such a function with this byte and its magic. */
extern const char vmballoon_hypercall[];
__asm__(".text\n"
	".type vmballoon_hypercall, @function\n"
	"vmballoon_hypercall: .byte 0xed\n"
	".long 0x456c6d6f\n"
	".size vmballoon_hypercall, 5\n");

static const char *host_path;
static char dir[] = "/tmp/vmw_host_test.XXXXXX";
static struct {
	pid_t pid;
	int gdb;
	struct connection port;
} host;
static uint64_t regs[NR_REGS];
static uint64_t batch[BATCH_MAX];	/* The page at BATCH_PFN. */
static const char zeros[MEMORY_CHUNK];
static int tests, failures;

static void check(bool ok, const char *fmt, ...)
{
	va_list args;

	failures += !ok;
	printf("%sok %d ", ok ? "" : "not ", ++tests);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

static void clean_up(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/gdb", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/port", dir);
	unlink(path);
	rmdir(dir);
}

static int hex_digit(int c)
{
	return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

static void from_hex(const char *hex, void *data, size_t size)
{
	for (unsigned char *p = data; size--; hex += 2)
		*p++ = hex_digit(hex[0]) << 4 | hex_digit(hex[1]);
}

static void to_hex(char *hex, const void *data, size_t size)
{
	for (const unsigned char *p = data; size--; hex += 2)
		sprintf(hex, "%02x", *p++);
}

static void put(const char *data, size_t len)
{
	if (write(host.gdb, data, len) != (ssize_t)len)
		die("the host is gone");
}

static int get(void)
{
	static unsigned char buf[16384];
	static ssize_t len, pos;

	if (pos == len) {
		len = read(host.gdb, buf, sizeof(buf));
		pos = 0;
		if (len <= 0)
			die("the host is gone");
	}
	return buf[pos++];
}

static void send_packet(const char *data)
{
	static char frame[16384];
	unsigned char sum = 0;

	for (const char *p = data; *p; p++)
		sum += *p;
	put(frame, snprintf(frame, sizeof(frame), "$%s#%02x", data, sum));
}

/* Be QEMU, until the guest goes on. */
static void serve(void)
{
	static char packet[16384], answer[16384];
	unsigned long addr, len;
	char *hex;

	for (;;) {
		size_t n = 0;
		int c;

		while (get() != '$')
			;
		while ((c = get()) != '#' && n < sizeof(packet) - 1)
			packet[n++] = c;
		packet[n] = '\0';
		get();
		get();
		put("+", 1);

		strcpy(answer, "OK");
		switch (packet[0]) {
		case 'c':
			return;
		case 'g':
			to_hex(answer, regs, sizeof(regs));
			break;
		case 'G':
			from_hex(packet + 1, regs, sizeof(regs));
			break;
		case 'm':
		case 'M':
			if (sscanf(packet + 1, "%lx,%lx", &addr, &len) != 2 ||
			    len > MEMORY_CHUNK) {
				strcpy(answer, "E14");
				break;
			}
			hex = strchr(packet, ':');
			/* All memory but the batch page is always empty. */
			if (addr >> PAGE_SHIFT != BATCH_PFN) {
				if (!hex)
					to_hex(answer, zeros, len);
				break;
			}
			addr &= 0xfff;
			if (hex)
				from_hex(hex + 1, (char *)batch + addr, len);
			else
				to_hex(answer, (char *)batch + addr, len);
			break;
		case 'q':
			if (strncmp(packet, "qRcmd", 5))
				break;
			strcpy(answer, "O");
			to_hex(answer + 1, "base memory: 1073741824\n", 24);
			send_packet(answer);
			strcpy(answer, "OK");
			break;
		}
		send_packet(answer);
	}
}

static int listen_at(const char *name)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", dir, name);
	unlink(addr.sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, 1))
		die("%s: %s", addr.sun_path, strerror(errno));
	return fd;
}

/* Start a host with @options, words with spaces between them. */
static void start_host(const char *options)
{
	int gdb = listen_at("gdb"), port = listen_at("port"), fd;
	char gdb_path[64], port_path[64], *text = strdup(options);
	char *argv[32] = {
		(char *)host_path, "--gdb", gdb_path, "--port", port_path,
		"--vmlinux", "/proc/self/exe"
	};
	int argc = 7;

	snprintf(gdb_path, sizeof(gdb_path), "%s/gdb", dir);
	snprintf(port_path, sizeof(port_path), "%s/port", dir);
	argv[6] = realpath("/proc/self/exe", NULL);
	for (char *word = strtok(text, " "); word && argc < 31; word = strtok(NULL, " "))
		argv[argc++] = word;
	fflush(stdout);
	host.pid = fork();
	if (!host.pid) {
		freopen("/dev/null", "w", stderr);
		execv(host_path, argv);
		_exit(127);
	}
	/* It does not come if it does not like its options. */
	alarm(10);
	host.gdb = accept(gdb, NULL, NULL);
	fd = accept(port, NULL, NULL);
	alarm(0);
	host.port.in = fdopen(fd, "r");
	host.port.out = fdopen(dup(fd), "w");
	setvbuf(host.port.out, NULL, _IOLBF, 0);
	close(gdb);
	close(port);
	free(argv[6]);
	free(text);
	serve();
}

static void stop_host(void)
{
	int status;

	close(host.gdb);
	fclose(host.port.in);
	fclose(host.port.out);
	waitpid(host.pid, &status, 0);
	check(WIFEXITED(status) && !WEXITSTATUS(status), "the host ends");
}

/* A request through the guest's port; -1 if it is not "ok", or that has no number. */
static long request(const char *text)
{
	char line[256];
	long n = 0;

	fprintf(host.port.out, "%s\n", text);
	if (!fgets(line, sizeof(line), host.port.in) || strncmp(line, "ok", 2))
		return -1;
	sscanf(line, "ok %ld", &n);
	return n;
}

static unsigned long hypercall(unsigned long command, unsigned long arg1,
			       unsigned long arg2)
{
	memset(regs, 0, sizeof(regs));
	regs[RAX] = HV_MAGIC;
	regs[RBX] = arg1;
	regs[RCX] = command;
	regs[RDX] = HV_PORT;
	regs[RSI] = arg2;
	regs[RIP] = 0x1000;
	send_packet("T05thread:01;");
	serve();
	if (regs[RIP] != 0x1001)
		die("the guest is at %#lx", regs[RIP]);
	return regs[RAX];
}

/* A batch with a single page. */
static unsigned long one(unsigned long command, unsigned long pfn)
{
	batch[0] = pfn << PAGE_SHIFT;
	if (hypercall(command, BATCH_PFN, 1) != SUCCESS)
		return regs[RAX];
	return batch[0] & 0x1f;
}

static long last_violations;

/* That was @n violations. */
static void check_call(unsigned long status, unsigned long want, long n,
		       const char *what)
{
	long violations = request("violations");

	check(status == want && violations - last_violations == n,
	      "%s: status %#lx, %ld violations", what, status,
	      violations - last_violations);
	last_violations = violations;
}

static void test_books(void)
{
	start_host("");
	last_violations = 0;
	check_call(hypercall(LOCK, 0x1000, 1), CMD_INVALID, 1, "before a session");
	check_call(hypercall(START, ~0UL, 0), SUCCESS_WITH_CAPABILITIES, 0, "START");
	check(regs[RCX] == ALL_CAPABILITIES, "capabilities %#lx", regs[RCX]);
	check_call(hypercall(LOCK, 0x1000, 1), SUCCESS, 0, "lock");
	check(request("actual") == 4096, "actual");
	check_call(hypercall(LOCK, 0x1000, 1), PPN_LOCKED, 1, "lock twice");
	check_call(hypercall(UNLOCK, 0x1000, 1), SUCCESS, 0, "unlock");
	check_call(hypercall(UNLOCK, 0x1000, 1), PPN_UNLOCKED, 1, "unlock twice");
	check_call(hypercall(LOCK, RAM_FRAMES - 1, 1), SUCCESS, 0, "the last page");
	check_call(hypercall(LOCK, RAM_FRAMES, 1), PPN_INVALID, 1, "behind the memory");
	check_call(hypercall(LOCK, 0x100000, 1), PPN_INVALID, 1, "at 4 GiB");
	check_call(hypercall(LOCK, ~0UL, 1), PPN_INVALID, 1, "no PFN");
	check_call(hypercall(LOCK, 0xa0, 1), PPN_INVALID, 1, "in the hole");
	check_call(one(BATCHED_2M_LOCK, 0x2000), SUCCESS, 0, "lock 2 MiB");
	check_call(one(BATCHED_LOCK, 0x2005), PPN_LOCKED, 1, "lock a part of it");
	check_call(one(BATCHED_UNLOCK, 0x2005), PPN_UNLOCKED, 1, "unlock a part of it");
	check_call(one(BATCHED_UNLOCK, 0x2000), PPN_UNLOCKED, 1, "unlock the first part");
	check_call(one(BATCHED_2M_LOCK, 0x2205), PPN_INVALID, 1, "2 MiB in between");
	check_call(one(BATCHED_LOCK, 0x2405), SUCCESS, 0, "lock a page in a batch");
	check_call(one(BATCHED_2M_LOCK, 0x2400), PPN_LOCKED, 1, "lock 2 MiB around it");
	check_call(one(BATCHED_2M_UNLOCK, 0x2000), SUCCESS, 0, "unlock 2 MiB");
	check_call(one(BATCHED_LOCK, 0x2005), SUCCESS, 0, "lock what was a part");
	batch[0] = 0x3000 << PAGE_SHIFT | 0x20;
	check_call(hypercall(BATCHED_LOCK, BATCH_PFN, 1), SUCCESS, 1, "reserved bits");
	check_call(hypercall(BATCHED_LOCK, BATCH_PFN, 0), PPN_INVALID, 1, "no batch");
	check_call(hypercall(BATCHED_LOCK, BATCH_PFN, 513), PPN_INVALID, 1, "513 pages");
	check_call(hypercall(BATCHED_LOCK, 0x3000, 1), PPN_INVALID, 1, "batch page locked");
	check_call(hypercall(5, 0, 0), CMD_INVALID, 0, "no command 5");
	check_call(hypercall(11, 0, 0), CMD_INVALID, 1, "command 11");
	check_call(hypercall(START, BASIC_CMDS, 0), SUCCESS_WITH_CAPABILITIES, 0, "START");
	check(request("actual") == 0, "a session begins with nothing");
	check_call(one(BATCHED_LOCK, 0x1000), CMD_INVALID, 1, "not offered");
	check(request("sessions") == 2, "two sessions");
	stop_host();
}

static void test_rules(void)
{
	int refused = 0;

	start_host("--capabilities 0x2e,0x2,4 --refuse command=lock,size=4k,after=1,every=3,count=2"
		   " --refuse pfn=0x4000-0x4001,status=ppn_notneeded"
		   " --fail command=get_target,count=1 --fail command=guest_id,status=77");
	last_violations = 0;
	hypercall(START, ~0UL, 0);
	check_call(hypercall(GET_TARGET, 0, 0), BUSY, 0, "fail once");
	check_call(hypercall(GET_TARGET, RAM_FRAMES, 0), SUCCESS, 0, "and not again");
	check_call(hypercall(GUEST_ID, 1, 0), 77, 0, "fail with a number");
	check_call(one(BATCHED_2M_LOCK, 0x6000), SUCCESS, 0, "not of this size");
	check_call(one(BATCHED_2M_UNLOCK, 0x6000), SUCCESS, 0, "nor this command");
	for (int i = 0; i < 16; i++)
		batch[i] = (0x5000UL + i) << PAGE_SHIFT;
	hypercall(BATCHED_LOCK, BATCH_PFN, 16);
	for (int i = 0; i < 16; i++)
		if ((batch[i] & 0x1f) == PPN_PINNED)
			refused |= 1 << i;
	check(refused == (1 << 1 | 1 << 4), "refused: %#x", refused);
	check(request("actual") == 14 << PAGE_SHIFT, "the others are locked");
	check_call(one(BATCHED_LOCK, 0x4001), PPN_NOTNEEDED, 0, "refuse by PFN");
	check_call(one(BATCHED_LOCK, 0x4002), SUCCESS, 0, "but not the next one");
	check(request("fail command=no_such_command") == -1, "a rule that is wrong");
	check(request("refuse status=32") == -1, "a status that does not fit");
	check(request("refuse status=reset") == -1, "a status that pages don't have");
	check(request("refuse status=busy,command=unlock") == 0, "another rule");
	check_call(one(BATCHED_UNLOCK, 0x4002), BUSY, 0, "from the guest's port");
	check(request("clear") == 0, "no rules");
	check_call(one(BATCHED_UNLOCK, 0x4002), SUCCESS, 0, "any more");
	check(request("fail command=batched_lock,status=reset,count=1") == 0, "reset");
	check_call(hypercall(BATCHED_LOCK, BATCH_PFN, 1), RESET, 0, "at a command");
	check_call(hypercall(GET_TARGET, 0, 0), RESET, 0, "and after it");
	check_call(hypercall(START, ~0UL, 0), SUCCESS_WITH_CAPABILITIES, 0, "until START");
	check(regs[RCX] == 2, "other capabilities %#lx", regs[RCX]);
	check_call(hypercall(GET_TARGET, RAM_FRAMES, 0), SUCCESS, 0, "and all is well");
	check(request("reset") == 0, "reset again");
	check_call(hypercall(LOCK, 0x1000, 1), RESET, 0, "from the guest's port");
	hypercall(START, ~0UL, 0);
	check(regs[RCX] == 4, "the last capabilities %#lx", regs[RCX]);
	hypercall(START, ~0UL, 0);
	check(regs[RCX] == 4, "which stay");
	stop_host();
}

/* What a driver may not say, whatever it does. */
static void test_arguments(void)
{
	start_host("--capabilities 0x2e,0x3e");
	last_violations = 0;
	hypercall(START, ~0UL, 0);
	check_call(hypercall(GET_TARGET, 0, 0), SUCCESS, 1, "no limit");
	check_call(hypercall(GET_TARGET, RAM_FRAMES + 1, 0), SUCCESS, 1, "more than there is");
	check_call(hypercall(GUEST_ID, 1, 0), SUCCESS, 0, "Linux");
	check_call(hypercall(GUEST_ID, 2, 0), SUCCESS, 1, "something else");
	check_call(hypercall(LOCK, 0x1000, 2), SUCCESS, 1, "two pages");
	check_call(hypercall(UNLOCK, 0x1000, 1), SUCCESS, 0, "one page");
	check(request("hash 4096 16") == 0, "the hash of no page");
	hypercall(LOCK, 0x1001, 1);
	hypercall(LOCK, 0x1002, 1);
	check(request("hash 4096 16") ==
	      (long)((0UL + request("hash 4097 1") + request("hash 4098 1")) & LONG_MAX),
	      "the hash of two pages");
	check(request("hash 4097 1") != request("hash 4098 1"), "of different ones");
	check_call(hypercall(DOORBELL_SET, 2, 1), CMD_INVALID, 1, "a doorbell not offered");
	check_call(hypercall(DOORBELL_SET, ~0UL, ~0UL), CMD_INVALID, 0, "none to take back");
	check_call(hypercall(START, ~0UL, 0), SUCCESS_WITH_CAPABILITIES, 0, "it is now");
	check_call(hypercall(DOORBELL_SET, 2, 1), SUCCESS, 0, "a doorbell");
	check(request("doorbell") == 1, "the host has it");
	check_call(hypercall(DOORBELL_SET, 2, 1), SUCCESS, 1, "another one");
	check_call(hypercall(START, ~0UL, 0), SUCCESS_WITH_CAPABILITIES, 1, "not taken back");
	check_call(hypercall(DOORBELL_SET, 2, 1), SUCCESS, 0, "once more");
	check(request("reset") == 0, "reset");
	check_call(hypercall(DOORBELL_SET, ~0UL, ~0UL), RESET, 0, "taken back");
	check_call(hypercall(START, ~0UL, 0), SUCCESS_WITH_CAPABILITIES, 0, "and gone");
	check(request("doorbell") == 0, "the host has none");
	stop_host();
}

/* A driver: whole pages of both sizes, of which it knows which it has given. */
#define SMALL		2000
#define LARGE		16
#define FIRST_SMALL	0x10000UL
#define FIRST_LARGE	0x20000UL

static struct {
	bool given[SMALL + LARGE];
	unsigned long frames;
	unsigned long capabilities;
	bool reset;
	bool believes;		/* PFNs that it finds in the batch page. */
	unsigned long seen[SMALL];	/* Statuses, up to 0x1f. */
	bool rewritten;
	long sessions;
	uint64_t hash;		/* Of all answers. */
} driver;
static uint64_t driver_random;

static unsigned int pick(unsigned int n)
{
	driver_random = driver_random * 6364136223846793005UL + 1442695040888963407UL;
	return (driver_random >> 33) % n;
}

static unsigned long driver_call(unsigned long command, unsigned long arg1,
				 unsigned long arg2)
{
	unsigned long status = hypercall(command, arg1, arg2);

	driver.hash = (driver.hash ^ status ^ regs[RBX] << 7 ^ regs[RCX] << 40) *
		      0x100000001b3UL;
	if (status == RESET)
		driver.reset = true;
	return status;
}

static unsigned long page_pfn(int page)
{
	return page < SMALL ? FIRST_SMALL + page :
	       FIRST_LARGE + (page - SMALL) * FRAMES_2M;
}

static int page_of(unsigned long pfn)
{
	if (pfn >= FIRST_SMALL && pfn < FIRST_SMALL + SMALL)
		return pfn - FIRST_SMALL;
	if (pfn >= FIRST_LARGE && pfn < FIRST_LARGE + LARGE * FRAMES_2M)
		return SMALL + (pfn - FIRST_LARGE) / FRAMES_2M;
	return -1;
}

static void driver_settle(int page, bool lock, unsigned long status)
{
	driver.hash = (driver.hash ^ status) * 0x100000001b3UL;
	driver.seen[status & 0x1f]++;
	if (status != SUCCESS || page < 0)
		return;
	driver.given[page] = lock;
	driver.frames += (lock ? 1 : -1) * (page < SMALL ? 1 : FRAMES_2M);
}

static void driver_step(void)
{
	bool lock = pick(2), large;
	int pages[BATCH_MAX], n = 0, max;

	if (driver.reset) {
		memset(driver.given, 0, sizeof(driver.given));
		driver.frames = 0;
		driver.capabilities = 0;
		if (driver_call(START, 0x3e, 0) != SUCCESS_WITH_CAPABILITIES)
			return;
		driver.capabilities = regs[RCX];
		driver.reset = false;
	}
	driver_call(GET_TARGET, RAM_FRAMES, 0);
	if (driver.reset || !(driver.capabilities & (BASIC_CMDS | BATCHED_CMDS)))
		return;
	large = driver.capabilities & BATCHED_CMDS &&
		driver.capabilities & BATCHED_2M_CMDS && pick(2);
	max = driver.capabilities & BATCHED_CMDS ? 1 + pick(40) : 1;
	for (int i = large ? SMALL : 0; i < (large ? SMALL + LARGE : SMALL) && n < max; i++)
		if (driver.given[i] != lock && !pick(3))
			pages[n++] = i;
	if (!n)
		return;
	if (!(driver.capabilities & BATCHED_CMDS)) {
		driver_settle(pages[0], lock,
			      driver_call(lock ? LOCK : UNLOCK, page_pfn(pages[0]), 1));
		return;
	}
	for (int i = 0; i < n; i++)
		batch[i] = page_pfn(pages[i]) << PAGE_SHIFT;
	if (driver_call((large ? BATCHED_2M_LOCK : BATCHED_LOCK) + !lock, BATCH_PFN, n))
		return;
	for (int i = 0; i < n; i++) {
		unsigned long pfn = batch[i] >> PAGE_SHIFT;

		driver.rewritten |= pfn != page_pfn(pages[i]) || batch[i] & 0xfe0;
		driver_settle(driver.believes ? page_of(pfn) : pages[i], lock,
			      batch[i] & 0x1f);
	}
}

/* Returns the number of violations. */
static long drive(const char *options, int steps, bool believes)
{
	long violations, frames;

	memset(&driver, 0, sizeof(driver));
	driver.reset = true;
	driver.believes = believes;
	driver_random = 1;
	start_host(options);
	while (steps--)
		driver_step();
	violations = request("violations");
	driver.sessions = request("sessions");
	frames = request("actual") >> PAGE_SHIFT;
	if (!believes)
		check(frames == (long)driver.frames, "%s: %ld frames, and the driver has %lu",
		      options, frames, driver.frames);
	stop_host();
	return violations;
}

/* A line for each hypercall, with what came of it. */
static void test_log(void)
{
	char path[64], options[256], line[256];
	static const char * const expected[] = {
		" START ", ": capabilities 0x2e, 0 of 256 frames",
		" BATCHED_LOCK ", ": SUCCESS, 1 refused, 2 of 256 frames",
		" GET_TARGET ", ": RESET, 2 of 256 frames",
	};
	int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/log", dir);
	snprintf(options, sizeof(options), "--target 1 --log %s --refuse count=1"
		 " --fail command=get_target,status=RESET", path);
	start_host(options);
	hypercall(START, ~0UL, 0);
	for (int i = 0; i < 3; i++)
		batch[i] = (0x5000UL + i) << PAGE_SHIFT;
	hypercall(BATCHED_LOCK, BATCH_PFN, 3);
	check(regs[RBX] == 256, "the target comes with it");
	hypercall(GET_TARGET, 0, 0);
	stop_host();
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f) && n < 6) {
		check(strstr(line, expected[n]) && strstr(line, expected[n + 1]),
		      "logged: %.*s", (int)strcspn(line, "\n"), line);
		n += 2;
	}
	check(n == 6, "all is logged");
	if (f)
		fclose(f);
	unlink(path);
}

static void test_chance(void)
{
	unsigned long statuses = 0, garbage = 0;
	uint64_t hash;

	check(!drive("", 300, false), "a host that is kind");
	check(!driver.rewritten, "which leaves the batch page alone");
	check(driver.sessions == 1, "and has one session");
	check(!drive("--random 1", 3000, false), "one that is moody");
	check(driver.sessions > 1, "and has %ld sessions", driver.sessions);
	hash = driver.hash;
	for (int i = CMD_INVALID; i <= BUSY; i++)
		statuses += i != RESET && driver.seen[i];
	for (int i = BUSY + 1; i < 0x20; i++)
		garbage += !!driver.seen[i];
	check(statuses == BUSY - 1 && !garbage, "%lu statuses, none of them garbage", statuses);
	check(!driver.rewritten, "which leaves the batch page alone");
	drive("--random 1", 3000, false);
	check(driver.hash == hash, "it can be repeated");
	drive("--random 2", 3000, false);
	check(driver.hash != hash, "it depends on the seed");

	check(!drive("--hostile 1", 3000, false), "one that is hostile");
	garbage = 0;
	for (int i = BUSY + 1; i < 0x20; i++)
		garbage += !!driver.seen[i];
	check(garbage && driver.rewritten, "%lu statuses are garbage", garbage);
	check(drive("--hostile 1", 300, true) > 0, "a driver that believes it is found out");
}

static void no_host(int sig)
{
	(void)sig;
	static const char message[] = "vmw_host_test: the host does not come\n";

	clean_up();
	if (write(2, message, sizeof(message) - 1))
		_exit(1);
}

int main(int argc, char *argv[])
{
	if (argc != 2 || argv[1][0] == '-') {
		fputs("Usage: vmw_host_test VMW_HOST\n"
		      "Test the program VMW_HOST without a guest.\n",
		      argc == 2 && !strcmp(argv[1], "--help") ? stdout : stderr);
		return argc == 2 && !strcmp(argv[1], "--help") ? 0 : 2;
	}
	host_path = argv[1];
	if (!mkdtemp(dir))
		die("%s: %s", dir, strerror(errno));
	atexit(clean_up);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGALRM, no_host);
	setvbuf(stdout, NULL, _IOLBF, 0);
	test_books();
	test_arguments();
	test_rules();
	test_log();
	test_chance();
	printf("1..%d\n%d failed\n", tests, failures);
	return failures ? 1 : 0;
}
