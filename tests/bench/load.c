/* SPDX-License-Identifier: Apache-2.0
 *
 * What else goes on on the machine while drifts are timed. Ends when its parent does.
 *
 * usage: load hog                    a processor, all of it
 *        load churn DIRECTORY RATE   messages through a queue directory, so many a second
 *        load open FILE              as nobody: opens and closes the file for ever; how often, at SIGTERM
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define NOBODY 65534

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = number;
}

/* As Sendmail's queueing does: df, then tf, renamed to qf; delivered, both go. */
static void pass_message(const char *directory, unsigned serial)
{
	static const char text[2000] = "queue";
	char df[4096], tf[4096], qf[4096];
	snprintf(df, sizeof df, "%s/df%u", directory, serial);
	snprintf(tf, sizeof tf, "%s/tf%u", directory, serial);
	snprintf(qf, sizeof qf, "%s/qf%u", directory, serial);
	const char *const parts[2] = { df, tf };
	for (int i = 0; i < 2; i++) {
		int descriptor = open(parts[i], O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (descriptor < 0 || write(descriptor, text, sizeof text) != sizeof text)
			err(2, "%s", parts[i]);
		close(descriptor);
	}
	if (rename(tf, qf) || unlink(df) || unlink(qf))
		err(2, "%s", qf);
}

static void churn(const char *directory, long rate)
{
	struct timespec due;
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (unsigned serial = 0; !stopped; serial++) {
		pass_message(directory, serial);
		due.tv_nsec += 1000000000L / rate;
		if (due.tv_nsec >= 1000000000L) {
			due.tv_nsec -= 1000000000L;
			due.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
	}
}

static void open_for_ever(const char *file)
{
	unsigned long times = 0;
	if (setgid(NOBODY) || setuid(NOBODY))
		err(2, "nobody");
	prctl(PR_SET_PDEATHSIG, SIGKILL);	/* setuid(2) forgets it */
	for (; !stopped; times++) {
		int descriptor = open(file, O_RDONLY);
		if (descriptor < 0)
			err(2, "%s", file);
		close(descriptor);
	}
	printf("%lu\n", times);
}

int main(int count, char **words)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, stop);
	if (count == 2 && !strcmp(words[1], "hog"))
		while (!stopped)
			;
	else if (count == 4 && !strcmp(words[1], "churn"))
		churn(words[2], atol(words[3]));
	else if (count == 3 && !strcmp(words[1], "open"))
		open_for_ever(words[2]);
	else
		errx(2, "usage: load hog | churn DIRECTORY RATE | open FILE");
	return 0;
}
