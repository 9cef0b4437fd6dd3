// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel code: what the balloon core costs, without a driver and without a host.
 *
 * scripts/build links it into the kernels of "make bench", v7.3's as well, which
 * are not changed otherwise: it is included at the top of mm/page_reporting.c,
 * which is not what is measured. With BALLOON_SINGLE_PAGES, the core has calls for
 * single pages, as in v7.3, and those for lists don't take an order.
 *
 * /sys/kernel/debug/balloon_bench takes a line
 *
 *   SINGLE BATCH PAGES MANAGED LATENCY
 *
 * and moves that many base pages into the balloon and out of it again: one by one
 * if the core can and SINGLE is 1, else in lists of BATCH; as managed pages if
 * MANAGED is 1. Then it tells, in a line as well,
 *
 *   ENQUEUE DEQUEUE		nanoseconds, without what allocates and frees
 *   IRQ TASK			if LATENCY is 1: for how many nanoseconds at most
 *				a timer's interrupt was late, and the realtime
 *				thread that it wakes, while enqueueing ...
 *   IRQ TASK			... and dequeueing
 */
#include <linux/balloon.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/types.h>
#include <linux/uaccess.h>

#define BENCH_PERIOD	(200 * NSEC_PER_USEC)

static struct {
	struct balloon_dev_info dev;
	bool single;
	struct hrtimer timer;
	struct task_struct *task;
	bool tick;
	ktime_t expected;
	s64 irq_late;
	s64 task_late;
	char result[128];
} bench;

static int bench_migrate(struct balloon_dev_info *b_dev_info,
			 struct page *newpage, struct page *page,
			 enum migrate_mode mode)
{
	return -EBUSY;
}

#ifdef BALLOON_SINGLE_PAGES
static struct page *bench_alloc(void)
{
	return balloon_page_alloc();
}

static void bench_enqueue(struct list_head *pages)
{
	struct page *page, *next;

	if (!bench.single) {
		balloon_page_list_enqueue(&bench.dev, pages);
		return;
	}
	list_for_each_entry_safe(page, next, pages, lru) {
		list_del(&page->lru);
		balloon_page_enqueue(&bench.dev, page);
	}
}

static void bench_dequeue(struct list_head *pages, unsigned int nr)
{
	if (!bench.single) {
		balloon_page_list_dequeue(&bench.dev, pages, nr);
		return;
	}
	while (nr--) {
		struct page *page = balloon_page_dequeue(&bench.dev);

		if (!page)
			break;
		list_add(&page->lru, pages);
	}
}

static void bench_init_ops(void)
{
	bench.dev.migratepage = bench_migrate;
}
#else
static struct page *bench_alloc(void)
{
	return balloon_page_alloc(0);
}

static void bench_enqueue(struct list_head *pages)
{
	balloon_page_list_enqueue(&bench.dev, pages, 0);
}

static void bench_dequeue(struct list_head *pages, unsigned int nr)
{
	balloon_page_list_dequeue(&bench.dev, pages, nr, 0);
}

static void bench_init_ops(void)
{
	static const struct balloon_ops ops = { .migrate = bench_migrate };

	bench.dev.ops = &ops;
}
#endif

static enum hrtimer_restart bench_tick(struct hrtimer *timer)
{
	ktime_t now = ktime_get();
	s64 late = ktime_to_ns(ktime_sub(now, hrtimer_get_expires(timer)));

	bench.irq_late = max(bench.irq_late, late);
	if (!READ_ONCE(bench.tick)) {
		bench.expected = hrtimer_get_expires(timer);
		WRITE_ONCE(bench.tick, true);
		wake_up_process(bench.task);
	}
	hrtimer_forward(timer, now, ns_to_ktime(BENCH_PERIOD));
	return HRTIMER_RESTART;
}

