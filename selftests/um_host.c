// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtio-balloon host that misbehaves on request, for a kernel that runs as a
 * process (ARCH=um).
 *
 * Starts the kernel, and is the device at the other end of the vhost-user socket
 * that its driver virtio_uml connects to. The guest, a file or the command line
 * tell it what to do, in lines of words:
 *
 *   target PAGES            the size that the balloon should have; interrupts
 *   quiet-target PAGES      the same, without an interrupt
 *   interrupt [TIMES]       the configuration has changed, it says
 *   moving-target [0|1]     another target at each look at the configuration
 *   storm TIMES             as many targets, with an interrupt each
 *   hint ID                 the command id of free page hinting; interrupts
 *   stats                   ask for statistics
 *
 *   answer                  to all buffers, at once, from now on
 *   slow MS                 each buffer takes so long
 *   silent [AFTER [QUEUE]]  answer so many buffers, and no more
 *   pause MS                answer nothing for so long
 *   wrong-id KIND [TIMES]   return a buffer that is not there: "beyond" the ring,
 *                           "free", or "twice" the same
 *   length BYTES [TIMES]    claim to have written so much
 *   jump N                  the used index goes ahead by N
 *   scribble                descriptors, and what is not used yet, become garbage
 *   call QUEUE [TIMES]      interrupt for nothing
 *   unplug                  close the connection
 *   forget                  what is in the balloon, to accuse the driver wrongly
 *   random TIMES [SEED [broken]]  as many of the above, but for those that a device
 *                           can't be forgiven; with these, sometimes
 *
 * and ask for one of: inflated, actual, goal (the target), buffers (answered),
 * ignored (not answered), reported (pages), hinted (pages), memtotal (of the last
 * statistics), repeated (times that the guest said what nobody had asked: its size,
 * which the host had, and wanted), random-done, violations. Each line is answered with
 * "ok [VALUE]" or "error REASON". QUEUE is one of inflate, deflate, stats, hint, report.
 *
 * It knows which pages are in the balloon, and what a driver may not do: what is
 * said to be in the balloon is overwritten, and has to be unchanged when the guest
 * takes it back. Each violation is a line of the log. Having lied about buffers, it
 * can't tell any more what is in the balloon, until the driver resets the device.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <ftw.h>
#include <getopt.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "host.h"

#define PAGE_SHIFT		12
#define PAGE_SIZE		(1UL << PAGE_SHIFT)
#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))
#define BIT(n)			(1ULL << (n))

/* In the VM. */
#define FD_PORT			3
#define FD_RESULTS		4

#define MAX_PFNS		256	/* Some hosts take no more in a buffer. */
#define MAX_RING		256
#define MAX_SEGMENTS		64
#define MAX_LOGGED		20	/* Violations. */
#define SHM			"/dev/shm"
#define SHM_SIZE		(4ULL << 30)	/* For several VMs. */
#define RANDOM_INTERVAL_NS	20000
#define MS			1000000ULL	/* In ns. */

enum feature {
	F_MUST_TELL_HOST	= 0,
	F_STATS			= 1,
	F_DEFLATE_ON_OOM	= 2,
	F_FREE_PAGE_HINT	= 3,
	F_PAGE_POISON		= 4,
	F_REPORTING		= 5,
	F_EVENT_IDX		= 29,
	F_PROTOCOL		= 30,	/* vhost-user's own. */
	F_VERSION_1		= 32,
	F_RING_PACKED		= 34,
};

static const struct {
	const char *name;
	enum feature bit;
} feature_names[] = {
	{ "tell", F_MUST_TELL_HOST },
	{ "stats", F_STATS },
	{ "oom", F_DEFLATE_ON_OOM },
	{ "hint", F_FREE_PAGE_HINT },
	{ "poison", F_PAGE_POISON },
	{ "report", F_REPORTING },
	{ "event", F_EVENT_IDX },
	{ "packed", F_RING_PACKED },
};

/* Of vhost-user: what the driver sends, and what it can be sent. */
enum {
	GET_FEATURES		= 1,
	SET_FEATURES		= 2,
	SET_OWNER		= 3,
	SET_MEM_TABLE		= 5,
	SET_VRING_NUM		= 8,
	SET_VRING_ADDR		= 9,
	SET_VRING_BASE		= 10,
	SET_VRING_KICK		= 12,
	SET_VRING_CALL		= 13,
	GET_PROTOCOL_FEATURES	= 15,
	SET_PROTOCOL_FEATURES	= 16,
	SET_VRING_ENABLE	= 18,
	SET_BACKEND_REQ_FD	= 21,
	GET_CONFIG		= 24,
	SET_CONFIG		= 25,

	BACKEND_CONFIG_CHANGE	= 2,

	MSG_VERSION		= 1,
	MSG_REPLY		= 1 << 2,
	MSG_NEED_REPLY		= 1 << 3,

	PROTOCOL_F_REPLY_ACK	= 3,
	PROTOCOL_F_BACKEND_REQ	= 5,
	PROTOCOL_F_CONFIG	= 9,
};

struct msg_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size;
};

struct msg {
	struct msg_header header;
	union {
		uint64_t value;
		struct {
			uint32_t index;
			uint32_t num;
		} state;
		struct {
			uint32_t index;
			uint32_t flags;
			uint64_t desc, used, avail, log;
		} addr;
		struct {
			uint32_t nr;
			uint32_t padding;
			struct {
				uint64_t guest_addr, size, user_addr, offset;
			} region;
		} memory;
		struct {
			uint32_t offset;
			uint32_t size;
			uint32_t flags;
			uint8_t data[256];
		} config;
	};
} __attribute__((packed));

/* The device's configuration. The guest is as little-endian as we are. */
struct config {
	uint32_t num_pages;
	uint32_t actual;
	uint32_t hint_cmd_id;
	uint32_t poison_val;
};

/* Of virtio: the same descriptor in both kinds of rings, but for its last words. */
struct desc {
	uint64_t addr;
	uint32_t len;
	union {
		struct {
			uint16_t flags;
			uint16_t next;
		} split;
		struct {
			uint16_t id;
			uint16_t flags;
		} packed;
	};
};

struct avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[];
};

struct used {
	uint16_t flags;
	uint16_t idx;
	struct {
		uint32_t id;
		uint32_t len;
	} ring[];
};

enum {
	DESC_NEXT		= 1,
	DESC_WRITE		= 2,
	DESC_INDIRECT		= 4,
	DESC_AVAIL		= 1 << 7,
	DESC_USED		= 1 << 15,
	AVAIL_NO_INTERRUPT	= 1,
	EVENT_DISABLE		= 1,
};

enum queue_id {
	INFLATE,
	DEFLATE,
	STATS,
	HINT,
	REPORT,
	NR_QUEUES
};

