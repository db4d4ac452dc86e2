/* The floor: replays the bytes of a recorded run and does nothing else.
 *
 *     floor [-k] RECORDING
 *
 * What is timed is what no program can leave out: open the namespaces, enter each one, make a socket,
 * write the sysctl files, send the datagrams, read the acknowledgements, close everything.  There are no
 * messages to build, no results to hand out, no checks of what a path is, and no larger receive buffer than the
 * kernel gives.  With -k, namespaces and sockets are opened and closed while the clock stands still.
 *
 * Prints a line for each batch: nanoseconds passed, nanoseconds of processor time.  Every acknowledgement is looked at: an error ends
 * the program with status 1, as a recording holds runs without errors only.
 *
 * The format of a recording is described in bench/record.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x31524c46 /* "FLR1" */
#define FILES "/proc/sys/net/ipv6/conf"
#define MAX_THREADS 1024

struct chunk {
	char *p;
	uint32_t n;
};

struct datagram {
	char *p;
	uint32_t n;
	uint32_t last; /* sequence number of its last message */
};

struct space { /* one namespace, opened as this descriptor because the messages name it */
	int fd;
	const char *path;
};

struct stop { /* one visit to a namespace */
	int fd;
	int sock; /* with -k */
	uint32_t n_files, n_datagrams;
	const char **files;
	struct datagram *datagrams;
};

struct tour {
	uint32_t threads, n_stops;
	struct stop *stops;
	atomic_uint next;
};

struct batch {
	uint32_t n_spaces, n_tours;
	struct space *spaces;
	struct tour *tours;
};

static bool keep;

static void __attribute__((format(printf, 1, 2), noreturn)) die(const char *form, ...)
{
	va_list rest;

	fputs("floor: ", stderr);
	va_start(rest, form);
	vfprintf(stderr, form, rest);
	va_end(rest);
	fputc('\n', stderr);
	_exit(1); /* not exit: other threads may be at work */
}

/* -- reading the recording ------------------------------------------------------------------------ */

static struct chunk left; /* what has not been read yet */

static uint32_t number(void)
{
	uint32_t v;

	if (left.n < 4)
		die("the recording ends too early");
	memcpy(&v, left.p, 4);
	left.p += 4;
	left.n -= 4;
	return v;
}

static struct chunk take(void) /* a length, and so many bytes, padded to four */
{
	struct chunk c = {.n = number()};
	uint32_t padded = (c.n + 3) & ~3u;

	if (padded < c.n || left.n < padded)
		die("the recording ends too early");
	c.p = left.p;
	left.p += padded;
	left.n -= padded;
	return c;
}

static const char *text(void)
{
	struct chunk c = take();

	if (!c.n || c.p[c.n - 1])
		die("a path in the recording has no end");
	return c.p;
}

static void *many(uint32_t count, size_t size)
{
	void *p;

	if (count > left.n / 4) /* each is at least one number */
		die("the recording ends too early");
	p = calloc(count + 1, size);
	if (!p)
		die("no memory");
	return p;
}

static void read_datagram(struct datagram *d)
{
	struct chunk c = take();
	struct nlmsghdr h;

	d->p = c.p;
	d->n = c.n;
	for (uint32_t at = 0; at == 0 || at < c.n; at += NLMSG_ALIGN(h.nlmsg_len)) {
		if (c.n - at < sizeof(h))
			die("a datagram with half a message");
		memcpy(&h, c.p + at, sizeof(h));
		if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > c.n - at)
			die("a datagram with a message of %u bytes", h.nlmsg_len);
		d->last = h.nlmsg_seq;
	}
	if (!(h.nlmsg_flags & NLM_F_ACK))
		die("a datagram without an acknowledgement");
}