static int bench_thread(void *data)
{
	sched_set_fifo(current);
	for (;;) {
		s64 late;

		set_current_state(TASK_UNINTERRUPTIBLE);
		if (kthread_should_stop())
			break;
		if (!READ_ONCE(bench.tick)) {
			schedule();
			continue;
		}
		__set_current_state(TASK_RUNNING);
		late = ktime_to_ns(ktime_sub(ktime_get(), bench.expected));
		bench.task_late = max(bench.task_late, late);
		WRITE_ONCE(bench.tick, false);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static void bench_latency_begin(bool latency)
{
	bench.irq_late = bench.task_late = 0;
	if (latency)
		hrtimer_start(&bench.timer, ns_to_ktime(BENCH_PERIOD),
			      HRTIMER_MODE_REL_PINNED_HARD);
}

static void bench_latency_end(bool latency)
{
	if (latency)
		hrtimer_cancel(&bench.timer);
}

static int bench_run(unsigned int batch, unsigned int nr_pages, bool latency)
{
	unsigned int i, nr_batches = nr_pages / batch;
	struct list_head *batches;
	u64 enqueue, dequeue;
	s64 irq_late, task_late;
	int ret = -ENOMEM;

	batches = kvcalloc(nr_batches, sizeof(*batches), GFP_KERNEL);
	if (!batches)
		return -ENOMEM;
	for (i = 0; i < nr_batches; i++)
		INIT_LIST_HEAD(&batches[i]);
	for (i = 0; i < nr_batches * batch; i++) {
		struct page *page = bench_alloc();

		if (!page)
			goto out;
		list_add(&page->lru, &batches[i / batch]);
	}
	if (latency) {
		bench.tick = false;
		bench.task = kthread_run(bench_thread, NULL, "balloon_bench");
		if (IS_ERR(bench.task)) {
			ret = PTR_ERR(bench.task);
			goto out;
		}
		/* Until it has its priority. */
		fsleep(50 * USEC_PER_MSEC);
	}

	bench_latency_begin(latency);
	enqueue = ktime_get_ns();
	for (i = 0; i < nr_batches; i++)
		bench_enqueue(&batches[i]);
	enqueue = ktime_get_ns() - enqueue;
	bench_latency_end(latency);
	irq_late = bench.irq_late;
	task_late = bench.task_late;

	bench_latency_begin(latency);
	dequeue = ktime_get_ns();
	for (i = 0; i < nr_batches; i++)
		bench_dequeue(&batches[i], batch);
	dequeue = ktime_get_ns() - dequeue;
	bench_latency_end(latency);

	if (latency)
		kthread_stop(bench.task);
	ret = list_empty(&bench.dev.pages) ? 0 : -EIO;
	snprintf(bench.result, sizeof(bench.result),
		 "%llu %llu %lld %lld %lld %lld\n", enqueue, dequeue, irq_late,
		 task_late, bench.irq_late, bench.task_late);
out:
	for (i = 0; i < nr_batches; i++) {
		struct page *page, *next;

		list_for_each_entry_safe(page, next, &batches[i], lru) {
			list_del(&page->lru);
			__free_page(page);
		}
	}
	kvfree(batches);
	return ret;
}

static ssize_t bench_write(struct file *file, const char __user *buf,
			   size_t len, loff_t *pos)
{
	unsigned int single, batch, nr_pages, managed, latency;
	char line[64] = "";
	int ret;

	if (len >= sizeof(line) || copy_from_user(line, buf, len))
		return -EINVAL;
	if (sscanf(line, "%u %u %u %u %u", &single, &batch, &nr_pages, &managed,
		   &latency) != 5 || !batch || batch > nr_pages)
		return -EINVAL;
	bench.single = single;
	bench.dev.adjust_managed_page_count = managed;
	ret = bench_run(batch, nr_pages, latency);
	return ret ?: len;
}

static ssize_t bench_read(struct file *file, char __user *buf, size_t len,
			  loff_t *pos)
{
	return simple_read_from_buffer(buf, len, pos, bench.result,
				       strlen(bench.result));
}

static const struct file_operations bench_fops = {
	.read = bench_read,
	.write = bench_write,
};

static int __init bench_init(void)
{
	balloon_devinfo_init(&bench.dev);
	bench_init_ops();
	hrtimer_setup(&bench.timer, bench_tick, CLOCK_MONOTONIC,
		      HRTIMER_MODE_REL_PINNED_HARD);
	debugfs_create_file("balloon_bench", 0600, NULL, NULL, &bench_fops);
	return 0;
}
late_initcall(bench_init);
