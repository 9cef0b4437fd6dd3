// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel code: what a kernel that watches itself has to notice.
 *
 * With FAULTS=1, scripts/build links it into a kernel, as it does core_bench.c. What
 * scripts/selfcheck writes to /sys/kernel/debug/balloon_fault is what goes wrong:
 *
 *   leak	memory that nobody frees (kmemleak)
 *   lock	a lock that nobody releases (lockdep)
 *   freed	a page that is written to after it was freed, where KASAN does not
 *		look (DEBUG_PAGEALLOC)
 */
#include <linux/debugfs.h>
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

static DEFINE_MUTEX(fault_lock);

/* More than one, as the address of the last one may be on a stack yet. */
static void fault_leak(void)
{
	for (int i = 0; i < 16; i++) {
		void *p = kmalloc(100, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(p);
	}
}

static void __no_sanitize_address fault_freed(void)
{
	unsigned long page = __get_free_page(GFP_KERNEL);

	if (!page)
		return;
	free_page(page);
	*(volatile unsigned long *)(page + 8) = 1;
}

static ssize_t fault_write(struct file *file, const char __user *buf, size_t len,
			   loff_t *pos)
{
	char what[16] = "";

	if (len >= sizeof(what) || copy_from_user(what, buf, len))
		return -EINVAL;
	if (sysfs_streq(what, "leak"))
		fault_leak();
	else if (sysfs_streq(what, "lock"))
		mutex_lock(&fault_lock);
	else if (sysfs_streq(what, "freed"))
		fault_freed();
	else
		return -EINVAL;
	return len;
}

static const struct file_operations fault_fops = {
	.write = fault_write,
};

static int __init fault_init(void)
{
	debugfs_create_file("balloon_fault", 0200, NULL, NULL, &fault_fops);
	return 0;
}
late_initcall(fault_init);
