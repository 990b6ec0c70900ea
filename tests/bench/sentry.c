/* SPDX-License-Identifier: Apache-2.0
 *
 * The least that can be done for a lock: ask for it every few microseconds, for ever, and put it back.
 * It wakes up for nothing and does nothing else, so it is never late by its own fault: what it misses,
 * the machine made it miss (a processor that its hypervisor gave to another guest, a scheduler).
 *
 * usage: sentry FILE
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define NAP_NS 10000L

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: sentry FILE");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int descriptor = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (descriptor < 0)
		err(2, "%s", argv[1]);
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		err(2, "mlockall");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int flags;
		if (ioctl(descriptor, FS_IOC_GETFLAGS, &flags))
			err(2, "FS_IOC_GETFLAGS");
		if (!(flags & FS_IMMUTABLE_FL)) {
			flags |= FS_IMMUTABLE_FL;
			if (ioctl(descriptor, FS_IOC_SETFLAGS, &flags))
				err(2, "FS_IOC_SETFLAGS");
		}
		nanosleep(&(struct timespec){ 0, NAP_NS }, NULL);
	}
}
