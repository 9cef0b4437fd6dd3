// SPDX-License-Identifier: GPL-2.0-only
/*
 * Zram keeps what it was given while its memory is moved.
 *
 * The memory of zsmalloc is the other one that migrates by movable_ops. So while
 * some threads write, read and free compressed pages, and check what they read,
 * others make the kernel move these pages: memory compaction, the compaction of
 * zsmalloc, and memory blocks that go offline and come back. The kernel's own
 * selftests/zram have nothing of that, and zeros for data, which need no memory.
 *
 * Installed as one more kselftest, as which it is run and reports. It ends after
 * so many rounds of offlining, not after some time.
 */
#define _GNU_SOURCE
#include <linux/fs.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>

#include "balloon.h"

#define PAGE		4096U
#define DISK_PAGES	32768U
#define SWAP_PAGES	24576U
#define RENEWED_PAGES	4096U
#define NR_WORKERS	2
#define NR_BLOCKS	16
#define ROUNDS		8

#define TRACING		"/sys/kernel/tracing/"
#define TRACE_INSTANCE	TRACING "instances/zram"
#define TRACE_EVENT	TRACE_INSTANCE "/events/lab/zs_migrate/"

/* A thread that uses memory, with a part of it for itself. */
struct worker {
	pthread_t thread;
	uint32_t seed;
	uint32_t first, nr_pages;
	uint32_t *generation;	/* Of each page; 0: zeros. */
	unsigned char *memory;	/* The swapped memory, */
	int fd;			/* or the disk. */
	unsigned long nr_written, nr_read, nr_freed;
	char error[128];	/* The first one. */
};

/* A thread that moves, or makes and destroys, pools. */
struct helper {
	pthread_t thread;
	int zram;		/* Number of the device. */
	unsigned long nr_done;
	char error[128];
};

FIXTURE(zram)
{
	int devices[2];		/* The one under test, and one to come and go. */
	int blocks[NR_BLOCKS];
	int nr_blocks;
	struct worker workers[NR_WORKERS];
	struct helper compact, renew;
	int nr_helpers;
	bool swapping;
};

static volatile bool stop;
static pthread_barrier_t filled;	/* What the workers have. */

static uint32_t random32(uint32_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 17;
	*seed ^= *seed << 5;
	return *seed;
}

/* A page of its own for each number and generation, in all sizes of zsmalloc. */
static void fill_page(unsigned char *page, uint32_t number, uint32_t generation)
{
	uint32_t seed = (number * 2654435761U) ^ (generation * 40503U) ^
			0x9e3779b9U, len;

	memset(page, 0, PAGE);
	if (!generation)
		return;
	seed = seed ? seed : 1;
	len = random32(&seed) % (PAGE - 8) & ~3U;
	for (uint32_t i = 0; i < len; i += 4) {
		uint32_t value = random32(&seed);

		memcpy(page + i, &value, 4);
	}
	memcpy(page + PAGE - 8, &number, 4);
	memcpy(page + PAGE - 4, &generation, 4);
}

static void *page_buffer(void)
{
	void *buffer = NULL;

	if (posix_memalign(&buffer, PAGE, PAGE))
		exit(1);
	return buffer;
}

#define worker_error(w, fmt, ...)					\
do {									\
	if (!(w)->error[0])						\
		snprintf((w)->error, sizeof((w)->error), fmt, __VA_ARGS__); \
} while (0)

static void zram_path(char *path, size_t size, int zram, const char *file)
{
	snprintf(path, size, "/sys/block/zram%d/%s", zram, file);
}

static int zram_write(int zram, const char *file, const char *value)
{
	char path[64];

	zram_path(path, sizeof(path), zram, file);
	return write_file(path, value);
}

/* Columns of mm_stat: Documentation/admin-guide/blockdev/zram.rst. */
#define MEM_USED	2
#define PAGES_COMPACTED	6

static long mm_stat(int zram, int column)
{
	char path[64], line[256], *word;

	zram_path(path, sizeof(path), zram, "mm_stat");
	read_line(path, line, sizeof(line));
	word = strtok(line, " ");
	while (word && column--)
		word = strtok(NULL, " ");
	return word ? atol(word) : -1;
}

static int open_disk(int zram)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/zram%d", zram);
	return open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
}

static int discard(int fd, uint32_t first, uint32_t nr_pages)
{
	uint64_t range[2] = { (uint64_t)first * PAGE, (uint64_t)nr_pages * PAGE };

	return ioctl(fd, BLKDISCARD, range);
}

