/* SPDX-License-Identifier: Apache-2.0
 *
 * Drifts one file of two directories in turn, and times each from the start of the drifting system
 * call until the file is restored. Who restores, the guard or the floor, it does not know.
 *
 * When a file is restored is told by one of two clocks:
 *  - trace: the kernel records when the restorers' system calls ended (tracing.py). This process then
 *    only needs to know that, not when, and looks every NAP_NS.
 *  - poll: where there is no tracefs. It asks for the file in a loop (fstatat, half a microsecond, or
 *    FS_IOC_GETFLAGS for the lock) and gives way after each look, SPIN_NS long; after that it naps.
 *    It takes a processor from the restorers, and where one of them runs on this one, it sees what
 *    that one did only when it sleeps, with the next spare staged.
 * Both at once on the same drifts, two processors, idle: with SCHED_RR poll saw a restore 2 to 5 us
 * before the trace had the end of the call (median; for both sides); without it, 30 to 1300 us after.
 * So figures of poll without SCHED_RR say little.
 * Not used: the change time of the inode that was exchanged in. Even where the file system has fine
 * time stamps (Linux 6.13) a rename takes the coarse clock, a tick of 1 to 10 ms, unless that equals
 * the last change. Nor inotify: waking this process up costs as much as what is to be measured.
 *
 * usage: drifter KIND ROUNDS GAP-US SPIN-US RR-PRIORITY SEED ASIDE FILE DIRECTORY DIRECTORY
 *
 * KIND is write, chmod, unlink, rename-over, or unlock (chattr -i alone). SPIN-US is 0 for the trace.
 * Writes a line for each drift: the directory's number (0 or 1), when the system call began (monotonic
 * nanoseconds), for how many nanoseconds the drift was seen, and 1 where the restored bytes are right;
 * -1 nanoseconds where nothing was restored within GIVE_UP_NS, and the series ends.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NAP_NS 100000L
#define GIVE_UP_NS 10000000000LL
#define EVIL_BYTES 4096

enum kind { WRITE, CHMOD, UNLINK, RENAME_OVER, UNLOCK, KINDS };
static const char *const KIND_NAMES[KINDS] = { "write", "chmod", "unlink", "rename-over", "unlock" };

struct target {
	int directory;
	struct stat base;
	char *content;
	int asked;		/* a descriptor that was opened once: asking for the flags raises no event */
};

static const char *file;
static int aside;
static int64_t spin_ns;
static char evil[EVIL_BYTES];

static int64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void nap(long ns)
{
	struct timespec span = { ns / 1000000000L, ns % 1000000000L };
	while (nanosleep(&span, &span) && errno == EINTR)
		;
}

static int flags_of(int descriptor)
{
	int flags;
	if (ioctl(descriptor, FS_IOC_GETFLAGS, &flags))
		err(2, "FS_IOC_GETFLAGS");
	return flags;
}

static int is_restored(const struct target *target, enum kind kind, ino_t drifted)
{
	struct stat now;
	if (kind == UNLOCK)
		return !!(flags_of(target->asked) & FS_IMMUTABLE_FL);
	return !fstatat(target->directory, file, &now, AT_SYMLINK_NOFOLLOW) && now.st_ino != drifted &&
	       now.st_size == target->base.st_size && now.st_mode == target->base.st_mode &&
	       now.st_mtim.tv_sec == target->base.st_mtim.tv_sec &&
	       now.st_mtim.tv_nsec == target->base.st_mtim.tv_nsec;
}

static int has_right_bytes(const struct target *target)
{
	static char found[1 << 20];
	int descriptor = openat(target->directory, file, O_RDONLY | O_NOFOLLOW);
	if (descriptor < 0)
		return 0;
	ssize_t size = read(descriptor, found, sizeof found);
	close(descriptor);
	return size == target->base.st_size && !memcmp(found, target->content, size);
}

