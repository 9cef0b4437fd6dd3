// SPDX-License-Identifier: GPL-2.0-only
/*
 * A VMware host for the balloon, on stock QEMU.
 *
 * QEMU's "pc" machine looks like VMware to Linux, given
 *
 *   -machine pc,vmport=on -cpu max,-hypervisor
 *   -smbios type=1,serial="VMware-42 00" -S -gdb unix:SOCKET,server=on,wait=off
 *
 * and TCG. What it lacks is the port of the balloon. This program speaks the
 * protocol of remote debuggers instead: a breakpoint on the driver's "in"
 * instruction stops the guest there, the registers and the batch page tell what
 * the driver wants, the answer is written over them, and the guest goes on
 * behind the instruction. While it is stopped, its clocks are, too.
 *
 * The host keeps the truth, which pages it has been given, and counts what no
 * driver may do as violations: locking what is locked or what is no memory,
 * unlocking what is not locked, commands that it has not offered, reserved bits.
 *
 * It is correct and friendly, unless the options, or a guest's test, tell it
 * otherwise: rules say which commands fail and which pages are refused; with
 * --random, chance does; with --hostile, all that the guest reads is garbage where
 * it should not matter: what registers and the batch page have that a command, or
 * its failure, does not define. A status other than success means that nothing was
 * done, whatever else it means, so that the books stay right, and a driver that
 * believes only what it may believe never commits a violation.
 *
 * A guest's virtio-serial port takes the requests target, actual, held, violations
 * (balloon.h in the series), wait, cpu (host.h), and
 *
 *   calls, hypercalls    how many have locked or unlocked pages, and all of them
 *   sessions             how many sessions the driver has begun
 *   capabilities N,...   what the next sessions are offered
 *   reset                end the session: the answer to all that follows
 *   refuse RULE, fail RULE, clear   as the options; forget all rules
 *   random SEED, hostile SEED, quiet   from now on; no chance and no rules any more
 *   hash PFN NR          what "held" counts, but as the sum of mix() of each page
 *   doorbell             1 if the driver has set one. Nobody can ring it: that takes
 *                        a device.
 *   unseen               how many answers the driver has not had yet: each status of
 *                        each command, and of a page. Chance prefers those.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <elf.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "host.h"

#define PAGE_SHIFT	12
#define FRAMES_2M	512
#define BATCH_MAX	512
#define MAX_FRAMES	(1UL << 24)	/* 64 GiB */
#define MAX_SESSIONS	16		/* Whose capabilities differ. */
#define MAX_RULES	16

/* The status in an entry of the batch page, and what the driver leaves 0. */
#define ENTRY_STATUS	0x1fUL
#define ENTRY_FLAGS	((1UL << PAGE_SHIFT) - 1)

/* Registers, in the order of the packet "g". */
enum { RAX, RBX, RCX, RDX, RSI, RIP = 16, NR_REGS };

#define HV_MAGIC	0x456c6d6f
#define HV_PORT		0x5670
#define GUEST_IS_LINUX	1

enum command {
	START, GET_TARGET, LOCK, UNLOCK, GUEST_ID, BATCHED_LOCK = 6,
	BATCHED_UNLOCK, BATCHED_2M_LOCK, BATCHED_2M_UNLOCK, DOORBELL_SET,
	NR_COMMANDS
};

static const char * const command_names[NR_COMMANDS] = {
	"START", "GET_TARGET", "LOCK", "UNLOCK", "GUEST_ID", "5",
	"BATCHED_LOCK", "BATCHED_UNLOCK", "BATCHED_2M_LOCK",
	"BATCHED_2M_UNLOCK", "DOORBELL_SET"
};

enum status {
	SUCCESS, CMD_INVALID, PPN_INVALID, PPN_LOCKED, PPN_UNLOCKED,
	PPN_PINNED, PPN_NOTNEEDED, RESET, BUSY, NR_STATUSES,
	SUCCESS_WITH_CAPABILITIES = 0x03000000
};

static const char * const status_names[NR_STATUSES] = {
	"SUCCESS", "CMD_INVALID", "PPN_INVALID", "PPN_LOCKED", "PPN_UNLOCKED",
	"PPN_PINNED", "PPN_NOTNEEDED", "RESET", "BUSY"
};

enum capability {
	BASIC_CMDS = 1 << 1,
	BATCHED_CMDS = 1 << 2,
	BATCHED_2M_CMDS = 1 << 3,
	SIGNALLED_WAKEUP_CMD = 1 << 4,
	TARGET_64_BIT = 1 << 5,
};

/* Commands that fail, or pages that are refused. */
struct rule {
	unsigned int commands;		/* A bit for each. */
	unsigned int frames;		/* Pages of this size, 0: of any. */
	uint64_t first, last;		/* PFNs. */
	unsigned long after;		/* Not the first so many, but from then */
	unsigned long every;		/* each of so many, */
	unsigned long count;		/* at most so often. 0: no limit. */
	unsigned long status;		/* The answer. */
	unsigned long seen, used;
};

struct rules {
	struct rule rules[MAX_RULES];
	int nr;
};

/* What host.locked has for each frame but the first of a page that is locked. */
#define PART_OF_PAGE	0xffff

static struct {
	unsigned long offers[MAX_SESSIONS];	/* To the next sessions. */
	int nr_offers;
	unsigned long session;		/* The capabilities of this one. */
	bool resetting;			/* No answer but RESET until START. */
	unsigned long target;		/* In frames, as "size". */
	unsigned long size;
	unsigned long max_size;
	unsigned long ram;		/* In frames; 0 if QEMU does not tell. */
	unsigned int refused;		/* In the present batch. */
	unsigned long latency_us;
	struct rules refuse;
	struct rules fail;
	unsigned long long calls;	/* All of them, */
	unsigned long long page_calls;	/* and those for pages. */
	unsigned long long sessions;
	unsigned long long old_sessions;	/* Of hosts that know no capabilities. */
	unsigned long long resets;
	unsigned long long violations;
	/* Statuses of commands, and of single pages; the last one: any other. */
	unsigned long long matrix[NR_COMMANDS][NR_STATUSES + 1];
	unsigned long long pages[NR_COMMANDS][NR_STATUSES + 1];
	/* Per frame: 0, or the frames of the page that it begins. */
	uint16_t *locked;
	bool doorbell;			/* Has been set. */
} host = {
	.offers = { BASIC_CMDS | BATCHED_CMDS | BATCHED_2M_CMDS |
		    TARGET_64_BIT },
	.nr_offers = 1,
};