static const char *const queue_names[NR_QUEUES] = {
	"inflate", "deflate", "stats", "hint", "report",
};

struct segment {
	uint64_t addr;
	uint32_t len;
	bool write;
};

/* What the driver has made available, and has not been returned. */
struct buffer {
	uint16_t id;
	uint16_t nr_desc;
	unsigned int nr;
	uint64_t due;
	struct segment segments[MAX_SEGMENTS];
};

struct queue {
	enum queue_id id;
	bool exists;		/* With the features that the driver takes. */
	bool enabled;
	unsigned int num;
	int kick;
	int call;
	void *desc;
	void *avail;
	void *used;
	uint16_t next_avail;
	uint16_t next_used;
	bool avail_wrap;	/* Of packed rings. */
	bool used_wrap;
	bool signal;		/* Something was used. */
	/* In the order of their arrival: @nr_pending from @first. */
	struct buffer pending[MAX_RING];
	unsigned int first;
	unsigned int nr_pending;
	unsigned long answered;
};

enum wrong_id { BEYOND, FREE, TWICE };
static const char *const wrong_id_names[] = { "beyond", "free", "twice" };

/* What the host does wrong. */
static struct {
	uint64_t latency;
	bool silent[NR_QUEUES];
	long silent_after;		/* Buffers; -1: not. */
	enum queue_id silent_queue;	/* NR_QUEUES: all of them. */
	uint64_t silent_until;		/* 0: for ever. */
	enum wrong_id wrong_id;
	unsigned long wrong_ids;
	uint32_t length;
	unsigned long lengths;
	bool moving_target;
} fault = { .silent_after = -1 };

static struct {
	unsigned long left;
	unsigned long done;
	uint64_t state;
	uint64_t next;
	bool broken;
} rnd;

static struct {
	int listener;
	int sock;
	int backend;		/* Where we send requests of our own. */
	uint64_t offered;
	uint64_t features;
	struct config config;
	struct queue queues[NR_QUEUES];
	int max_index;

	/* Guest memory: from address @base, @size bytes. */
	uint8_t *memory;
	uint64_t base;
	uint64_t size;
	size_t map_size;

	bool *in_balloon;	/* By PFN. */
	unsigned long nr_pfns;
	unsigned long inflated;
	unsigned long hinted;
	unsigned long reported;
	uint64_t memtotal;
	bool stats_wanted;
	bool told;		/* The size, since the last reset. */
	unsigned long repeated;	/* The same again, although it is what it should be. */

	bool lied;		/* About buffers: what it knows is worth nothing. */
	unsigned long violations;
	unsigned long inflates, deflates, interrupts, config_reads;
	unsigned long most;
} dev = { .listener = -1, .sock = -1, .backend = -1 };

static pid_t vm;
static bool verbose;
static struct timespec start;

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (ts.tv_sec - start.tv_sec) * 1000000000LL + ts.tv_nsec -
	       start.tv_nsec;
}

static __attribute__((format(printf, 1, 2))) void say(const char *fmt, ...)
{
	va_list args;

	printf("%9.4f ", now() / 1e9);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

/* What no driver may do. */
static __attribute__((format(printf, 1, 2))) void violation(const char *fmt, ...)
{
	va_list args;

	if (dev.violations++ >= MAX_LOGGED)
		return;
	printf("%9.4f violation: ", now() / 1e9);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

/* xorshift64* */
static uint64_t random_u64(void)
{
	rnd.state ^= rnd.state >> 12;
	rnd.state ^= rnd.state << 25;
	rnd.state ^= rnd.state >> 27;
	return rnd.state * 0x2545f4914f6cdd1dULL;
}

static uint64_t random_below(uint64_t n)
{
	return (random_u64() >> 11) % n;
}

static bool has(enum feature bit)
{
	return dev.features & BIT(bit);
}

/* The guest's memory from @addr; NULL if it does not have all of that. */
static void *memory(uint64_t addr, uint64_t len)
{
	if (!dev.memory || addr < dev.base || len > dev.size ||
	    addr - dev.base > dev.size - len)
		return NULL;
	return dev.memory + addr;
}

/*
 * What a page has while it is in the balloon: nothing that a guest would write.
 */
static uint64_t pattern(uint64_t pfn)
{
	return 0xb5b5b5b500000000ULL | pfn;
}

static void fill_page(uint64_t pfn)
{
	uint64_t *p = memory(pfn << PAGE_SHIFT, PAGE_SIZE);

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*p); i++)
		p[i] = pattern(pfn);
}

static bool page_is_filled(uint64_t pfn)
{
	uint64_t *p = memory(pfn << PAGE_SHIFT, PAGE_SIZE);

	for (size_t i = 0; i < PAGE_SIZE / sizeof(*p); i++)
		if (p[i] != pattern(pfn))
			return false;
	return true;
}

/*
 * Requests of the driver.
 */

/* The PFNs of a buffer of the inflate or deflate queue. */
static void move_pages(struct queue *q, struct buffer *b)
{
	const char *name = queue_names[q->id];
	bool inflate = q->id == INFLATE;
	unsigned int nr;
	uint32_t *pfns;

	if (b->nr != 1 || b->segments[0].write) {
		violation("%s: %u segments%s", name, b->nr,
			  b->segments[0].write ? ", writable" : "");
		return;
	}
	nr = b->segments[0].len / sizeof(*pfns);
	if (!nr || nr > MAX_PFNS || b->segments[0].len % sizeof(*pfns)) {
		violation("%s: a buffer of %u bytes", name, b->segments[0].len);
		return;
	}
	pfns = memory(b->segments[0].addr, b->segments[0].len);
	if (!pfns) {
		violation("%s: a buffer at %#lx", name, b->segments[0].addr);
		return;
	}
	for (unsigned int i = 0; i < nr; i++) {
		uint64_t pfn = pfns[i];

		if (!memory(pfn << PAGE_SHIFT, PAGE_SIZE)) {
			violation("%s: PFN %#lx is no memory", name, pfn);
		} else if (dev.in_balloon[pfn] == inflate) {
			if (dev.lied)
				continue;
			violation("%s: PFN %#lx is%s in the balloon", name, pfn,
				  inflate ? "" : " not");
		} else if (inflate) {
			dev.in_balloon[pfn] = true;
			dev.inflated++;
			fill_page(pfn);
		} else {
			if (!page_is_filled(pfn) && !dev.lied)
				violation("%s: PFN %#lx was used in the balloon",
					  name, pfn);
			dev.in_balloon[pfn] = false;
			dev.inflated--;
		}
	}
	if (inflate)
		dev.inflates += nr;
	else
		dev.deflates += nr;
	if (dev.inflated > dev.most)
		dev.most = dev.inflated;
	if (verbose)
		say("%s: %u pages from PFN %#x, %lu in the balloon", name, nr,
		    pfns[0], dev.inflated);
}