/* Make ready what must be there before the clock starts; return a descriptor or -1. */
static int prepare(const struct target *target, enum kind kind, ino_t *drifted)
{
	struct stat found;
	int descriptor = -1;
	if (kind == WRITE)
		descriptor = openat(target->directory, file, O_WRONLY);
	else if (kind == RENAME_OVER)
		descriptor = openat(aside, "evil", O_WRONLY | O_CREAT | O_EXCL, 0644);
	else if (kind == UNLOCK)
		descriptor = openat(target->directory, file, O_RDONLY);	/* as chattr(1) does */
	if (descriptor < 0 && kind != CHMOD && kind != UNLINK)
		err(2, "%s for %s", file, KIND_NAMES[kind]);
	if (kind == RENAME_OVER && write(descriptor, evil, sizeof evil) != sizeof evil)
		err(2, "evil");
	if (kind == RENAME_OVER ? fstat(descriptor, &found)
				: fstatat(target->directory, file, &found, AT_SYMLINK_NOFOLLOW))
		err(2, "%s", file);
	*drifted = found.st_ino;
	return descriptor;
}

static int drift(const struct target *target, enum kind kind, int descriptor, int unlocked)
{
	switch (kind) {
	case WRITE:
		return pwrite(descriptor, evil, sizeof evil, 0) != sizeof evil;
	case CHMOD:
		return fchmodat(target->directory, file, 0666, 0);
	case UNLINK:
		return unlinkat(target->directory, file, 0);
	case RENAME_OVER:
		return renameat(aside, "evil", target->directory, file);
	default:
		return ioctl(descriptor, FS_IOC_SETFLAGS, &unlocked);
	}
}

static int64_t time_one(const struct target *target, enum kind kind, int64_t *began)
{
	ino_t drifted;
	int descriptor = prepare(target, kind, &drifted);
	int unlocked = kind == UNLOCK ? flags_of(descriptor) & ~FS_IMMUTABLE_FL : 0;
	int64_t start = *began = now_ns(), passed;
	if (drift(target, kind, descriptor, unlocked))
		err(2, "%s of %s", KIND_NAMES[kind], file);
	if (kind == UNLOCK) {	/* chattr(1) ends here; the event of the close is part of it */
		close(descriptor);
		descriptor = -1;
	}
	for (;;) {
		int done = is_restored(target, kind, drifted);
		passed = now_ns() - start;
		if (done || passed > GIVE_UP_NS)
			break;
		if (passed > spin_ns)
			nap(NAP_NS);
		else
			sched_yield();
	}
	if (descriptor >= 0)
		close(descriptor);
	return passed > GIVE_UP_NS ? -1 : passed;
}

static void meet(struct target *target, const char *path)
{
	target->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	target->asked = openat(target->directory, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (target->asked < 0 || fstat(target->asked, &target->base))
		err(2, "%s/%s", path, file);
	target->content = malloc(target->base.st_size);
	if (pread(target->asked, target->content, target->base.st_size, 0) != target->base.st_size)
		err(2, "%s/%s", path, file);
}

int main(int count, char **words)
{
	if (count != 11)
		errx(2, "usage: drifter KIND ROUNDS GAP-US SPIN-US RR-PRIORITY SEED ASIDE FILE DIR DIR");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_TIMERSLACK, 1000UL);
	enum kind kind = 0;
	while (kind < KINDS && strcmp(words[1], KIND_NAMES[kind]))
		kind++;
	if (kind == KINDS)
		errx(2, "%s: not a kind of drift", words[1]);
	long rounds = atol(words[2]), gap_us = atol(words[3]);
	spin_ns = atol(words[4]) * 1000LL;
	struct sched_param priority = { atoi(words[5]) };
	srand(atoi(words[6]));
	aside = open(words[7], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (aside < 0)
		err(2, "%s", words[7]);
	file = words[8];
	memset(evil, 'e', sizeof evil);
	struct target targets[2];
	for (int i = 0; i < 2; i++)
		meet(&targets[i], words[9 + i]);
	if (priority.sched_priority && sched_setscheduler(0, SCHED_RR, &priority))
		err(2, "SCHED_RR");
	for (long round = 0; round < rounds; round++) {
		int first = rand() & 1;	/* neither is always the one that finds the caches cold */
		for (int turn = 0; turn < 2; turn++) {
			int which = first ^ turn;
			int64_t began, ns = time_one(&targets[which], kind, &began);
			int right = ns >= 0 && (kind == UNLOCK || has_right_bytes(&targets[which]));
			printf("%d %lld %lld %d\n", which, (long long)began, (long long)ns, right);
			if (ns < 0)
				return 0;
			nap((gap_us / 2 + rand() % (gap_us + 1)) * 1000L);
		}
	}
	return 0;
}