/* Chance decides, with the odds of a seed. */
static bool random_host, random_ever, hostile;
static unsigned long random_state, random_max_target;

static bool verbose;
static int gdb;			/* The socket to QEMU. */
static pid_t qemu;

static FILE *log_file;

static void usage(FILE *f)
{
	fputs("Usage: vmw_host --gdb SOCKET --vmlinux FILE [OPTION]...\n"
	      "Be the VMware host of the balloon driver in a QEMU guest.\n"
	      "  --gdb SOCKET       where QEMU listens for debuggers\n"
	      "  --vmlinux FILE     the guest's kernel, with symbols\n"
	      "  --port SOCKET      where QEMU listens on behalf of the guest's port\n"
	      "  --target MIB       the target before the guest asks for one (0)\n"
	      "  --capabilities N,...  what START offers (default 0x2e: all but the\n"
	      "                     doorbell): in the first session, in the second one after\n"
	      "                     a reset, and so on; the last one stays\n"
	      "  --refuse RULE      refuse pages; may be repeated\n"
	      "  --fail RULE        fail commands; may be repeated. RULE has words with commas\n"
	      "                     between them, all of them optional:\n"
	      "                       command=NAME   lock, unlock, batched_2m_lock, ...; lock and\n"
	      "                                      unlock are also those of batches\n"
	      "                       status=NAME    the answer: busy (default of --fail),\n"
	      "                                      ppn_pinned (of --refuse), reset, ..., or a\n"
	      "                                      number\n"
	      "                       size=4k|2m     only such pages\n"
	      "                       pfn=FIRST-LAST only these pages\n"
	      "                       after=N        not the first N that match\n"
	      "                       every=N        only each Nth of the others\n"
	      "                       count=N        at most so often\n"
	      "                     After the status reset, everything fails until START.\n"
	      "  --latency US       answer that much later. The guest's clocks stop meanwhile.\n"
	      "  --random SEED      the target, failures, refused pages, resets and new\n"
	      "                     capabilities come as they like, the same for each SEED\n"
	      "  --hostile SEED     as --random; and statuses and capabilities that do not\n"
	      "                     exist, and other PFNs and reserved bits in the batch page\n"
	      "  --max-target MIB   of --random and --hostile (default: a quarter of the memory)\n"
	      "  --log FILE         a line for each hypercall\n"
	      "  --verbose          the same on stderr\n"
	      "It prints its statistics when QEMU ends.\n", f);
}

/* xorshift64*: it only has to be the same everywhere. */
static uint64_t random_number(void)
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 0x2545f4914f6cdd1dUL;
}

/* One time out of @n. */
static bool chance(unsigned int n)
{
	return random_host && !((random_number() >> 16) % n);
}

static unsigned long parse_number(const char *text, const char *what)
{
	unsigned long n;
	char *end;

	errno = 0;
	n = strtoul(text, &end, 0);
	if (errno || end == text || *end || *text == '-')
		die("%s: not a number: \"%s\"", what, text);
	return n;
}

static bool parse_offers(char *text)
{
	unsigned long offers[MAX_SESSIONS];
	int n = 0;

	for (char *end; *text; text = end + (*end == ',')) {
		if (n == MAX_SESSIONS)
			return false;
		offers[n++] = strtoul(text, &end, 0);
		if (end == text || (*end && *end != ','))
			return false;
	}
	if (!n)
		return false;
	memcpy(host.offers, offers, sizeof(offers));
	host.nr_offers = n;
	return true;
}

static int find_name(const char * const names[], int nr, const char *name)
{
	for (int i = 0; i < nr; i++)
		if (!strcasecmp(names[i], name))
			return i;
	return -1;
}

/* As usage() says. What can't be understood is returned, NULL if there is nothing. */
static const char *parse_rule(struct rules *rules, char *text, unsigned int commands,
			      enum status status, unsigned long max_status)
{
	struct rule rule = {
		.commands = commands, .last = UINT64_MAX, .every = 1,
		.status = status,
	};
	char *word, *value, *end, *state = NULL;
	int n;

	if (rules->nr == MAX_RULES)
		return "one more rule";
	for (word = strtok_r(text, ",", &state); word;
	     word = strtok_r(NULL, ",", &state)) {
		value = strchr(word, '=');
		if (!value || !value[1])
			return word;
		*value++ = '\0';
		end = "";
		if (!strcmp(word, "command")) {
			n = find_name(command_names, NR_COMMANDS, value);
			if (n < 0)
				return value;
			rule.commands = 1 << n;
			if (n == LOCK)
				rule.commands |= 1 << BATCHED_LOCK |
						 1 << BATCHED_2M_LOCK;
			if (n == UNLOCK)
				rule.commands |= 1 << BATCHED_UNLOCK |
						 1 << BATCHED_2M_UNLOCK;
			if (!(rule.commands & commands))
				return value;
		} else if (!strcmp(word, "status")) {
			n = find_name(status_names, NR_STATUSES, value);
			rule.status = n >= 0 ? (unsigned long)n :
				      strtoul(value, &end, 0);
			/* Nothing can succeed that was not done; pages aren't reset. */
			if (rule.status == SUCCESS || rule.status > max_status ||
			    (rule.status == RESET && max_status == ENTRY_STATUS))
				return value;
		} else if (!strcmp(word, "size")) {
			if (strcasecmp(value, "4k") && strcasecmp(value, "2m"))
				return value;
			rule.frames = tolower(value[1]) == 'k' ? 1 : FRAMES_2M;
		} else if (!strcmp(word, "pfn")) {
			rule.first = strtoul(value, &end, 0);
			rule.last = *end == '-' ? strtoul(end + 1, &end, 0) :
				    rule.first;
		} else if (!strcmp(word, "after")) {
			rule.after = strtoul(value, &end, 0);
		} else if (!strcmp(word, "every")) {
			rule.every = strtoul(value, &end, 0);
		} else if (!strcmp(word, "count")) {
			rule.count = strtoul(value, &end, 0);
		} else {
			return word;
		}
		if (*end || !rule.every)
			return value;
	}
	rules->rules[rules->nr++] = rule;
	return NULL;
}