/*
 * Free pages. While they are reported, nobody may have them. Those that the driver
 * only hints at may be used again before the host has got to them.
 */
static unsigned long free_pages(struct queue *q, const struct segment *s)
{
	const char *name = queue_names[q->id];

	if (!s->write || s->addr % PAGE_SIZE || s->len % PAGE_SIZE || !s->len ||
	    !memory(s->addr, s->len)) {
		violation("%s: %#x%s bytes at %#lx", name, s->len,
			  s->write ? "" : " read-only", s->addr);
		return 0;
	}
	for (uint64_t a = s->addr; a < s->addr + s->len; a += PAGE_SIZE) {
		if (!dev.in_balloon[a >> PAGE_SHIFT] || q->id == HINT || dev.lied)
			continue;
		violation("%s: PFN %#lx is in the balloon", name,
			  a >> PAGE_SHIFT);
		break;
	}
	return s->len >> PAGE_SHIFT;
}

static void report(struct queue *q, struct buffer *b)
{
	uint32_t poison = has(F_PAGE_POISON) ? dev.config.poison_val : 0;

	for (unsigned int i = 0; i < b->nr; i++) {
		struct segment *s = &b->segments[i];

		/* What they had is gone; a guest that poisons pages sees to it. */
		if (free_pages(q, s)) {
			uint32_t *p = memory(s->addr, s->len);

			for (size_t n = 0; n < s->len / sizeof(*p); n++)
				p[n] = poison;
		}
		dev.reported += s->len >> PAGE_SHIFT;
	}
}

static void hint(struct queue *q, struct buffer *b)
{
	struct segment *s = &b->segments[0];

	if (b->nr != 1)
		violation("hint: %u segments", b->nr);
	else if (s->write)
		dev.hinted += free_pages(q, s);
	else if (s->len != sizeof(uint32_t) || !memory(s->addr, s->len))
		violation("hint: a command id of %u bytes at %#lx", s->len,
			  s->addr);
	else if (verbose)
		say("hint: command id %u", *(uint32_t *)memory(s->addr, s->len));
}

static void stats(struct buffer *b)
{
	struct segment *s = &b->segments[0];
	struct __attribute__((packed)) {
		uint16_t tag;
		uint64_t value;
	} *stat = memory(s->addr, s->len);

	if (b->nr != 1 || s->write || s->len % sizeof(*stat) || !stat) {
		violation("stats: %u segments, %u bytes at %#lx", b->nr, s->len,
			  s->addr);
		return;
	}
	for (unsigned int i = 0; i < s->len / sizeof(*stat); i++)
		if (stat[i].tag == 5)
			dev.memtotal = stat[i].value;
}

/*
 * Rings.
 */

static void interrupt_queue(struct queue *q)
{
	const uint64_t one = 1;

	/* If the pipe is full, the guest has enough to do. */
	if (q->call >= 0 && write(q->call, &one, sizeof(one)) > 0)
		dev.interrupts++;
}

/* Does the driver want to know of what was used since @old? */
static bool wants_interrupt(struct queue *q, uint16_t old)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (has(F_RING_PACKED)) {
		/* To interrupt for a descriptor that was not asked for is legal. */
		return ((uint16_t *)q->avail)[1] != EVENT_DISABLE;
	}
	if (has(F_EVENT_IDX)) {
		struct used *used = q->used;
		struct avail *avail = q->avail;
		uint16_t event = avail->ring[q->num], new = used->idx;

		return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
	}
	return !(((struct avail *)q->avail)->flags & AVAIL_NO_INTERRUPT);
}

static void put_used(struct queue *q, uint32_t id, uint32_t len,
		     unsigned int nr_desc)
{
	if (has(F_RING_PACKED)) {
		struct desc *d = (struct desc *)q->desc + q->next_used;

		d->packed.id = id;
		d->len = len;
		__atomic_store_n(&d->packed.flags,
				 q->used_wrap ? DESC_AVAIL | DESC_USED : 0,
				 __ATOMIC_RELEASE);
		q->next_used += nr_desc;
		if (q->next_used >= q->num) {
			q->next_used -= q->num;
			q->used_wrap = !q->used_wrap;
		}
		q->signal = true;
	} else {
		struct used *used = q->used;
		uint16_t idx = used->idx;

		used->ring[idx % q->num].id = id;
		used->ring[idx % q->num].len = len;
		__atomic_store_n(&used->idx, idx + 1, __ATOMIC_RELEASE);
	}
}

/* Return the first buffer that is pending, rightly or not. */
static void return_buffer(struct queue *q)
{
	struct buffer *b = &q->pending[q->first];
	uint32_t id = b->id, len = 0;

	for (unsigned int i = 0; i < b->nr; i++)
		if (b->segments[i].write)
			len += b->segments[i].len;
	if (fault.lengths) {
		fault.lengths--;
		len = fault.length;
	}
	if (fault.wrong_ids) {
		fault.wrong_ids--;
		dev.lied = true;
		switch (fault.wrong_id) {
		case BEYOND:
			id = q->num + 1 + random_below(1000);
			break;
		case FREE:
			/* The driver takes the ids in turn. */
			id = (id + q->num / 2) % q->num;
			break;
		case TWICE:
			put_used(q, id, len, b->nr_desc);
			break;
		}
		say("%s: returned a wrong buffer: %s", queue_names[q->id],
		    wrong_id_names[fault.wrong_id]);
	}
	put_used(q, id, len, b->nr_desc);
	q->first = (q->first + 1) % MAX_RING;
	q->nr_pending--;
	q->answered++;
	if (fault.silent_after > 0 &&
	    (fault.silent_queue == NR_QUEUES || fault.silent_queue == q->id))
		fault.silent_after--;
}

static bool is_silent(struct queue *q)
{
	if (fault.silent_until && now() < fault.silent_until)
		return true;
	if (!fault.silent_after &&
	    (fault.silent_queue == NR_QUEUES || fault.silent_queue == q->id)) {
		if (!fault.silent[q->id] && q->nr_pending)
			say("%s: silent from now on", queue_names[q->id]);
		fault.silent[q->id] = true;
		return true;
	}
	return false;
}

/* Answer what is due. */
static void serve(struct queue *q)
{
	uint16_t old;

	if (!q->enabled || !q->nr_pending)
		return;
	/* That one is kept until there is something to ask. */
	if (q->id == STATS && !dev.stats_wanted)
		return;
	if (is_silent(q))
		return;
	old = has(F_RING_PACKED) ? 0 : ((struct used *)q->used)->idx;
	while (q->nr_pending) {
		struct buffer *b = &q->pending[q->first];

		if (b->due > now() || is_silent(q))
			break;
		if (q->id == STATS && !dev.stats_wanted)
			break;
		switch (q->id) {
		case INFLATE:
		case DEFLATE:
			move_pages(q, b);
			break;
		case STATS:
			dev.stats_wanted = false;
			break;
		case HINT:
			hint(q, b);
			break;
		case REPORT:
			report(q, b);
			break;
		default:
			break;
		}
		return_buffer(q);
		q->signal = true;
	}
	if (q->signal && wants_interrupt(q, old))
		interrupt_queue(q);
	q->signal = false;
}