static bool write_page(struct worker *w, uint32_t page, uint32_t generation,
		       unsigned char *buffer)
{
	fill_page(buffer, page, generation);
	if (w->fd < 0)
		memcpy(w->memory + (size_t)page * PAGE, buffer, PAGE);
	else if (pwrite(w->fd, buffer, PAGE, (off_t)page * PAGE) != PAGE) {
		worker_error(w, "write of page %u: %s", page, strerror(errno));
		return false;
	}
	w->generation[page] = generation;
	w->nr_written++;
	return true;
}

static bool check_page(struct worker *w, uint32_t page, unsigned char *buffer,
		       unsigned char *expected)
{
	unsigned char *found = buffer;

	if (w->fd < 0) {
		found = w->memory + (size_t)page * PAGE;
	} else if (pread(w->fd, buffer, PAGE, (off_t)page * PAGE) != PAGE) {
		worker_error(w, "read of page %u: %s", page, strerror(errno));
		return false;
	}
	fill_page(expected, page, w->generation[page]);
	w->nr_read++;
	if (!memcmp(found, expected, PAGE))
		return true;
	worker_error(w, "page %u is not what was written (generation %u)", page,
		     w->generation[page]);
	return false;
}

/* Give memory back: what is there reads as zeros then. */
static bool free_pages(struct worker *w, uint32_t first, uint32_t nr_pages)
{
	if (w->fd < 0 ? madvise(w->memory + (size_t)first * PAGE,
				(size_t)nr_pages * PAGE, MADV_DONTNEED) :
			discard(w->fd, first, nr_pages)) {
		worker_error(w, "free: %s", strerror(errno));
		return false;
	}
	memset(w->generation + first, 0, nr_pages * sizeof(*w->generation));
	w->nr_freed += nr_pages;
	return true;
}

static bool page_out(struct worker *w, uint32_t first, uint32_t nr_pages)
{
	if (w->fd >= 0)
		return true;
	if (!madvise(w->memory + (size_t)first * PAGE, (size_t)nr_pages * PAGE,
		     MADV_PAGEOUT))
		return true;
	worker_error(w, "MADV_PAGEOUT: %s", strerror(errno));
	return false;
}

static void *work(void *arg)
{
	unsigned char *buffer = page_buffer(), *expected = page_buffer();
	struct worker *w = arg;
	uint32_t generation = 0;

	for (uint32_t i = 0; i < w->nr_pages && !w->error[0]; i++)
		write_page(w, w->first + i, ++generation, buffer);
	page_out(w, w->first, w->nr_pages);
	pthread_barrier_wait(&filled);
	while (!stop && !w->error[0]) {
		uint32_t nr = 1 + random32(&w->seed) % 64;
		uint32_t page = w->first +
				random32(&w->seed) % (w->nr_pages - nr);
		uint32_t what = random32(&w->seed) % 100;

		if (what < 5) {
			free_pages(w, page, nr);
		} else if (what < 15) {
			page_out(w, page, nr);
		} else if (what < 60) {
			check_page(w, page, buffer, expected);
		} else {
			write_page(w, page, ++generation, buffer);
		}
	}
	for (uint32_t i = 0; i < w->nr_pages && !w->error[0]; i++)
		check_page(w, w->first + i, buffer, expected);
	free(buffer);
	free(expected);
	return NULL;
}

/* Compact memory, and the pages of zsmalloc. */
static void *compact(void *arg)
{
	struct helper *h = arg;

	while (!stop && !h->error[0]) {
		int ret = write_file("/proc/sys/vm/compact_memory", "1");

		ret = ret ? ret : zram_write(h->zram, "compact", "1");
		if (ret)
			snprintf(h->error, sizeof(h->error), "compact: %s",
				 strerror(-ret));
		h->nr_done++;
	}
	return NULL;
}

/*
 * Pools come and go as well, with pages that are being moved: after the last of
 * them is freed, nobody may use the pool.
 */
static void *renew(void *arg)
{
	unsigned char *buffer = page_buffer();
	struct helper *h = arg;
	uint32_t seed = 4242;

	while (!stop && !h->error[0]) {
		const char *what = "disksize";
		int ret, fd = -1;

		ret = zram_write(h->zram, "disksize", "16M");
		if (!ret) {
			what = "open";
			fd = open_disk(h->zram);
			ret = fd < 0 ? -errno : 0;
		}
		for (int i = 0; i < 1000 && !ret && !stop; i++) {
			uint32_t page = random32(&seed) % RENEWED_PAGES;

			fill_page(buffer, page, i + 1);
			what = "write";
			if (pwrite(fd, buffer, PAGE, (off_t)page * PAGE) != PAGE)
				ret = -errno;
		}
		if (!ret && random32(&seed) & 1) {
			what = "discard";
			ret = discard(fd, 0, RENEWED_PAGES) ? -errno : 0;
		}
		if (fd >= 0)
			close(fd);
		if (!ret) {
			what = "reset";
			ret = zram_write(h->zram, "reset", "1");
		}
		if (ret)
			snprintf(h->error, sizeof(h->error), "%s: %s", what,
				 strerror(-ret));
		h->nr_done++;
	}
	free(buffer);
	return NULL;
}