/* The status that a rule has for this, or SUCCESS. @frames is 0 for a command. */
static unsigned long apply_rules(struct rules *rules, enum command command,
				 uint64_t pfn, unsigned int frames)
{
	for (struct rule *r = rules->rules; r < rules->rules + rules->nr; r++) {
		if (!(r->commands & 1 << command) ||
		    (frames && r->frames && r->frames != frames) ||
		    (frames && (pfn + frames - 1 < r->first || pfn > r->last)) ||
		    r->seen++ < r->after || (r->count && r->used == r->count) ||
		    (r->seen - r->after - 1) % r->every)
			continue;
		r->used++;
		return r->status;
	}
	return SUCCESS;
}

/*
 * Where the driver calls its host: "in (%dx),%eax" is a single byte, in a function
 * that has HV_MAGIC as well. Where that byte is part of another instruction, a
 * breakpoint is never hit; but QEMU looks at each of them wherever a function
 * returns, so that many of them make a slow guest.
 */
#define INSN_IN		0xed
#define MAX_INSNS	64	/* Of which few are instructions. */

static int find_insns(const char *path, unsigned long insns[MAX_INSNS])
{
	const uint32_t magic = HV_MAGIC;
	const unsigned char *image;
	const Elf64_Shdr *sections;
	const Elf64_Ehdr *ehdr;
	struct stat st;
	int fd, n = 0;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		die("%s: %s", path, strerror(errno));
	image = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (image == MAP_FAILED)
		die("%s: %s", path, strerror(errno));
	close(fd);
	ehdr = (const void *)image;
	if ((size_t)st.st_size < sizeof(*ehdr) ||
	    memcmp(ehdr->e_ident, ELFMAG, SELFMAG) ||
	    ehdr->e_ident[EI_CLASS] != ELFCLASS64 ||
	    ehdr->e_machine != EM_X86_64 ||
	    ehdr->e_shoff + (size_t)ehdr->e_shnum * sizeof(*sections) >
	    (size_t)st.st_size)
		die("%s is not a vmlinux for x86-64", path);
	sections = (const void *)(image + ehdr->e_shoff);
	for (int s = 0; s < ehdr->e_shnum; s++) {
		const Elf64_Sym *sym, *end;
		const char *strings;

		if (sections[s].sh_type != SHT_SYMTAB)
			continue;
		sym = (const void *)(image + sections[s].sh_offset);
		end = (const void *)((const char *)sym + sections[s].sh_size);
		strings = (const char *)image +
			  sections[sections[s].sh_link].sh_offset;
		for (; sym < end; sym++) {
			const Elf64_Shdr *text;
			unsigned long offset;

			if (ELF64_ST_TYPE(sym->st_info) != STT_FUNC ||
			    sym->st_shndx >= ehdr->e_shnum ||
			    !strstr(strings + sym->st_name, "vmballoon"))
				continue;
			text = &sections[sym->st_shndx];
			offset = sym->st_value - text->sh_addr + text->sh_offset;
			if (!memmem(image + offset, sym->st_size, &magic,
				    sizeof(magic)))
				continue;
			for (unsigned long i = 0; i < sym->st_size; i++) {
				if (image[offset + i] != INSN_IN)
					continue;
				if (n == MAX_INSNS)
					die("%s: too many places to stop at", path);
				insns[n++] = sym->st_value + i;
			}
		}
	}
	munmap((void *)image, st.st_size);
	if (!n)
		die("%s has no vmw_balloon that calls its host, or no symbols",
		    path);
	return n;
}

/* The debugger's protocol: packets "$...#CHECKSUM", which "+" acknowledges. */
static char packet[16384];

static void print_matrix(const char *title,
			 unsigned long long matrix[NR_COMMANDS][NR_STATUSES + 1])
{
	fprintf(stderr, "%-18s", title);
	for (int s = 0; s < NR_STATUSES; s++)
		fprintf(stderr, " %13s", status_names[s]);
	fprintf(stderr, " %13s\n", "other");
	for (int c = 0; c < NR_COMMANDS; c++) {
		unsigned long long n = 0;

		for (int s = 0; s <= NR_STATUSES; s++)
			n += matrix[c][s];
		if (!n)
			continue;
		fprintf(stderr, "%-18s", command_names[c]);
		for (int s = 0; s <= NR_STATUSES; s++)
			fprintf(stderr, " %13llu", matrix[c][s]);
		fputc('\n', stderr);
	}
}

static unsigned int count_unseen(FILE *f);

static void gdb_end(void)
{
	fprintf(stderr, "%llu hypercalls, %llu violations, %lu frames left in the balloon\n",
		host.calls, host.violations, host.size);
	fprintf(stderr, "%llu sessions, %llu resets, at most %lu frames in the balloon\n",
		host.sessions, host.resets, host.max_size);
	print_matrix("commands", host.matrix);
	print_matrix("pages", host.pages);
	if (random_ever)
		count_unseen(stderr);
	if (log_file)
		fclose(log_file);
	exit(0);
}

/* What has been read from QEMU. */
static struct {
	unsigned char buf[16384];
	ssize_t len;
	ssize_t pos;
} input;

static int gdb_char(void)
{
	if (input.pos == input.len) {
		input.len = read(gdb, input.buf, sizeof(input.buf));
		if (input.len <= 0)
			gdb_end();
		input.pos = 0;
	}
	return input.buf[input.pos++];
}

