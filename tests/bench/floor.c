/* SPDX-License-Identifier: Apache-2.0
 *
 * The floor: the least program that does the guard's restore. Two files of one directory, one of them
 * immutable; inotify(7), a spare staged and synced beforehand, renameat2(2) with RENAME_EXCHANGE, and
 * FS_IOC_SETFLAGS. It judges by lstat alone, verifies nothing, keeps nothing and tells nobody: what
 * the guard takes beyond this is the price of Python and of what it does more.
 *
 * usage: floor DIRECTORY STAGE FILE LOCKED-FILE
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMES (IN_ATTRIB | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE)
#define INODE (IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVE_SELF)
#define HINT (IN_OPEN | IN_CLOSE_NOWRITE)

struct held {
	const char *name;
	int locked;
	char *content;
	struct stat base;	/* as approved; st_ino is that of the live inode */
	int live, spare;	/* O_RDONLY descriptors */
	int live_watch, spare_watch;
	char spare_name[64];
};

static int directory, stage, events;

static void set_lock(int descriptor, int on)
{
	int flags;
	if (ioctl(descriptor, FS_IOC_GETFLAGS, &flags))
		err(2, "FS_IOC_GETFLAGS");
	int wanted = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
	if (wanted != flags && ioctl(descriptor, FS_IOC_SETFLAGS, &wanted))
		err(2, "FS_IOC_SETFLAGS");
}

static int watch(int descriptor, const struct held *held)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
	int number = inotify_add_watch(events, path, INODE | (held->locked ? HINT : 0));
	if (number < 0)
		err(2, "inotify_add_watch");
	return number;
}

static void stage_next(struct held *held)
{
	static unsigned serial;
	snprintf(held->spare_name, sizeof held->spare_name, "spare-%u", ++serial);
	int writer = openat(stage, held->spare_name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct timespec times[2] = { held->base.st_mtim, held->base.st_mtim };
	if (writer < 0 || write(writer, held->content, held->base.st_size) != held->base.st_size ||
	    fchown(writer, held->base.st_uid, held->base.st_gid) ||
	    fchmod(writer, held->base.st_mode & 07777) || futimens(writer, times) || fsync(writer))
		err(2, "staging %s", held->name);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", writer);
	held->spare = open(path, O_RDONLY | O_CLOEXEC);
	if (held->spare < 0)
		err(2, "%s", path);
	close(writer);
	held->spare_watch = watch(held->spare, held);
}

static void hold(struct held *held)
{
	held->live = openat(directory, held->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (held->live < 0)
		err(2, "%s", held->name);
	set_lock(held->live, held->locked);
	if (fstat(held->live, &held->base))
		err(2, "%s", held->name);
	held->content = malloc(held->base.st_size);
	if (pread(held->live, held->content, held->base.st_size, 0) != held->base.st_size)
		err(2, "%s", held->name);
	held->live_watch = watch(held->live, held);
	stage_next(held);
}

static int has_drifted(const struct held *held)
{
	struct stat now;
	if (fstatat(directory, held->name, &now, AT_SYMLINK_NOFOLLOW))
		return 1;
	return now.st_ino != held->base.st_ino || now.st_mode != held->base.st_mode ||
	       now.st_size != held->base.st_size || now.st_uid != held->base.st_uid ||
	       now.st_gid != held->base.st_gid || now.st_mtim.tv_sec != held->base.st_mtim.tv_sec ||
	       now.st_mtim.tv_nsec != held->base.st_mtim.tv_nsec;
}

static void restore(struct held *held)
{
	struct stat spare;
	int something = 1;
	if (fstat(held->spare, &spare))
		err(2, "spare of %s", held->name);
	if (renameat2(stage, held->spare_name, directory, held->name, RENAME_EXCHANGE)) {
		if (errno != ENOENT)
			err(2, "exchange of %s", held->name);
		if (renameat2(stage, held->spare_name, directory, held->name, RENAME_NOREPLACE)) {
			if (errno == EEXIST)
				return;	/* it came back meanwhile: that is an event, too */
			err(2, "rename of %s", held->name);
		}
		something = 0;
	}
	if (held->locked)
		set_lock(held->spare, 1);
	held->base.st_ino = spare.st_ino;
	/* The path is safe from here on. */
	if (something && unlinkat(stage, held->spare_name, 0))
		err(2, "%s", held->spare_name);
	inotify_rm_watch(events, held->live_watch);
	close(held->live);
	held->live = held->spare;
	held->live_watch = held->spare_watch;
	stage_next(held);
}

int main(int count, char **words)
{
	static char buffer[1 << 16];
	if (count != 5)
		errx(2, "usage: floor DIRECTORY STAGE FILE LOCKED-FILE");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	directory = open(words[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	stage = open(words[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	events = inotify_init1(IN_CLOEXEC);
	if (directory < 0 || stage < 0 || events < 0)
		err(2, "%s, %s", words[1], words[2]);
	if (inotify_add_watch(events, words[1], NAMES) < 0)
		err(2, "%s", words[1]);
	struct held held[2] = { { .name = words[3] }, { .name = words[4], .locked = 1 } };
	for (int i = 0; i < 2; i++)
		hold(&held[i]);
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (read(events, buffer, sizeof buffer) < 0)
			err(2, "inotify");
		for (int i = 0; i < 2; i++) {
			if (has_drifted(&held[i]))
				restore(&held[i]);
			else if (held[i].locked)
				set_lock(held[i].live, 1);
		}
	}
}