/* Have each page of zsmalloc recorded that was migrated. */
static int trace_start(void)
{
	int ret;

	if (mkdir(TRACE_INSTANCE, 0755) && errno != EEXIST)
		return -errno;
	write_file(TRACE_EVENT "enable", "0");
	ret = write_file(TRACING "kprobe_events",
			 "r:lab/zs_migrate zs_page_migrate ret=$retval:s32");
	ret = ret ? ret : write_file(TRACE_EVENT "filter", "ret == 0");
	return ret ? ret : write_file(TRACE_EVENT "enable", "1");
}

static void trace_stop(void)
{
	write_file(TRACE_EVENT "enable", "0");
	rmdir(TRACE_INSTANCE);
	write_file(TRACING "kprobe_events", "-:lab/zs_migrate");
}

/* How many records there were, whether they are still there or not. */
static long nr_migrated(void)
{
	long sum = 0;

	for (int cpu = 0; ; cpu++) {
		char path[96];
		long entries;

		snprintf(path, sizeof(path),
			 TRACE_INSTANCE "/per_cpu/cpu%d/stats", cpu);
		entries = read_key(path, "entries");
		if (entries < 0)
			return sum;
		sum += entries + read_key(path, "overrun");
	}
}

/* Not all of them can go offline: some have what was allocated at boot. */
static long add_movable_block(int block, void *arg)
{
	FIXTURE_DATA(zram) *self = arg;

	if (self->nr_blocks < NR_BLOCKS && memory_block_movable(block) &&
	    !set_memory_block(block, "offline") &&
	    !set_memory_block(block, "online_movable"))
		self->blocks[self->nr_blocks++] = block;
	return 0;
}

static int add_device(void)
{
	char line[16];

	read_line("/sys/class/zram-control/hot_add", line, sizeof(line));
	return line[0] ? atoi(line) : -1;
}

static void start_worker(struct __test_metadata *_metadata, struct worker *w,
			 int number, int fd, unsigned char *memory,
			 uint32_t nr_pages, uint32_t *generation)
{
	w->seed = 12345 + number * 7919;
	w->nr_pages = nr_pages / NR_WORKERS;
	w->first = number * w->nr_pages;
	w->generation = generation;
	w->memory = memory;
	w->fd = fd;
	ASSERT_EQ(pthread_create(&w->thread, NULL, work, w), 0);
}

/* Offline each block and bring it back, ROUNDS times. */
static void move_memory(struct __test_metadata *_metadata,
			FIXTURE_DATA(zram) *self)
{
	long migrated, compacted;
	bool failed = false;
	int ret;

	pthread_barrier_wait(&filled);
	TH_LOG("%d memory blocks, %ld MiB in zsmalloc", self->nr_blocks,
	       mm_stat(self->devices[0], MEM_USED) >> 20);
	migrated = nr_migrated();
	compacted = read_vmstat("compact_isolated");

	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < self->nr_blocks && !failed; i++) {
			ret = set_memory_block(self->blocks[i], "offline");
			EXPECT_EQ(ret, 0) {
				TH_LOG("block %d", self->blocks[i]);
				failed = true;
			}
			ret = set_memory_block(self->blocks[i], "online_movable");
			EXPECT_EQ(ret, 0);
		}
		for (int i = 0; i < NR_WORKERS; i++)
			failed |= self->workers[i].error[0];
	}
	migrated = nr_migrated() - migrated;
	compacted = read_vmstat("compact_isolated") - compacted;
	EXPECT_GT(migrated, 0);
	EXPECT_GT(compacted, 0);
	EXPECT_GT(mm_stat(self->devices[0], PAGES_COMPACTED), 0);
	TH_LOG("%ld pages of zsmalloc migrated, %ld freed by its compaction, %ld isolated by memory compaction",
	       migrated, mm_stat(self->devices[0], PAGES_COMPACTED),
	       compacted);
}