static void gdb_write(const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(gdb, data, len);

		if (n < 0)
			gdb_end();
		data += n;
		len -= n;
	}
}

static void gdb_send(const char *data)
{
	static char frame[16384];
	unsigned char sum = 0;
	int len;

	for (const char *p = data; *p; p++)
		sum += *p;
	len = snprintf(frame, sizeof(frame), "$%s#%02x", data, sum);
	gdb_write(frame, len);
}

/* The next packet, in "packet". */
static void gdb_receive(void)
{
	size_t len = 0;
	int c;

	while (gdb_char() != '$')
		;
	while ((c = gdb_char()) != '#') {
		if (len == sizeof(packet) - 1)
			die("QEMU's packet is too long");
		packet[len++] = c;
	}
	packet[len] = '\0';
	gdb_char();
	gdb_char();
	gdb_write("+", 1);
}

static void gdb_command(const char *fmt, ...)
{
	static char buf[8192];
	va_list args;

	va_start(args, fmt);
	vsnprintf(buf, sizeof(buf), fmt, args);
	va_end(args);
	gdb_send(buf);
	gdb_receive();
}

/* Let the guest run. The answer is when it stops, maybe never. */
static void gdb_continue(void)
{
	gdb_send("c");
	while (gdb_char() != '+')
		;
}

/* As gdb_command(), which has to succeed. */
static void gdb_expect_ok(const char *command)
{
	gdb_command("%s", command);
	if (strcmp(packet, "OK"))
		die("QEMU does not understand \"%s\": %s", command, packet);
}