static void read_stop(struct stop *s)
{
	s->fd = (int)number();
	s->n_files = number();
	s->files = many(s->n_files, sizeof(*s->files));
	for (uint32_t i = 0; i < s->n_files; i++)
		s->files[i] = text();
	s->n_datagrams = number();
	s->datagrams = many(s->n_datagrams, sizeof(*s->datagrams));
	for (uint32_t i = 0; i < s->n_datagrams; i++)
		read_datagram(&s->datagrams[i]);
}

static void read_tour(struct tour *t)
{
	t->threads = number();
	if (!t->threads || t->threads > MAX_THREADS)
		die("a tour of %u threads", t->threads);
	t->n_stops = number();
	t->stops = many(t->n_stops, sizeof(*t->stops));
	for (uint32_t i = 0; i < t->n_stops; i++)
		read_stop(&t->stops[i]);
}

static void read_batch(struct batch *b)
{
	b->n_spaces = number();
	b->spaces = many(b->n_spaces, sizeof(*b->spaces));
	for (uint32_t i = 0; i < b->n_spaces; i++) {
		b->spaces[i].fd = (int)number();
		b->spaces[i].path = text();
	}
	b->n_tours = number();
	b->tours = many(b->n_tours, sizeof(*b->tours));
	for (uint32_t i = 0; i < b->n_tours; i++)
		read_tour(&b->tours[i]);
}

static struct batch *load(const char *path, uint32_t *count)
{
	struct batch *all;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st))
		die("%s: %s", path, strerror(errno));
	left.n = (uint32_t)st.st_size;
	left.p = malloc(left.n + 1);
	if (!left.p || read(fd, left.p, left.n) != st.st_size)
		die("%s: cannot be read", path);
	close(fd);
	if (number() != MAGIC)
		die("%s: not a recording of this version", path);
	*count = number();
	all = many(*count, sizeof(*all));
	for (uint32_t i = 0; i < *count; i++)
		read_batch(&all[i]);
	return all;
}

/* -- what is timed -------------------------------------------------------------------------------- */

static void open_spaces(const struct batch *b)
{
	for (uint32_t i = 0; i < b->n_spaces; i++) {
		const struct space *s = &b->spaces[i];
		int fd = open(s->path, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			die("%s: %s", s->path, strerror(errno));
		if (fd == s->fd)
			continue;
		/* reserve() has made every lower number busy, so this is for recordings with holes only */
		if (dup3(fd, s->fd, O_CLOEXEC) < 0)
			die("descriptor %d: %s", s->fd, strerror(errno));
		close(fd);
	}
}

static void close_spaces(const struct batch *b)
{
	for (uint32_t i = 0; i < b->n_spaces; i++)
		close(b->spaces[i].fd);
}

static int enter(const struct stop *s)
{
	int fd;

	if (setns(s->fd, CLONE_NEWNET))
		die("entering the namespace of descriptor %d: %s", s->fd, strerror(errno));
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		die("opening a netlink socket: %s", strerror(errno));
	return fd;
}

static void write_files(const struct stop *s)
{
	int folder;

	if (!s->n_files)
		return;
	folder = open(FILES, O_PATH | O_CLOEXEC);
	for (uint32_t i = 0; i < s->n_files; i++) {
		int fd = openat(folder, s->files[i], O_WRONLY | O_CLOEXEC);

		if (fd < 0 || write(fd, "1", 1) != 1)
			die("%s/%s: %s", FILES, s->files[i], strerror(errno));
		close(fd);
	}
	close(folder);
}

/* Reads answers until the last message's; errors of earlier ones come before it, and so do rows that were asked for. */
static void await_ack(int sock, uint32_t last)
{
	char room[32768];

	for (;;) {
		ssize_t n = recv(sock, room, sizeof(room), MSG_DONTWAIT);
		struct nlmsghdr *h = (struct nlmsghdr *)room;

		if (n < 0)
			die("message %u was not acknowledged: %s", last, strerror(errno));
		for (; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			const struct nlmsgerr *e = NLMSG_DATA(h);

			if (h->nlmsg_type == NLMSG_DONE && h->nlmsg_seq == last)
				return;
			if (h->nlmsg_type != NLMSG_ERROR)
				continue;
			if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)))
				die("half an acknowledgement");
			if (e->error)
				die("message %u of type %u: %s", h->nlmsg_seq, e->msg.nlmsg_type, strerror(-e->error));
			if (h->nlmsg_seq == last)
				return;
		}
	}
}