static bool add_segment(struct queue *q, struct buffer *b, const struct desc *d,
			uint16_t flags)
{
	if (flags & DESC_INDIRECT || b->nr == MAX_SEGMENTS) {
		violation("%s: %s", queue_names[q->id],
			  flags & DESC_INDIRECT ? "an indirect descriptor" :
						  "a chain without end");
		return false;
	}
	b->segments[b->nr++] = (struct segment) {
		.addr = d->addr,
		.len = d->len,
		.write = flags & DESC_WRITE,
	};
	return true;
}

/* Take the next buffer that the driver has made available. */
static bool take_split(struct queue *q, struct buffer *b)
{
	struct avail *avail = q->avail;
	uint16_t idx = __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE);
	unsigned int i;

	if (idx == q->next_avail)
		return false;
	if ((uint16_t)(idx - q->next_avail) > q->num) {
		violation("%s: %u buffers in a ring of %u", queue_names[q->id],
			  (uint16_t)(idx - q->next_avail), q->num);
		q->next_avail = idx;
		return false;
	}
	i = b->id = avail->ring[q->next_avail % q->num];
	q->next_avail++;
	if (has(F_EVENT_IDX)) {
		/* Kicks, please. */
		uint16_t *event = (void *)&((struct used *)q->used)->ring[q->num];

		__atomic_store_n(event, q->next_avail, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	}
	for (;;) {
		struct desc d;

		if (i >= q->num) {
			violation("%s: descriptor %u of %u", queue_names[q->id],
				  i, q->num);
			break;
		}
		d = ((struct desc *)q->desc)[i];
		b->nr_desc++;
		if (!add_segment(q, b, &d, d.split.flags) ||
		    !(d.split.flags & DESC_NEXT))
			break;
		i = d.split.next;
	}
	return true;
}

static bool take_packed(struct queue *q, struct buffer *b)
{
	for (;;) {
		struct desc *d = (struct desc *)q->desc + q->next_avail;
		uint16_t flags = __atomic_load_n(&d->packed.flags,
						 __ATOMIC_ACQUIRE);

		if (!(flags & DESC_AVAIL) == q->avail_wrap ||
		    !(flags & DESC_USED) != q->avail_wrap) {
			if (b->nr)
				violation("%s: a chain with a gap",
					  queue_names[q->id]);
			return false;
		}
		if (++q->next_avail == q->num) {
			q->next_avail = 0;
			q->avail_wrap = !q->avail_wrap;
		}
		b->id = d->packed.id;
		b->nr_desc++;
		if (!add_segment(q, b, d, flags) || !(flags & DESC_NEXT))
			return true;
	}
}

