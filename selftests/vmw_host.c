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
 * driver may do as violations. A guest's virtio-serial port takes the requests
 * target, actual, held, violations (balloon.h in the series), wait, cpu (host.h),
 * and
 *
 *   calls        how many hypercalls have locked or unlocked pages
 */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "host.h"

#define PAGE_SHIFT	12
#define FRAMES_2M	512
#define BATCH_MAX	512
#define MAX_FRAMES	(1UL << 24)	/* 64 GiB */

/* Registers, in the order of the packet "g". */
enum { RAX, RBX, RCX, RDX, RSI, RIP = 16, NR_REGS };

#define HV_MAGIC	0x456c6d6f
#define HV_PORT		0x5670

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

enum capability {
	BASIC_CMDS = 1 << 1,
	BATCHED_CMDS = 1 << 2,
	BATCHED_2M_CMDS = 1 << 3,
	SIGNALLED_WAKEUP_CMD = 1 << 4,
	TARGET_64_BIT = 1 << 5,
};

static struct {
	unsigned long capabilities;	/* That START offers. */
	unsigned long refuse_2m;	/* One in so many of 2 MiB, if not 0. */
	unsigned long target;		/* In frames, as "size". */
	unsigned long size;
	unsigned long long calls;	/* All of them, */
	unsigned long long page_calls;	/* and those for pages. */
	unsigned long long violations;
	unsigned long long matrix[NR_COMMANDS][NR_STATUSES];
	/* Per frame: 0, or the frames of the page that it begins. */
	uint16_t *locked;
} host = {
	.capabilities = BASIC_CMDS | BATCHED_CMDS | BATCHED_2M_CMDS |
			TARGET_64_BIT,
};

static bool verbose;
static int gdb;			/* The socket to QEMU. */
static pid_t qemu;

static void usage(FILE *f)
{
	fputs("Usage: vmw_host --gdb SOCKET --vmlinux FILE [OPTION]...\n"
	      "Be the VMware host of the balloon driver in a QEMU guest.\n"
	      "  --gdb SOCKET       where QEMU listens for debuggers\n"
	      "  --vmlinux FILE     the guest's kernel, with symbols\n"
	      "  --port SOCKET      where QEMU listens on behalf of the guest's port\n"
	      "  --capabilities N   what START offers (default 0x2e: all but the doorbell)\n"
	      "  --refuse-2m N      refuse every N-th page of 2 MiB, as if it was pinned\n"
	      "  --target MIB       the target before the guest asks for one (0)\n"
	      "  --verbose          show each hypercall on stderr\n"
	      "It prints its statistics when QEMU ends.\n", f);
}

/*
 * Where the driver calls its host: "in (%dx),%eax" is a single byte, and where
 * that byte is part of another instruction, a breakpoint is never hit.
 */
#define INSN_IN		0xed
#define MAX_INSNS	64

static int find_insns(const char *path, unsigned long insns[MAX_INSNS])
{
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
		die("%s has no vmw_balloon, or no symbols", path);
	return n;
}

/* The debugger's protocol: packets "$...#CHECKSUM", which "+" acknowledges. */
static char packet[16384];