static void make_stop(struct stop *s)
{
	int sock = keep ? s->sock : enter(s);

	if (keep && s->n_files && setns(s->fd, CLONE_NEWNET))
		die("entering the namespace of descriptor %d: %s", s->fd, strerror(errno));
	write_files(s);
	for (uint32_t i = 0; i < s->n_datagrams; i++) {
		const struct datagram *d = &s->datagrams[i];
		ssize_t sent = send(sock, d->p, d->n, 0);

		if (sent != (ssize_t)d->n)
			die("sending %u bytes: %s", d->n, sent < 0 ? strerror(errno) : "cut short");
		await_ack(sock, d->last);
	}
	if (!keep)
		close(sock);
}

static void *make_stops(void *arg)
{
	struct tour *t = arg;
	uint32_t i;

	while ((i = atomic_fetch_add(&t->next, 1)) < t->n_stops)
		make_stop(&t->stops[i]);
	return NULL;
}

static void make_tour(struct tour *t)
{
	pthread_t running[MAX_THREADS];
	int err;

	if (t->threads == 1) {
		make_stops(t);
		return;
	}
	for (uint32_t i = 0; i < t->threads; i++) {
		err = pthread_create(&running[i], NULL, make_stops, t);
		if (err)
			die("starting a thread: %s", strerror(err));
	}
	for (uint32_t i = 0; i < t->threads; i++)
		pthread_join(running[i], NULL);
}

/* -- around it ------------------------------------------------------------------------------------ */

/* Makes every number below the batch's highest busy but those of its namespaces: open takes the lowest free one. */
static void reserve(const struct batch *b)
{
	int next = STDERR_FILENO + 1;

	for (uint32_t i = 0; i < b->n_spaces; i++) { /* in ascending order */
		for (; next < b->spaces[i].fd; next++)
			if (dup2(STDERR_FILENO, next) < 0)
				die("descriptor %d: %s", next, strerror(errno));
		close(next++);
	}
}

static void open_sockets(struct batch *b)
{
	for (uint32_t t = 0; t < b->n_tours; t++)
		for (uint32_t i = 0; i < b->tours[t].n_stops; i++)
			b->tours[t].stops[i].sock = enter(&b->tours[t].stops[i]);
}

static void close_sockets(struct batch *b)
{
	for (uint32_t t = 0; t < b->n_tours; t++)
		for (uint32_t i = 0; i < b->tours[t].n_stops; i++)
			close(b->tours[t].stops[i].sock);
}

static long long now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void replay(struct batch *b)
{
	long long begin, begin_cpu;

	reserve(b);
	if (keep) {
		open_spaces(b);
		open_sockets(b);
	}
	begin = now(CLOCK_MONOTONIC);
	begin_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	if (!keep)
		open_spaces(b);
	for (uint32_t i = 0; i < b->n_tours; i++)
		make_tour(&b->tours[i]);
	if (!keep)
		close_spaces(b);
	printf("%lld %lld\n", now(CLOCK_MONOTONIC) - begin, now(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu);
	if (keep) {
		close_sockets(b);
		close_spaces(b);
	}
}

int main(int argc, char **argv)
{
	struct rlimit files;
	struct batch *all;
	uint32_t count;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	keep = argc == 3 && !strcmp(argv[1], "-k");
	if (argc != 2 && !keep) {
		fputs("usage: floor [-k] RECORDING\n", stderr);
		return 2;
	}
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	all = load(argv[argc - 1], &count);
	for (uint32_t i = 0; i < count; i++)
		replay(&all[i]);
	return 0;
}