static int hex_digit(char c)
{
	return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* Hex to bytes; as many as there are, at most @size. */
static size_t from_hex(const char *hex, void *data, size_t size)
{
	unsigned char *p = data;
	size_t n = 0;

	while (n < size && hex[0] && hex[1]) {
		p[n++] = hex_digit(hex[0]) << 4 | hex_digit(hex[1]);
		hex += 2;
	}
	return n;
}

static void to_hex(char *hex, const void *data, size_t size)
{
	const unsigned char *p = data;

	while (size--) {
		*hex++ = "0123456789abcdef"[*p >> 4];
		*hex++ = "0123456789abcdef"[*p++ & 15];
	}
	*hex = '\0';
}

/* How much memory the guest has, as QEMU's monitor tells; 0 if it does not. */
static unsigned long ram_frames(void)
{
	static const char command[] = "info memory_size_summary";
	static char hex[2 * sizeof(command)], text[1024];
	unsigned long long bytes = 0;
	const char *found;
	size_t len = 0;

	to_hex(hex, command, sizeof(command) - 1);
	gdb_command("qRcmd,%s", hex);
	/* Pieces of output, then the result. */
	while (packet[0] == 'O' && packet[1] != 'K') {
		len += from_hex(packet + 1, text + len, sizeof(text) - 1 - len);
		gdb_receive();
	}
	found = strstr(text, "base memory:");
	if (!found || sscanf(found, "base memory: %llu", &bytes) != 1)
		return 0;
	return bytes >> PAGE_SHIFT;
}

/* Guest-physical memory, at most this much in a packet. */
#define MEMORY_CHUNK	1024

static bool read_memory(uint64_t addr, void *data, size_t size)
{
	for (size_t i = 0; i < size; i += MEMORY_CHUNK) {
		size_t n = size - i < MEMORY_CHUNK ? size - i : MEMORY_CHUNK;

		gdb_command("m%lx,%zx", addr + i, n);
		if (packet[0] == 'E' ||
		    from_hex(packet, (char *)data + i, n) != n)
			return false;
	}
	return true;
}

static bool write_memory(uint64_t addr, const void *data, size_t size)
{
	char hex[2 * MEMORY_CHUNK + 1];

	for (size_t i = 0; i < size; i += MEMORY_CHUNK) {
		size_t n = size - i < MEMORY_CHUNK ? size - i : MEMORY_CHUNK;

		to_hex(hex, (const char *)data + i, n);
		gdb_command("M%lx,%zx:%s", addr + i, n, hex);
		if (strcmp(packet, "OK"))
			return false;
	}
	return true;
}

/* What no driver may do. */
static __attribute__((format(printf, 1, 2)))
void violation(const char *fmt, ...)
{
	va_list args;

	host.violations++;
	fputs("violation: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

static bool is_lock(enum command command)
{
	return command == LOCK || command == BATCHED_LOCK ||
	       command == BATCHED_2M_LOCK;
}

/* What the session must have for a command. */
static unsigned long needs(enum command command)
{
	switch (command) {
	case LOCK:
	case UNLOCK:
		return BASIC_CMDS;
	case BATCHED_LOCK:
	case BATCHED_UNLOCK:
		return BATCHED_CMDS;
	case BATCHED_2M_LOCK:
	case BATCHED_2M_UNLOCK:
		return BATCHED_2M_CMDS;
	default:
		return 0;
	}
}

/*
 * Where the "pc" machine has its memory: less than 3.5 GiB of it at the bottom,
 * and, if there is more, 3 GiB there, and the rest above 4 GiB.
 */
#define LOW_MAX		(0xe0000000UL >> PAGE_SHIFT)
#define LOW_SPLIT	(0xc0000000UL >> PAGE_SHIFT)
#define HIGH_START	(1UL << (32 - PAGE_SHIFT))
#define HOLE_START	(0xa0000UL >> PAGE_SHIFT)
#define HOLE_END	(0x100000UL >> PAGE_SHIFT)

static bool is_ram(uint64_t pfn, unsigned int frames)
{
	unsigned long low = host.ram < LOW_MAX ? host.ram : LOW_SPLIT;

	if (pfn > MAX_FRAMES || pfn + frames > MAX_FRAMES)
		return false;
	if (!host.ram)
		return true;
	if (pfn < HOLE_END && pfn + frames > HOLE_START)
		return false;
	return pfn + frames <= low ||
	       (pfn >= HIGH_START && pfn + frames <= HIGH_START + host.ram - low);
}

/*
 * Is this a status that commands, or pages, can have, and have not had yet? Pages are
 * not reset, and what the protocol does not know is for hostile hosts.
 */
static bool unseen(const unsigned long long counts[NR_STATUSES + 1], int status)
{
	if (status == RESET && counts >= host.pages[0] &&
	    counts < host.pages[NR_COMMANDS])
		return false;
	return !counts[status];
}

/* How much the driver has not seen, of the commands that it has; a list for @f. */
static unsigned int count_unseen(FILE *f)
{
	unsigned int nr = 0;

	if (!host.old_sessions) {
		if (f)
			fputs("unseen: a host without capabilities\n", f);
		nr++;
	}
	for (int c = 0; c < NR_COMMANDS; c++) {
		if (isdigit(command_names[c][0]))
			continue;
		for (int s = 0; s <= NR_STATUSES; s++) {
			const char *name = s < NR_STATUSES ? status_names[s] : "other";

			if (unseen(host.matrix[c], s)) {
				if (f)
					fprintf(f, "unseen: command %s: %s\n", command_names[c], name);
				nr++;
			}
			if (needs(c) && unseen(host.pages[c], s)) {
				if (f)
					fprintf(f, "unseen: page of %s: %s\n", command_names[c], name);
				nr++;
			}
		}
	}
	return nr;
}

/* Is there a failure that random_failure() would choose because it has not been seen? */
static bool failure_unseen(const unsigned long long counts[NR_STATUSES + 1])
{
	for (int s = CMD_INVALID; s < NR_STATUSES; s++)
		if (s != RESET && unseen(counts, s))
			return true;
	return hostile && unseen(counts, NR_STATUSES);
}

/*
 * A failure of any kind that the protocol knows; or does not, if that is allowed.
 * What has not been there yet comes first.
 */
static unsigned long random_failure(const unsigned long long counts[NR_STATUSES + 1],
				    unsigned long garbage)
{
	unsigned long status = CMD_INVALID + random_number() % (NR_STATUSES - 1);

	for (int s = CMD_INVALID; s < NR_STATUSES; s++)
		if (s != RESET && unseen(counts, s))
			return s;
	/* Resets are decided on where they can be carried out. */
	if (status == RESET)
		status = BUSY;
	if (hostile && (unseen(counts, NR_STATUSES) || chance(2))) {
		status = random_number() & garbage;
		if (status == SUCCESS || status == RESET ||
		    status == SUCCESS_WITH_CAPABILITIES)
			status = NR_STATUSES;
	}
	return status;
}

/* Lock or unlock a page of @frames. */
static unsigned long change_page(enum command command, uint64_t pfn,
				 unsigned int frames)
{
	unsigned long status;

	if (!is_ram(pfn, frames) || pfn % frames) {
		violation("%s: no such page: %#lx", command_names[command], pfn);
		return PPN_INVALID;
	}
	if (is_lock(command)) {
		for (unsigned int i = 0; i < frames; i++) {
			if (!host.locked[pfn + i])
				continue;
			violation("%s: %#lx is locked", command_names[command],
				  pfn + i);
			return PPN_LOCKED;
		}
	} else if (host.locked[pfn] != frames) {
		violation("%s: %#lx is not locked", command_names[command], pfn);
		return PPN_UNLOCKED;
	}

	status = apply_rules(&host.refuse, command, pfn, frames);
	if (status == SUCCESS && chance(failure_unseen(host.pages[command]) ? 8 : 32))
		status = random_failure(host.pages[command], ENTRY_STATUS);
	if (status != SUCCESS)
		return status;

	for (unsigned int i = 0; i < frames; i++)
		host.locked[pfn + i] = is_lock(command) ? PART_OF_PAGE : 0;
	if (is_lock(command)) {
		host.locked[pfn] = frames;
		host.size += frames;
		if (host.size > host.max_size)
			host.max_size = host.size;
	} else {
		host.size -= frames;
	}
	return SUCCESS;
}

static void count_status(unsigned long long counts[NR_STATUSES + 1],
			 unsigned long status)
{
	if (status == SUCCESS_WITH_CAPABILITIES)
		status = SUCCESS;
	counts[status < NR_STATUSES ? status : NR_STATUSES]++;
}

/* Not what the driver has written, all of which it should know by itself. */
static void rewrite_entries(uint64_t entries[], uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t other = entries[random_number() % nr];

		/* Another page of the batch, or any number. */
		if (chance(2))
			other = random_number();
		entries[i] = (other & ~ENTRY_STATUS) | (entries[i] & ENTRY_STATUS);
	}
}

static enum status change_batch(enum command command, uint64_t batch_pfn,
				uint64_t nr)
{
	uint64_t entries[BATCH_MAX];
	unsigned int frames = 1;

	if (command == BATCHED_2M_LOCK || command == BATCHED_2M_UNLOCK)
		frames = FRAMES_2M;
	if (!nr || nr > BATCH_MAX || !is_ram(batch_pfn, 1) ||
	    host.locked[batch_pfn] ||
	    !read_memory(batch_pfn << PAGE_SHIFT, entries, nr * 8)) {
		violation("%s: no such batch: %lu at %#lx",
			  command_names[command], nr, batch_pfn);
		return PPN_INVALID;
	}
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t pfn = entries[i] >> PAGE_SHIFT;
		unsigned long status;

		if (entries[i] & ENTRY_FLAGS)
			violation("%s: reserved bits: %#lx",
				  command_names[command], entries[i]);
		status = change_page(command, pfn, frames);
		count_status(host.pages[command], status);
		host.refused += status != SUCCESS;
		entries[i] = pfn << PAGE_SHIFT | status;
	}
	if (hostile)
		rewrite_entries(entries, nr);
	if (!write_memory(batch_pfn << PAGE_SHIFT, entries, nr * 8))
		die("can't write the batch page");
	return SUCCESS;
}

/* A batch that has failed: nothing of what its page has means anything. */
static void spoil_batch(uint64_t batch_pfn, uint64_t nr)
{
	uint64_t entries[BATCH_MAX];

	if (!nr || nr > BATCH_MAX || !is_ram(batch_pfn, 1) || host.locked[batch_pfn])
		return;
	for (uint64_t i = 0; i < nr; i++)
		entries[i] = random_number();
	if (!write_memory(batch_pfn << PAGE_SHIFT, entries, nr * 8))
		die("can't write the batch page");
}

/* A command may fail as a whole, so that nothing is done. */
static unsigned long fail_command(enum command command)
{
	unsigned long status;
	bool once;

	status = apply_rules(&host.fail, command, 0, 0);
	/* Commands that come but once in a session would take long to see it all. */
	once = command == START || command == GUEST_ID || command == DOORBELL_SET;
	if (status == SUCCESS && once && unseen(host.matrix[command], RESET) && chance(4))
		status = RESET;
	/* Without commands for pages, there is not much to see. */
	if (status == SUCCESS &&
	    chance(host.session & (BASIC_CMDS | BATCHED_CMDS) ? 256 : 8))
		status = RESET;
	if (status == SUCCESS &&
	    chance(failure_unseen(host.matrix[command]) ? (once ? 2 : 8) : once ? 16 : 64))
		status = random_failure(host.matrix[command], UINT64_MAX);
	if (status == RESET && !host.resetting) {
		host.resetting = true;
		host.resets++;
	}
	if (host.resetting && command != START)
		status = RESET;
	return status;
}

/*
 * A new session: the pages of the one before are the guest's again.
 *
 * Return: the status, and @capabilities, unless the host is an old one: that says no
 * more than SUCCESS, and knows the basic commands.
 */
static enum status start_session(uint64_t asked, uint64_t *capabilities)
{
	unsigned long offer = host.offers[0];

	if (random_host && host.sessions)
		offer = random_number() & 0x3e;
	if (host.nr_offers > 1)
		memmove(host.offers, host.offers + 1,
			--host.nr_offers * sizeof(host.offers[0]));
	madvise(host.locked, MAX_FRAMES * sizeof(*host.locked), MADV_DONTNEED);
	host.size = 0;
	host.resetting = false;
	if (host.doorbell)
		violation("START: the doorbell of the session before is still there");
	host.doorbell = false;
	host.sessions++;
	host.session = offer & asked;
	if (asked && chance(8)) {
		host.old_sessions++;
		host.session = BASIC_CMDS;
		return SUCCESS;
	}
	/* Nobody has asked for those. */
	*capabilities = host.session;
	if (hostile && asked)
		*capabilities |= random_number() & ~0x3fUL;
	return SUCCESS_WITH_CAPABILITIES;
}

static void log_call(FILE *f, const char *name, uint64_t arg1, uint64_t arg2,
		     unsigned long status)
{
	static struct timespec begin;
	struct timespec now;
	long us;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!begin.tv_sec)
		begin = now;
	us = (now.tv_sec - begin.tv_sec) * 1000000 +
	     (now.tv_nsec - begin.tv_nsec) / 1000;
	fprintf(f, "%4ld.%06ld %-18s %#10lx %4lu: ", us / 1000000, us % 1000000,
		name, arg1, arg2);
	if (status == SUCCESS_WITH_CAPABILITIES)
		fprintf(f, "capabilities %#lx", host.session);
	else if (status < NR_STATUSES)
		fputs(status_names[status], f);
	else
		fprintf(f, "%#lx", status);
	if (host.refused)
		fprintf(f, ", %u refused", host.refused);
	fprintf(f, ", %lu of %lu frames\n", host.size, host.target);
}