static void take_buffers(struct queue *q)
{
	if (!q->enabled || !q->desc)
		return;
	while (q->nr_pending < MAX_RING) {
		struct buffer *b = &q->pending[(q->first + q->nr_pending) % MAX_RING];

		b->nr = 0;
		b->nr_desc = 0;
		if (!(has(F_RING_PACKED) ? take_packed(q, b) : take_split(q, b)))
			return;
		b->due = now() + fault.latency;
		if (q->id == STATS) {
			/* This is the answer to the last request. */
			stats(b);
			if (q->nr_pending && !dev.lied)
				violation("stats: more than one buffer");
		}
		q->nr_pending++;
	}
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void reset_queue(struct queue *q)
{
	/* The driver still reads from the pipe that is @call: leave it open. */
	close_fd(&q->kick);
	q->enabled = false;
	q->desc = NULL;
	q->next_avail = 0;
	q->next_used = 0;
	q->avail_wrap = true;
	q->used_wrap = true;
	q->first = 0;
	q->nr_pending = 0;
	q->signal = false;
}

static void forget_pages(void)
{
	if (dev.in_balloon)
		memset(dev.in_balloon, 0, dev.nr_pfns * sizeof(bool));
	dev.inflated = 0;
}

/* The device forgets all, and the guest has all of its memory. */
static void reset_device(const char *why)
{
	if (dev.inflated)
		say("%s, with %lu pages in the balloon", why, dev.inflated);
	else
		say("%s", why);
	for (int i = 0; i < NR_QUEUES; i++)
		reset_queue(&dev.queues[i]);
	forget_pages();
	dev.config.actual = 0;
	dev.told = false;
	dev.stats_wanted = false;
	dev.lied = false;
}

/*
 * vhost-user.
 */

/* Queues have no numbers of their own if the driver does not use them all. */
static struct queue *queue_at(uint32_t index)
{
	for (int i = 0; i < NR_QUEUES; i++) {
		if (!dev.queues[i].exists)
			continue;
		if (!index--)
			return &dev.queues[i];
	}
	die("the driver names a queue that there is not");
}

static void config_interrupt(void)
{
	const struct msg_header header = {
		.request = BACKEND_CONFIG_CHANGE,
		.flags = MSG_VERSION,
	};

	if (dev.backend >= 0 && write(dev.backend, &header, sizeof(header)) > 0)
		dev.interrupts++;
}

static void set_target(uint32_t pages)
{
	dev.config.num_pages = pages;
	config_interrupt();
}

static unsigned long ram_pages(void)
{
	return dev.size >> PAGE_SHIFT;
}

static void disconnect(const char *why)
{
	close_fd(&dev.sock);
	close_fd(&dev.backend);
	reset_device(why);
}

static void set_memory(struct msg *msg, int fd)
{
	if (dev.memory)
		munmap(dev.memory + dev.base, dev.map_size);
	if (msg->memory.nr != 1 || fd < 0)
		die("%u regions of memory", msg->memory.nr);
	dev.base = msg->memory.region.guest_addr;
	dev.size = msg->memory.region.size;
	dev.map_size = dev.size;
	dev.memory = mmap(NULL, dev.map_size, PROT_READ | PROT_WRITE, MAP_SHARED,
			  fd, msg->memory.region.offset);
	if (dev.memory == MAP_FAILED)
		die("the guest's memory: %s", strerror(errno));
	/* For guest addresses to be an index. */
	dev.memory -= dev.base;
	dev.nr_pfns = (dev.base + dev.size) >> PAGE_SHIFT;
	free(dev.in_balloon);
	dev.in_balloon = calloc(dev.nr_pfns, sizeof(bool));
	if (!dev.in_balloon)
		die("out of memory");
	close(fd);
}

static void *ring(uint64_t addr)
{
	void *p = memory(addr, PAGE_SIZE);

	if (!p)
		die("a ring at %#lx, which is no memory", addr);
	return p;
}

static void set_features(uint64_t features)
{
	reset_device("a driver has come");
	dev.features = features & dev.offered;
	dev.queues[INFLATE].exists = true;
	dev.queues[DEFLATE].exists = true;
	dev.queues[STATS].exists = has(F_STATS);
	dev.queues[HINT].exists = has(F_FREE_PAGE_HINT);
	dev.queues[REPORT].exists = has(F_REPORTING);
	printf("%9.4f features:", now() / 1e9);
	for (size_t i = 0; i < ARRAY_SIZE(feature_names); i++)
		if (has(feature_names[i].bit))
			printf(" %s", feature_names[i].name);
	putchar('\n');
}

static void enable_queue(uint32_t index, bool enable)
{
	struct queue *q = queue_at(index);

	/* A pause, for as long as the guest sleeps. The ring is as it was after it. */
	q->enabled = enable;
	if (enable)
		take_buffers(q);
}

/* The driver asks for them when it comes, and when it has disabled all queues. */
static void get_features(struct msg *msg)
{
	bool had_driver = dev.features;

	for (int i = 0; i < NR_QUEUES; i++)
		had_driver &= !dev.queues[i].enabled;
	if (had_driver) {
		reset_device("the driver has gone");
		dev.features = 0;
	}
	msg->value = dev.offered;
}

static void get_config(struct msg *msg)
{
	uint32_t offset = msg->config.offset, size = msg->config.size;
	struct config config = dev.config;

	dev.config_reads++;
	if (fault.moving_target)
		config.num_pages = random_u64();
	if (size > sizeof(msg->config.data) || offset)
		die("a configuration of %u bytes at %u", size, offset);
	memset(msg->config.data, 0, size);
	memcpy(msg->config.data, &config,
	       size < sizeof(config) ? size : sizeof(config));
}

static void set_config(struct msg *msg)
{
	uint32_t offset = msg->config.offset, size = msg->config.size;
	uint32_t actual = dev.config.actual;

	if (size > sizeof(dev.config) || offset > sizeof(dev.config) - size ||
	    offset < offsetof(struct config, actual)) {
		violation("%u bytes written to the configuration at %u", size,
			  offset);
		return;
	}
	memcpy((char *)&dev.config + offset, msg->config.data, size);
	if (offset == offsetof(struct config, actual)) {
		if (dev.told && actual == dev.config.actual &&
		    actual == dev.config.num_pages)
			dev.repeated++;
		dev.told = true;
	}
}

static void send_reply(struct msg *msg, uint32_t size)
{
	msg->header.flags = MSG_VERSION | MSG_REPLY;
	msg->header.size = size;
	if (send(dev.sock, msg, sizeof(msg->header) + size, MSG_NOSIGNAL) < 0)
		disconnect("the guest does not read what it asks for");
}

/* The guest need not read what we write: never wait for it. */
static int nonblocking(int fd)
{
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	return fd;
}

static void handle_message(struct msg *msg, int fd)
{
	bool need_reply = msg->header.flags & MSG_NEED_REPLY;
	struct queue *q;

	switch (msg->header.request) {
	case GET_FEATURES:
		get_features(msg);
		send_reply(msg, sizeof(msg->value));
		return;
	case GET_PROTOCOL_FEATURES:
		msg->value = BIT(PROTOCOL_F_REPLY_ACK) |
			     BIT(PROTOCOL_F_BACKEND_REQ) | BIT(PROTOCOL_F_CONFIG);
		send_reply(msg, sizeof(msg->value));
		return;
	case GET_CONFIG:
		get_config(msg);
		send_reply(msg, msg->header.size);
		return;
	case SET_CONFIG:
		set_config(msg);
		break;
	case SET_FEATURES:
		set_features(msg->value);
		break;
	case SET_MEM_TABLE:
		set_memory(msg, fd);
		break;
	case SET_BACKEND_REQ_FD:
		dev.backend = nonblocking(fd);
		break;
	case SET_VRING_NUM:
		q = queue_at(msg->state.index);
		q->num = msg->state.num;
		if (!q->num || q->num > MAX_RING)
			die("a ring of %u", q->num);
		break;
	case SET_VRING_ADDR:
		q = queue_at(msg->addr.index);
		q->desc = ring(msg->addr.desc);
		q->avail = ring(msg->addr.avail);
		q->used = ring(msg->addr.used);
		break;
	case SET_VRING_BASE:
		queue_at(msg->state.index)->next_avail = msg->state.num;
		break;
	case SET_VRING_KICK:
		q = queue_at(msg->value & 0xff);
		close_fd(&q->kick);
		q->kick = nonblocking(fd);
		break;
	case SET_VRING_CALL:
		q = queue_at(msg->value & 0xff);
		close_fd(&q->call);
		q->call = nonblocking(fd);
		break;
	case SET_VRING_ENABLE:
		enable_queue(msg->state.index, msg->state.num);
		break;
	}
	if (need_reply) {
		msg->value = 0;
		send_reply(msg, sizeof(msg->value));
	}
}

static void read_message(void)
{
	struct msg msg;
	struct iovec iov = { &msg.header, sizeof(msg.header) };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *c;
	int fd = -1;

	if (recvmsg(dev.sock, &mh, MSG_WAITALL | MSG_CMSG_CLOEXEC) !=
	    sizeof(msg.header)) {
		disconnect("the guest has closed the connection");
		return;
	}
	c = CMSG_FIRSTHDR(&mh);
	if (c && c->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	if (msg.header.size > sizeof(msg) - sizeof(msg.header))
		die("a message of %u bytes", msg.header.size);
	if (msg.header.size &&
	    recv(dev.sock, &msg.value, msg.header.size, MSG_WAITALL) !=
	    (ssize_t)msg.header.size) {
		disconnect("the guest has closed the connection");
		return;
	}
	handle_message(&msg, fd);
}

/*
 * Requests of those who want the host to misbehave.
 */

static int find_name(const char *name, const char *const *names, size_t nr)
{
	for (size_t i = 0; name && i < nr; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -1;
}

static unsigned long ignored(void)
{
	unsigned long sum = 0;

	for (int i = 0; i < NR_QUEUES; i++)
		if (fault.silent[i])
			sum += dev.queues[i].nr_pending;
	return sum;
}

static unsigned long answered(void)
{
	unsigned long sum = 0;

	for (int i = 0; i < NR_QUEUES; i++)
		if (i != STATS)
			sum += dev.queues[i].answered;
	return sum;
}

static void be_good(void)
{
	memset(&fault, 0, sizeof(fault));
	fault.silent_after = -1;
	for (int i = 0; i < NR_QUEUES; i++)
		for (unsigned int n = 0; n < dev.queues[i].nr_pending; n++)
			dev.queues[i].pending[(dev.queues[i].first + n) % MAX_RING].due = 0;
}

static void scribble(struct queue *q)
{
	struct avail *avail = q->avail;

	if (!q->enabled || !q->desc || has(F_RING_PACKED))
		return;
	for (unsigned int i = 0; i < q->num * sizeof(struct desc); i++)
		((uint8_t *)q->desc)[i] = random_u64();
	for (unsigned int i = 0; i < q->num; i++)
		avail->ring[i] = random_u64();
}

/* Sizes that drivers stumble over, and others. */
static uint32_t random_target(void)
{
	switch (random_below(8)) {
	case 0:
		return 0;
	case 1:
		return random_below(512);
	case 2:
		/* More than there is is for "broken" ones. */
		return rnd.broken ? random_u64() : ram_pages() / 3;
	default:
		return random_below(ram_pages() / 3 + 1);
	}
}

/* One of the things that can go on, or wrong, at random. */
static void random_action(void)
{
	struct queue *q = &dev.queues[random_below(NR_QUEUES)];

	rnd.left--;
	rnd.done++;
	if (rnd.broken && !random_below(2000)) {
		fault.wrong_id = random_below(ARRAY_SIZE(wrong_id_names));
		fault.wrong_ids = 1;
		return;
	}
	switch (random_below(12)) {
	case 0:
		set_target(random_target());
		break;
	case 1:
		dev.config.num_pages = random_target();
		break;
	case 2:
		fault.latency = random_below(4) ? 0 : random_below(2 * MS);
		break;
	case 3:
		interrupt_queue(q);
		break;
	case 4:
		config_interrupt();
		break;
	case 5:
		dev.config.hint_cmd_id = random_below(4) ? random_u64() :
							   random_below(2);
		config_interrupt();
		break;
	case 6:
		dev.stats_wanted = true;
		break;
	case 7:
		/* A pause, seldom. */
		if (!random_below(100))
			fault.silent_until = now() + random_below(20 * MS);
		break;
	case 8:
		fault.lengths = random_below(3);
		fault.length = random_u64();
		break;
	default:
		/* Let it work. */
		break;
	}
	if (!rnd.left)
		say("random: %lu actions are done", rnd.done);
}

#define MAX_WORDS	5

static bool number(const char *word, unsigned long fallback,
		   unsigned long *value)
{
	char *end;

	*value = fallback;
	if (!word)
		return true;
	*value = strtoul(word, &end, 0);
	return *word && !*end;
}

/* Requests that ask for a value. -1: there is no such request. */
static long long ask(const char *what)
{
	const struct {
		const char *name;
		long long value;
	} values[] = {
		{ "inflated", dev.inflated },
		{ "actual", dev.config.actual },
		{ "goal", dev.config.num_pages },
		{ "buffers", answered() },
		{ "ignored", ignored() },
		{ "reported", dev.reported },
		{ "hinted", dev.hinted },
		{ "memtotal", dev.memtotal },
		{ "repeated", dev.repeated },
		{ "random-done", rnd.done },
		{ "violations", dev.violations },
	};

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		if (!strcmp(what, values[i].name))
			return values[i].value;
	return -1;
}

/* Return: what is wrong with the request, or NULL. */
static const char *act(char *const words[MAX_WORDS])
{
	const char *what = words[0];
	unsigned long n, m;
	int queue, kind;

	if (!number(words[1], 1, &n) && strcmp(what, "call") &&
	    strcmp(what, "wrong-id"))
		return "not a number";

	if (!strcmp(what, "target") && words[1]) {
		set_target(n);
	} else if (!strcmp(what, "quiet-target") && words[1]) {
		dev.config.num_pages = n;
	} else if (!strcmp(what, "interrupt")) {
		while (n--)
			config_interrupt();
	} else if (!strcmp(what, "moving-target")) {
		fault.moving_target = n;
	} else if (!strcmp(what, "storm") && words[1]) {
		while (n--)
			set_target(random_target());
	} else if (!strcmp(what, "hint") && words[1]) {
		dev.config.hint_cmd_id = n;
		config_interrupt();
	} else if (!strcmp(what, "stats")) {
		dev.stats_wanted = true;
	} else if (!strcmp(what, "answer")) {
		be_good();
	} else if (!strcmp(what, "slow") && words[1]) {
		fault.latency = n * MS;
	} else if (!strcmp(what, "silent")) {
		queue = find_name(words[2], queue_names, NR_QUEUES);
		if (words[2] && queue < 0)
			return "no such queue";
		fault.silent_after = words[1] ? n : 0;
		fault.silent_queue = words[2] ? queue : NR_QUEUES;
	} else if (!strcmp(what, "pause") && words[1]) {
		fault.silent_until = now() + n * MS;
	} else if (!strcmp(what, "wrong-id") && words[1]) {
		kind = find_name(words[1], wrong_id_names,
				 ARRAY_SIZE(wrong_id_names));
		if (kind < 0 || !number(words[2], 1, &m))
			return "not a wrong id";
		fault.wrong_id = kind;
		fault.wrong_ids = m;
	} else if (!strcmp(what, "length") && words[1]) {
		if (!number(words[2], 1, &m))
			return "not a number";
		fault.length = n;
		fault.lengths = m;
	} else if (!strcmp(what, "jump") && words[1]) {
		for (int i = 0; i < NR_QUEUES; i++) {
			struct queue *q = &dev.queues[i];

			if (!q->enabled || has(F_RING_PACKED))
				continue;
			dev.lied = true;
			((struct used *)q->used)->idx += n;
			interrupt_queue(q);
		}
	} else if (!strcmp(what, "scribble")) {
		for (int i = 0; i < NR_QUEUES; i++)
			scribble(&dev.queues[i]);
	} else if (!strcmp(what, "call") && words[1]) {
		queue = find_name(words[1], queue_names, NR_QUEUES);
		if (queue < 0 || !number(words[2], 1, &m))
			return "no such queue";
		while (m--)
			interrupt_queue(&dev.queues[queue]);
	} else if (!strcmp(what, "unplug")) {
		disconnect("unplugged");
	} else if (!strcmp(what, "forget")) {
		forget_pages();
	} else if (!strcmp(what, "random") && words[1]) {
		if (!number(words[2], 1, &m) || !m)
			return "not a seed";
		rnd.left = n;
		rnd.done = 0;
		rnd.state = m * 0x9e3779b97f4a7c15ULL;
		rnd.next = now();
		rnd.broken = words[3] && !strcmp(words[3], "broken");
	} else {
		return "no such request";
	}
	return NULL;
}

/* Carry out a line, and answer. */
static void request(char *line, FILE *answer)
{
	char *words[MAX_WORDS] = {}, *copy = strdup(line);
	const char *error;
	long long value;
	int nr = 0;

	for (char *w = strtok(line, " \t\r\n"); w && nr < MAX_WORDS;
	     w = strtok(NULL, " \t\r\n"))
		words[nr++] = w;
	if (!nr) {
		free(copy);
		return;
	}
	value = ask(words[0]);
	error = value < 0 ? act(words) : NULL;
	if (value >= 0)
		fprintf(answer, "ok %lld\n", value);
	else if (error)
		fprintf(answer, "error %s\n", error);
	else
		fputs("ok\n", answer);
	if (value < 0)
		say("> %s%s%s", copy, error ? ": " : "", error ?: "");
	free(copy);
}

/* Several of them, with semicolons in between. */
static void requests(char *lines)
{
	char *save, *line;

	for (line = strtok_r(lines, ";\n", &save); line;
	     line = strtok_r(NULL, ";\n", &save))
		request(line, stdout);
}

/*
 * The VM.
 */

static int listen_at(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		die("socket path too long: %s", path);
	strcpy(addr.sun_path, path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(fd, 1))
		die("%s: %s", path, strerror(errno));
	return fd;
}

/* Never wait for a guest that neither reads nor writes. */
static int accept_guest(int listener)
{
	const struct timeval second = { .tv_sec = 1 };
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second)))
		die("accept: %s", strerror(errno));
	return fd;
}