static void gdb_end(void)
{
	unsigned long long n;

	fprintf(stderr, "%llu hypercalls, %llu violations, %lu frames left in the balloon\n",
		host.calls, host.violations, host.size);
	for (int c = 0; c < NR_COMMANDS; c++) {
		n = 0;
		for (int s = 0; s < NR_STATUSES; s++)
			n += host.matrix[c][s];
		if (!n)
			continue;
		fprintf(stderr, "%-18s", command_names[c]);
		for (int s = 0; s < NR_STATUSES; s++)
			fprintf(stderr, " %8llu", host.matrix[c][s]);
		fputc('\n', stderr);
	}
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

/* Lock or unlock a page of @frames. */
static enum status change_page(enum command command, uint64_t pfn,
			       unsigned int frames)
{
	if (pfn + frames > MAX_FRAMES || pfn % frames) {
		violation("%s: no such page: %#lx", command_names[command], pfn);
		return PPN_INVALID;
	}
	if (is_lock(command)) {
		/* The driver can have it in pages of 4 KiB. */
		if (host.refuse_2m && frames == FRAMES_2M &&
		    pfn / FRAMES_2M % host.refuse_2m == 0)
			return PPN_PINNED;
		for (unsigned int i = 0; i < frames; i++) {
			if (!host.locked[pfn + i])
				continue;
			violation("%s: %#lx is locked", command_names[command],
				  pfn + i);
			return PPN_LOCKED;
		}
		host.locked[pfn] = frames;
		host.size += frames;
	} else {
		if (host.locked[pfn] != frames) {
			violation("%s: %#lx is not locked", command_names[command],
				  pfn);
			return PPN_UNLOCKED;
		}
		host.locked[pfn] = 0;
		host.size -= frames;
	}
	return SUCCESS;
}

static enum status change_batch(enum command command, uint64_t batch_pfn,
				uint64_t nr)
{
	uint64_t entries[BATCH_MAX];
	unsigned int frames = 1;

	if (command == BATCHED_2M_LOCK || command == BATCHED_2M_UNLOCK)
		frames = FRAMES_2M;
	if (!nr || nr > BATCH_MAX ||
	    !read_memory(batch_pfn << PAGE_SHIFT, entries, nr * 8)) {
		violation("%s: no such batch: %lu at %#lx",
			  command_names[command], nr, batch_pfn);
		return PPN_INVALID;
	}
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t pfn = entries[i] >> PAGE_SHIFT;

		if (entries[i] & ((1UL << PAGE_SHIFT) - 1))
			violation("%s: reserved bits: %#lx",
				  command_names[command], entries[i]);
		entries[i] = pfn << PAGE_SHIFT |
			     change_page(command, pfn, frames);
	}
	if (!write_memory(batch_pfn << PAGE_SHIFT, entries, nr * 8))
		die("can't write the batch page");
	return SUCCESS;
}

/* Carry out the hypercall of the registers, and write its results to them. */
static void hypercall(uint64_t regs[NR_REGS])
{
	uint64_t command = regs[RCX], arg1 = regs[RBX], arg2 = regs[RSI];
	unsigned int status = SUCCESS;

	host.calls++;
	switch (command) {
	case START:
		/* A fresh start, with all pages back. */
		madvise(host.locked, MAX_FRAMES * sizeof(*host.locked),
			MADV_DONTNEED);
		host.size = 0;
		status = SUCCESS_WITH_CAPABILITIES;
		regs[RCX] = host.capabilities & arg1;
		break;
	case GET_TARGET:
	case GUEST_ID:
		break;
	case LOCK:
	case UNLOCK:
		host.page_calls++;
		status = change_page(command, arg1, 1);
		break;
	case BATCHED_LOCK:
	case BATCHED_UNLOCK:
	case BATCHED_2M_LOCK:
	case BATCHED_2M_UNLOCK:
		host.page_calls++;
		status = change_batch(command, arg1, arg2);
		break;
	default:
		status = CMD_INVALID;
	}
	if (command < NR_COMMANDS)
		host.matrix[command][status < NR_STATUSES ? status : SUCCESS]++;
	if (verbose && command != GET_TARGET)
		fprintf(stderr, "%-18s %#10lx %4lu: %#x, %lu of %lu frames\n",
			command < NR_COMMANDS ? command_names[command] : "?",
			arg1, arg2, status, host.size, host.target);
	regs[RAX] = status;
	if (command != START)
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

/* How many of @nr frames from @pfn on are in pages that begin there. */
static unsigned long frames_held(unsigned long pfn, unsigned long nr)
{
	unsigned long sum = 0;

	while (nr--)
		sum += host.locked[pfn++];
	return sum;
}

/* The frames that the guest's port waits for, if it does. */
static long waiting_for = -1;

static void handle_request(FILE *port, const char *request)
{
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
	} else if (!strcmp(request, "calls")) {
		fprintf(port, "ok %llu\n", host.page_calls);
	} else if (!strcmp(request, "violations")) {
		fprintf(port, "ok %llu\n", host.violations);
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
		{ "refuse-2m", required_argument, NULL, 'r' },
		{ "target", required_argument, NULL, 't' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	const char *gdb_path = NULL, *vmlinux = NULL, *port_path = NULL;
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
			host.capabilities = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			host.refuse_2m = strtoul(optarg, NULL, 0);
			break;
		case 't':
			host.target = strtoul(optarg, NULL, 0) << (20 - PAGE_SHIFT);
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