/* A handle, of which a part is invalid when there is none any more. */
static bool is_doorbell(uint64_t context, uint64_t resource)
{
	return (uint32_t)context != UINT32_MAX && (uint32_t)resource != UINT32_MAX;
}

static enum status set_doorbell(uint64_t context, uint64_t resource)
{
	bool set = is_doorbell(context, resource);

	if (set && host.doorbell)
		violation("DOORBELL_SET: there is one already");
	if (set && !(host.session & SIGNALLED_WAKEUP_CMD))
		violation("DOORBELL_SET: not offered");
	if (!(host.session & SIGNALLED_WAKEUP_CMD))
		return CMD_INVALID;
	host.doorbell = set;
	return SUCCESS;
}

/* Carry out the hypercall of the registers, and write its results to them. */
static void hypercall(uint64_t regs[NR_REGS])
{
	uint64_t command = regs[RCX], arg1 = regs[RBX], arg2 = regs[RSI];
	uint64_t capabilities = 0;
	unsigned long status;
	const char *name = "?";

	host.calls++;
	host.refused = 0;
	if (host.latency_us)
		usleep(host.latency_us);
	if (random_host && command == GET_TARGET && chance(3))
		host.target = random_number() % (random_max_target + 1);

	if (command >= NR_COMMANDS) {
		violation("no such command: %lu", command);
		status = CMD_INVALID;
		goto out;
	}
	name = command_names[command];
	if (needs(command))
		host.page_calls++;
	if (needs(command) & ~host.session) {
		violation("%s: not offered", name);
		status = CMD_INVALID;
		goto count;
	}
	if ((command == LOCK || command == UNLOCK) && arg2 != 1)
		violation("%s: %lu pages", name, arg2);
	/* Whoever takes it back has none any more, whatever the answer is. */
	if (command == DOORBELL_SET && !is_doorbell(arg1, arg2))
		host.doorbell = false;
	status = fail_command(command);
	if (status != SUCCESS)
		goto count;

	switch (command) {
	case START:
		status = start_session(arg1, &capabilities);
		break;
	case GET_TARGET:
		if (!arg1 || (host.ram && arg1 > host.ram))
			violation("%s: the limit is %#lx", name, arg1);
		break;
	case GUEST_ID:
		if (arg1 != GUEST_IS_LINUX)
			violation("%s: %#lx", name, arg1);
		break;
	case LOCK:
	case UNLOCK:
		status = change_page(command, arg1, 1);
		count_status(host.pages[command], status);
		break;
	case BATCHED_LOCK:
	case BATCHED_UNLOCK:
	case BATCHED_2M_LOCK:
	case BATCHED_2M_UNLOCK:
		status = change_batch(command, arg1, arg2);
		break;
	case DOORBELL_SET:
		status = set_doorbell(arg1, arg2);
		break;
	default:
		status = CMD_INVALID;
	}
count:
	count_status(host.matrix[command], status);
out:
	if (verbose && command != GET_TARGET)
		log_call(stderr, name, arg1, arg2, status);
	if (log_file)
		log_call(log_file, name, arg1, arg2, status);
	regs[RAX] = status;
	if (hostile) {
		regs[RBX] = random_number();
		regs[RCX] = random_number();
		if (status != SUCCESS && (command == BATCHED_LOCK || command == BATCHED_UNLOCK ||
					  command == BATCHED_2M_LOCK || command == BATCHED_2M_UNLOCK))
			spoil_batch(arg1, arg2);
	}
	if (status == SUCCESS_WITH_CAPABILITIES)
		regs[RCX] = capabilities;
	if (!hostile || (status == SUCCESS && (needs(command) || command == GET_TARGET)))
		regs[RBX] = host.target;
}