static int open_output(const char *path, const char *what)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
		      0644);

	if (fd < 0)
		die("%s: %s: %s", what, path, strerror(errno));
	return fd;
}

/* A VM has its memory in /dev/shm, which containers have little of. */
static bool has_shm(void)
{
	struct statvfs fs;

	return !statvfs(SHM, &fs) && !(fs.f_flag & ST_NOEXEC) &&
	       (uint64_t)fs.f_bavail * fs.f_frsize >= SHM_SIZE;
}

/* Start the kernel: our end of the pipe is the result. */
static int start_vm(char **argv, int argc, const char *dir, int console,
		    int results)
{
	char device[128], uml_dir[128];
	char *args[64];
	sigset_t none;
	int port[2];
	int nr = 0;

	if (argc + 8 > (int)ARRAY_SIZE(args))
		die("too many words for the kernel");
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, port))
		die("socketpair: %s", strerror(errno));
	snprintf(device, sizeof(device), "virtio_uml.device=%s/balloon:5", dir);
	snprintf(uml_dir, sizeof(uml_dir), "uml_dir=%s/", dir);
	for (int i = 0; i < argc; i++)
		args[nr++] = argv[i];
	args[nr++] = uml_dir;
	args[nr++] = "con0=null,fd:1";
	args[nr++] = "con=null";
	args[nr++] = "ssl0=fd:3";
	args[nr++] = "ssl1=null,fd:4";
	args[nr++] = "ssl=null";
	args[nr++] = device;
	args[nr] = NULL;

	vm = fork();
	if (vm < 0)
		die("fork: %s", strerror(errno));
	if (vm) {
		close(port[1]);
		return port[0];
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (!has_shm())
		setenv("TMPDIR", dir, 1);
	/* Out of each other's way first. */
	console = fcntl(console, F_DUPFD, 16);
	results = fcntl(results, F_DUPFD, 16);
	port[1] = fcntl(port[1], F_DUPFD, 16);
	dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
	dup2(console, STDOUT_FILENO);
	dup2(console, STDERR_FILENO);
	dup2(port[1], FD_PORT);
	dup2(results, FD_RESULTS);
	close(console);
	close(results);
	close(port[1]);
	execv(args[0], args);
	dprintf(STDERR_FILENO, "%s: %s\n", args[0], strerror(errno));
	_exit(127);
}