static void stop_all(struct __test_metadata *_metadata,
		     FIXTURE_DATA(zram) *self)
{
	struct helper *helpers[] = { &self->compact, &self->renew };

	stop = true;
	for (int i = 0; i < NR_WORKERS; i++) {
		struct worker *w = &self->workers[i];

		pthread_join(w->thread, NULL);
		EXPECT_EQ(w->error[0], 0) {
			TH_LOG("worker %d: %s", i, w->error);
		}
		TH_LOG("worker %d: %lu pages written, %lu read, %lu freed", i,
		       w->nr_written, w->nr_read, w->nr_freed);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(helpers[i]->thread, NULL);
		EXPECT_EQ(helpers[i]->error[0], 0) {
			TH_LOG("%s: %s", i ? "renew" : "compact",
			       helpers[i]->error);
		}
	}
	TH_LOG("%lu times compacted, %lu pools", self->compact.nr_done,
	       self->renew.nr_done);
}

static void start_helpers(struct __test_metadata *_metadata,
			  FIXTURE_DATA(zram) *self)
{
	self->compact.zram = self->devices[0];
	self->renew.zram = self->devices[1];
	ASSERT_EQ(pthread_create(&self->compact.thread, NULL, compact,
				 &self->compact), 0);
	ASSERT_EQ(pthread_create(&self->renew.thread, NULL, renew,
				 &self->renew), 0);
}

FIXTURE_SETUP(zram)
{
	pthread_barrier_init(&filled, NULL, NR_WORKERS + 1);
	for (int nid = 0; nid < MAX_NODES; nid++)
		sum_memory_blocks(nid, add_movable_block, self);
	ASSERT_GT(self->nr_blocks, 0);
	for (int i = 0; i < 2; i++) {
		self->devices[i] = add_device();
		ASSERT_GE(self->devices[i], 0);
	}
	ASSERT_EQ(trace_start(), 0);
}

FIXTURE_TEARDOWN(zram)
{
	char number[16];

	trace_stop();
	for (int i = 0; i < self->nr_blocks; i++)
		set_memory_block(self->blocks[i], "online_movable");
	for (int i = 0; i < 2; i++) {
		zram_write(self->devices[i], "reset", "1");
		snprintf(number, sizeof(number), "%d", self->devices[i]);
		EXPECT_EQ(write_file("/sys/class/zram-control/hot_remove",
				     number), 0);
	}
}

/* A disk that is written, read, and discarded. */
TEST_F_TIMEOUT(zram, disk_keeps_data, 900)
{
	static uint32_t generation[DISK_PAGES];
	int fd;

	ASSERT_EQ(zram_write(self->devices[0], "disksize", "128M"), 0);
	fd = open_disk(self->devices[0]);
	ASSERT_GE(fd, 0);
	for (int i = 0; i < NR_WORKERS; i++)
		start_worker(_metadata, &self->workers[i], i, fd, NULL,
			     DISK_PAGES, generation);
	start_helpers(_metadata, self);
	move_memory(_metadata, self);
	stop_all(_metadata, self);
	close(fd);
}

/* Version 1, and a device of @nr_pages: what mkswap would write. */
static int make_swap(int fd, uint32_t nr_pages)
{
	unsigned char *page = page_buffer();
	uint32_t header[2] = { 1, nr_pages - 1 };
	int ret;

	memset(page, 0, PAGE);
	memcpy(page + 1024, header, sizeof(header));
	memcpy(page + PAGE - 10, "SWAPSPACE2", 10);
	ret = pwrite(fd, page, PAGE, 0) == PAGE ? 0 : -errno;
	free(page);
	return ret;
}

/* The swapped memory of a process. */
TEST_F_TIMEOUT(zram, swap_keeps_data, 900)
{
	static uint32_t generation[SWAP_PAGES];
	long swapped_in, swapped_out;
	unsigned char *memory;
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/zram%d", self->devices[0]);
	ASSERT_EQ(zram_write(self->devices[0], "disksize", "128M"), 0);
	fd = open_disk(self->devices[0]);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(make_swap(fd, DISK_PAGES), 0);
	close(fd);
	ASSERT_EQ(swapon(path, 0), 0);
	memory = mmap(NULL, (size_t)SWAP_PAGES * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(memory, MAP_FAILED);

	swapped_in = read_vmstat("pswpin");
	swapped_out = read_vmstat("pswpout");
	for (int i = 0; i < NR_WORKERS; i++)
		start_worker(_metadata, &self->workers[i], i, -1, memory,
			     SWAP_PAGES, generation);
	start_helpers(_metadata, self);
	move_memory(_metadata, self);
	stop_all(_metadata, self);
	EXPECT_GT(read_vmstat("pswpin") - swapped_in, 0);
	EXPECT_GT(read_vmstat("pswpout") - swapped_out, 0);
	TH_LOG("%ld pages swapped in, %ld out",
	       read_vmstat("pswpin") - swapped_in,
	       read_vmstat("pswpout") - swapped_out);

	munmap(memory, (size_t)SWAP_PAGES * PAGE);
	EXPECT_EQ(swapoff(path), 0);
}

TEST_HARNESS_MAIN