/* The guest has stopped: at a hypercall, one hopes. */
static void handle_stop(void)
{
	const char *thread = strstr(packet, "thread:");
	uint64_t regs[NR_REGS];
	static char hex[16384];
	char name[32];

	if (packet[0] == 'W' || packet[0] == 'X')
		gdb_end();
	if (packet[0] != 'T' && packet[0] != 'S')
		die("QEMU says \"%s\"", packet);
	if (thread && sscanf(thread, "thread:%31[^;]", name) == 1) {
		gdb_command("Hg%s", name);
		if (strcmp(packet, "OK"))
			die("QEMU does not know thread %s", name);
	}
	gdb_command("g");
	memcpy(hex, packet, sizeof(hex));
	if (from_hex(hex, regs, sizeof(regs)) != sizeof(regs))
		die("QEMU does not tell the registers");
	if (regs[RDX] != HV_PORT || (uint32_t)regs[RAX] != HV_MAGIC)
		die("the guest stopped at %#lx, which is no hypercall", regs[RIP]);
	hypercall(regs);
	regs[RIP]++;
	to_hex(packet, regs, sizeof(regs));
	memcpy(hex, packet, 2 * sizeof(regs));
	gdb_command("G%s", hex);
	if (strcmp(packet, "OK"))
		die("QEMU does not take the registers: %s", packet);
	gdb_continue();
}

/* A rule for pages, or for commands. */
static const char *add_rule(bool pages, char *text)
{
	const unsigned int page_commands = 1 << LOCK | 1 << UNLOCK |
		1 << BATCHED_LOCK | 1 << BATCHED_UNLOCK |
		1 << BATCHED_2M_LOCK | 1 << BATCHED_2M_UNLOCK;

	if (pages)
		return parse_rule(&host.refuse, text, page_commands, PPN_PINNED,
				  ENTRY_STATUS);
	return parse_rule(&host.fail, text, (1 << NR_COMMANDS) - 1, BUSY,
			  ULONG_MAX);
}

/* Let chance decide from now on. Any seed will do but 0. */
static void begin_random(bool garbage, unsigned long seed)
{
	hostile = garbage;
	random_host = random_ever = true;
	random_state = seed * 2 + 1;
}

/* How many of @nr frames from @pfn on the guest has given. */
static unsigned long frames_held(unsigned long pfn, unsigned long nr)
{
	unsigned long sum = 0;

	while (nr--)
		sum += !!host.locked[pfn++];
	return sum;
}

/* The guest knows it, too (vmware.c). */
static uint64_t mix(uint64_t pfn)
{
	pfn = (pfn + 1) * 0x9e3779b97f4a7c15UL;
	return pfn ^ pfn >> 29;
}

static unsigned long hash_held(unsigned long pfn, unsigned long nr)
{
	unsigned long sum = 0;

	for (; nr--; pfn++)
		if (host.locked[pfn])
			sum += mix(pfn);
	return sum & LONG_MAX;
}

/* The frames that the guest's port waits for, if it does. */
static long waiting_for = -1;