static void statistics(void)
{
	printf("statistics:\n"
	       "  in the balloon        %lu pages, %lu at most\n"
	       "  inflated, deflated    %lu, %lu pages\n"
	       "  reported, hinted      %lu, %lu pages\n"
	       "  buffers answered      %lu, not answered %lu\n"
	       "  interrupts            %lu\n"
	       "  configuration read    %lu times\n"
	       "  random actions        %lu\n"
	       "  violations            %lu\n",
	       dev.inflated, dev.most, dev.inflates, dev.deflates, dev.reported,
	       dev.hinted, answered(), ignored(), dev.interrupts,
	       dev.config_reads, rnd.done, dev.violations);
}

/* All of the VM: some of its processes may be in its group only. */
static void kill_vm(void)
{
	if (vm <= 0)
		return;
	kill(-vm, SIGKILL);
	kill(vm, SIGKILL);
}

static int remove_file(const char *path, const struct stat *st, int type,
		       struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void usage(FILE *f)
{
	fputs("Usage: um_host [OPTION]... DIR -- KERNEL [ARGUMENT]...\n"
	      "Run a kernel of ARCH=um with a balloon, and be the balloon's host. In DIR:\n"
	      "console.log, results (what is written to ttyS1) and end (how it ended). The\n"
	      "log goes to stdout. ttyS0 takes requests: see the source.\n"
	      "  --features LIST   that the device offers, with commas in between: tell,\n"
	      "                    stats, oom, hint, poison, report, event, packed\n"
	      "                    (default: stats,hint,report,event)\n"
	      "  --do REQUESTS     before the guest comes, with semicolons in between\n"
	      "  --then REQUESTS   when the driver has come\n"
	      "  --limit SECONDS   end the VM if it is mute for so long (10)\n"
	      "  --verbose         a line for each buffer\n"
	      "Exit status: 0 if the VM ended by itself with 0, 3 if the limit was reached,\n"
	      "else 2.\n", f);
}

static uint64_t parse_features(char *list)
{
	uint64_t features = 0;

	for (char *w = strtok(list, ","); w; w = strtok(NULL, ",")) {
		size_t i;

		for (i = 0; i < ARRAY_SIZE(feature_names); i++)
			if (!strcmp(w, feature_names[i].name))
				break;
		if (i < ARRAY_SIZE(feature_names))
			features |= BIT(feature_names[i].bit);
		else if (strcmp(w, "none"))
			die("there is no feature %s", w);
	}
	return features;
}

/* Time since a file was written to, in ns. */
static uint64_t age(int fd)
{
	struct timespec ts;
	struct stat st;

	if (fstat(fd, &st))
		die("fstat: %s", strerror(errno));
	clock_gettime(CLOCK_REALTIME, &ts);
	return (ts.tv_sec - st.st_mtim.tv_sec) * 1000000000LL + ts.tv_nsec -
	       st.st_mtim.tv_nsec;
}

/* When to look next, in ns from now. */
static uint64_t patience(uint64_t limit)
{
	uint64_t t = now(), next = limit;

	for (int i = 0; i < NR_QUEUES; i++) {
		struct queue *q = &dev.queues[i];

		if (q->enabled && q->nr_pending &&
		    q->pending[q->first].due > t &&
		    q->pending[q->first].due < next)
			next = q->pending[q->first].due;
	}
	if (fault.silent_until > t && fault.silent_until < next)
		next = fault.silent_until;
	if (rnd.left && rnd.next < next)
		next = rnd.next;
	return next > t ? next - t : 0;
}

int main(int argc, char *argv[])
{
	static const struct option options[] = {
		{ "features", required_argument, NULL, 'f' },
		{ "do", required_argument, NULL, 'd' },
		{ "then", required_argument, NULL, 't' },
		{ "limit", required_argument, NULL, 'l' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{}
	};
	char tmp[] = "/tmp/um_host.XXXXXX", path[256], sock[256], line[256];
	char default_features[] = "stats,hint,report,event";
	char *features = default_features, *then = NULL;
	int opt, status = 0, console, results, port, signals;
	const char *dir, *ended = NULL;
	uint64_t limit = 10000 * MS, alive = 0;
	size_t line_len = 0;
	char *first = NULL;
	sigset_t mask;
	FILE *answers, *end;

	while ((opt = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (opt) {
		case 'f':
			features = optarg;
			break;
		case 'd':
			first = optarg;
			break;
		case 't':
			then = optarg;
			break;
		case 'l':
			limit = strtod(optarg, NULL) * 1000 * MS;
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
	if (argc - optind < 2 || !limit) {
		usage(stderr);
		return 2;
	}

	host_init();
	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	rnd.state = 1;
	for (int i = 0; i < NR_QUEUES; i++) {
		dev.queues[i].id = i;
		dev.queues[i].kick = -1;
		dev.queues[i].call = -1;
	}
	dev.offered = parse_features(features) | BIT(F_VERSION_1) |
		      BIT(F_PROTOCOL);
	if (first)
		requests(first);

	dir = argv[optind++];
	if (!strcmp(argv[optind], "--"))
		optind++;
	mkdir(dir, 0755);
	snprintf(path, sizeof(path), "%s/console.log", dir);
	console = open_output(path, "the console");
	snprintf(path, sizeof(path), "%s/results", dir);
	results = open_output(path, "the results");
	snprintf(path, sizeof(path), "%s/end", dir);
	unlink(path);

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGHUP);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signals = signalfd(-1, &mask, SFD_CLOEXEC);

	if (!mkdtemp(tmp))
		die("%s: %s", tmp, strerror(errno));
	snprintf(sock, sizeof(sock), "%s/balloon", tmp);
	dev.listener = listen_at(sock);
	port = start_vm(argv + optind, argc - optind, tmp, console, results);
	answers = fdopen(dup(port), "w");
	setvbuf(answers, NULL, _IOLBF, 0);
	say("started %s, process %d", argv[optind], vm);

	for (;;) {
		struct pollfd fds[4 + NR_QUEUES] = {
			{ .fd = signals, .events = POLLIN },
			{ .fd = dev.listener, .events = POLLIN },
			{ .fd = dev.sock, .events = POLLIN },
			{ .fd = port, .events = POLLIN },
		};
		uint64_t wait = patience(alive + limit);
		struct timespec ts = { wait / 1000000000, wait % 1000000000 };

		for (int i = 0; i < NR_QUEUES; i++) {
			fds[4 + i].fd = dev.queues[i].kick;
			fds[4 + i].events = POLLIN;
		}
		if (ppoll(fds, ARRAY_SIZE(fds), &ts, NULL) < 0 && errno != EINTR)
			die("poll: %s", strerror(errno));

		if (fds[0].revents) {
			struct signalfd_siginfo si;

			if (read(signals, &si, sizeof(si)) < 0)
				die("signalfd: %s", strerror(errno));
			if (si.ssi_signo != SIGCHLD)
				ended = "interrupted";
		}
		if (waitpid(vm, &status, WNOHANG) == vm)
			break;
		if (now() - alive >= limit) {
			uint64_t quiet = age(results);

			if (quiet >= limit)
				ended = "mute";
			else
				alive = now() - quiet;
		}
		if (ended)
			break;
		if (fds[1].revents && dev.sock < 0) {
			dev.sock = accept_guest(dev.listener);
			close_fd(&dev.listener);
			unlink(sock);
		}
		if (fds[2].revents && dev.sock >= 0)
			read_message();
		if (fds[3].revents) {
			ssize_t n = read(port, line + line_len,
					 sizeof(line) - line_len - 1);
			char *nl;

			if (n <= 0) {
				close_fd(&port);
			} else {
				alive = now();
				line_len += n;
				line[line_len] = '\0';
				while ((nl = strchr(line, '\n'))) {
					*nl = '\0';
					request(line, answers);
					line_len -= nl + 1 - line;
					memmove(line, nl + 1, line_len + 1);
				}
				if (line_len == sizeof(line) - 1)
					line_len = 0;
			}
		}
		for (int i = 0; i < NR_QUEUES; i++) {
			struct queue *q = &dev.queues[i];
			uint64_t n;

			if (fds[4 + i].revents && q->kick == fds[4 + i].fd &&
			    q->kick >= 0 && read(q->kick, &n, sizeof(n)) > 0)
				take_buffers(q);
			serve(q);
		}
		if (then && dev.queues[INFLATE].enabled) {
			requests(then);
			then = NULL;
		}
		if (rnd.left && now() >= rnd.next && dev.sock >= 0) {
			random_action();
			rnd.next = now() + RANDOM_INTERVAL_NS;
		}
	}

	snprintf(path, sizeof(path), "%s/end", dir);
	end = fopen(path, "w");
	if (!end)
		die("%s: %s", path, strerror(errno));
	if (ended) {
		long long before = cpu_us(vm);

		/* Is it waiting, or is it busy? */
		usleep(200000);
		fprintf(end, "%s, and the guest %s\n", ended,
			cpu_us(vm) - before > 100000 ? "spins" : "waits");
		kill_vm();
		waitpid(vm, &status, 0);
		status = 3;
	} else if (WIFEXITED(status) && !WEXITSTATUS(status)) {
		fprintf(end, "ended by itself\n");
		status = 0;
	} else {
		if (WIFSIGNALED(status))
			fprintf(end, "signal %d\n", WTERMSIG(status));
		else
			fprintf(end, "exit status %d\n", WEXITSTATUS(status));
		status = 2;
	}
	fclose(end);
	kill_vm();
	say("the VM has ended");
	statistics();
	nftw(tmp, remove_file, 4, FTW_DEPTH | FTW_PHYS);
	return status;
}