static void handle_request(FILE *port, char *request)
{
	const char *wrong = NULL;
	unsigned long long value, nr;

	if (sscanf(request, "target %llu", &value) == 1) {
		host.target = value >> PAGE_SHIFT;
		fputs("ok\n", port);
	} else if (!strcmp(request, "actual")) {
		fprintf(port, "ok %lu\n", host.size << PAGE_SHIFT);
	} else if (sscanf(request, "wait %llu", &value) == 1) {
		waiting_for = value >> PAGE_SHIFT;
	} else if (sscanf(request, "held %llu %llu", &value, &nr) == 2 &&
		   value <= MAX_FRAMES && nr <= MAX_FRAMES - value) {
		fprintf(port, "ok %lu\n", frames_held(value, nr));
	} else if (sscanf(request, "hash %llu %llu", &value, &nr) == 2 &&
		   value <= MAX_FRAMES && nr <= MAX_FRAMES - value) {
		fprintf(port, "ok %lu\n", hash_held(value, nr));
	} else if (!strcmp(request, "calls")) {
		fprintf(port, "ok %llu\n", host.page_calls);
	} else if (!strcmp(request, "hypercalls")) {
		fprintf(port, "ok %llu\n", host.calls);
	} else if (sscanf(request, "random %llu", &value) == 1) {
		begin_random(false, value);
		fputs("ok\n", port);
	} else if (sscanf(request, "hostile %llu", &value) == 1) {
		begin_random(true, value);
		fputs("ok\n", port);
	} else if (!strcmp(request, "quiet")) {
		hostile = random_host = false;
		host.refuse.nr = 0;
		host.fail.nr = 0;
		fputs("ok\n", port);
	} else if (!strcmp(request, "doorbell")) {
		fprintf(port, "ok %d\n", host.doorbell);
	} else if (!strcmp(request, "unseen")) {
		fprintf(port, "ok %u\n", count_unseen(NULL));
	} else if (!strcmp(request, "violations")) {
		fprintf(port, "ok %llu\n", host.violations);
	} else if (!strcmp(request, "sessions")) {
		fprintf(port, "ok %llu\n", host.sessions);
	} else if (!strncmp(request, "capabilities ", 13)) {
		fputs(parse_offers(request + 13) ? "ok\n" : "error no such capabilities\n",
		      port);
	} else if (!strcmp(request, "reset")) {
		host.resets += !host.resetting;
		host.resetting = true;
		fputs("ok\n", port);
	} else if (!strncmp(request, "refuse ", 7) || !strncmp(request, "fail ", 5)) {
		wrong = add_rule(request[0] == 'r', strchr(request, ' ') + 1);
		if (wrong)
			fprintf(port, "error in a rule: %s\n", wrong);
		else
			fputs("ok\n", port);
	} else if (!strcmp(request, "clear")) {
		host.refuse.nr = 0;
		host.fail.nr = 0;
		fputs("ok\n", port);
	} else if (!strcmp(request, "cpu")) {
		answer_value(port, cpu_us(qemu));
	} else {
		fputs("error no such request\n", port);
	}
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "gdb", required_argument, NULL, 'g' },
		{ "vmlinux", required_argument, NULL, 'l' },
		{ "port", required_argument, NULL, 'p' },
		{ "capabilities", required_argument, NULL, 'c' },
		{ "target", required_argument, NULL, 't' },
		{ "refuse", required_argument, NULL, 'r' },
		{ "fail", required_argument, NULL, 'f' },
		{ "latency", required_argument, NULL, 'y' },
		{ "random", required_argument, NULL, 's' },
		{ "hostile", required_argument, NULL, 'x' },
		{ "max-target", required_argument, NULL, 'm' },
		{ "log", required_argument, NULL, 'o' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	const char *gdb_path = NULL, *vmlinux = NULL, *port_path = NULL;
	const char *wrong;
	unsigned long insns[MAX_INSNS];
	struct connection port = {};
	unsigned long last = 0;
	time_t since = 0;
	int opt, nr_insns;
	char *line = NULL;
	size_t size = 0;

	while ((opt = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (opt) {
		case 'g':
			gdb_path = optarg;
			break;
		case 'l':
			vmlinux = optarg;
			break;
		case 'p':
			port_path = optarg;
			break;
		case 'c':
			if (!parse_offers(optarg))
				die("--capabilities: \"%s\"", optarg);
			break;
		case 't':
			host.target = parse_number(optarg, "--target")
				      << (20 - PAGE_SHIFT);
			break;
		case 'r':
		case 'f':
			wrong = add_rule(opt == 'r', optarg);
			if (wrong)
				die("can't understand \"%s\" in a rule", wrong);
			break;
		case 'y':
			host.latency_us = parse_number(optarg, "--latency");
			break;
		case 'x':
		case 's':
			begin_random(opt == 'x', parse_number(optarg, "SEED"));
			break;
		case 'm':
			random_max_target = parse_number(optarg, "--max-target")
					    << (20 - PAGE_SHIFT);
			break;
		case 'o':
			log_file = fopen(optarg, "we");
			if (!log_file)
				die("%s: %s", optarg, strerror(errno));
			setvbuf(log_file, NULL, _IOLBF, 0);
			break;
		case 'v':
			verbose = true;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			usage(stderr);
			return 2;
		}
	}
	if (!gdb_path || !vmlinux || optind < argc) {
		usage(stderr);
		return 2;
	}

	host_init();
	nr_insns = find_insns(vmlinux, insns);
	host.locked = mmap(NULL, MAX_FRAMES * sizeof(*host.locked),
			   PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host.locked == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	gdb = connect_to(gdb_path);
	qemu = peer_pid(gdb);
	if (port_path)
		port = connect_streams(port_path);

	gdb_command("qSupported:multiprocess-;hwbreak+");
	gdb_command("?");
	gdb_expect_ok("Qqemu.PhyMemMode:1");
	host.ram = ram_frames();
	if (!host.ram)
		fputs("vmw_host: QEMU does not tell how much memory there is\n",
		      stderr);
	if (!random_max_target)
		random_max_target = host.ram / 4;
	for (int i = 0; i < nr_insns; i++) {
		gdb_command("Z1,%lx,1", insns[i]);
		if (strcmp(packet, "OK"))
			die("QEMU does not set a breakpoint at %#lx", insns[i]);
	}
	gdb_continue();

	for (;;) {
		bool stopped = input.pos < input.len;
		struct pollfd fds[] = {
			{ .fd = gdb, .events = POLLIN },
			{ .fd = port_path ? fileno(port.in) : -1,
			  .events = POLLIN },
		};

		if (poll(fds, 2, stopped ? 0 : waiting_for < 0 ? -1 : 1000) < 0 &&
		    errno != EINTR)
			die("poll: %s", strerror(errno));
		if (stopped || fds[0].revents) {
			gdb_receive();
			handle_stop();
		}
		if (fds[1].revents) {
			if (getline(&line, &size, port.in) < 0)
				gdb_end();
			line[strcspn(line, "\n")] = '\0';
			since = time(NULL);
			handle_request(port.out, line);
		}
		if (waiting_for < 0)
			continue;
		if (host.size == (unsigned long)waiting_for) {
			fputs("ok\n", port.out);
			waiting_for = -1;
		} else if (host.size != last) {
			last = host.size;
			since = time(NULL);
		} else if (time(NULL) - since > STALL_SECONDS) {
			fprintf(port.out, "error the balloon has %lu bytes\n",
				host.size << PAGE_SHIFT);
			waiting_for = -1;
		}
	}
}
