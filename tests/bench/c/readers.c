/* Thousands of readers of event streams in one process, told what to do by lines on its standard input, each of which
 * it answers with a line. It ends with its input, or when its alarm rings: a load must not outlive what it measures.
 *
 *   readers HOST PORT SECONDS
 *
 *   open COUNT AT_ONCE FILE  that many more, of which at most AT_ONCE are still without an answer; requests are taken
 *                            in turn from FILE, where a NUL ends each. Whoever is sent away before its first event
 *                            comes again, as an EventSource does, after the time that it was told. -> opened
 *   count                    -> events bytes open
 *   reach VERSION            once every reader has that version or a later one -> when anyone last got a new one, and
 *                            how often anyone was sent away
 *   over                     once the server has closed all -> the moment of the last, and how many were told
 *                            `draining`
 *   cut                      closes all at once -> the moment
 *   arrivals FILE            writes what arrived since it was last asked: reader, version (32 bits each), moment
 *                            (double) -> how many
 *
 * An event counts if it has an id, by the `"version":N` behind that: a delta in several events is only complete with
 * its last, which alone carries the id. Moments are seconds of CLOCK_MONOTONIC, which all processes share.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ID "\nid: "
#define MARK "\"version\":"
#define LENGTH(text) (sizeof text - 1)
#define TAIL 32 /* bytes kept of a read: a mark and its digits may arrive in two pieces */
#define READ (256 * 1024)
#define ROUND 512
#define PER_ADDRESS 10000 /* connections from one address of our own: there are 28,000 ports by default */
#define SHORT 4096        /* a farewell stands in no longer read */
#define LOOK 20           /* ms between two looks at who is to come again */
#define RETRY 2000        /* ms; what is told is more precise */

struct reader {
    int fd; /* -1: closed */
    uint32_t version;
    uint8_t answered, connected, told, with_id, kept;
    char tail[TAIL];
    int retry; /* ms */
    double again; /* when to come again, if it is to */
};

struct arrival {
    uint32_t reader, version;
    double moment;
};

static struct reader *readers;
static size_t count, room, open_now, unanswered, to_open, at_once, behind, away, sent_away;
static struct arrival *arrivals;
static size_t arrived, arrival_room;
static unsigned long long events, bytes, told;
static char *requests, **request;
static size_t request_count;
static uint32_t wanted;
static double latest;
static enum { IDLE, OPENING, REACHING, ENDING } waiting;
static int poller;
static struct sockaddr_in server;
static char buffer[TAIL + READ];

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "readers: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void *grow(void *what, size_t *has, size_t needs, size_t each) {
    if (needs <= *has) return what;
    *has = needs * 2;
    if (!(what = realloc(what, *has * each))) fail("memory");
    return what;
}

static void load_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail(path);
    size_t size = (size_t)ftell(file);
    rewind(file);
    free(requests);
    free(request);
    requests = malloc(size + 1);
    request = malloc((size + 1) * sizeof *request);
    if (!requests || !request || fread(requests, 1, size, file) != size) fail(path);
    fclose(file);
    requests[size] = 0;
    request_count = 0;
    for (char *at = requests; at < requests + size; at += strlen(at) + 1) request[request_count++] = at;
    if (!request_count) fail("no request");
}

static void begin(struct reader *reader) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0) fail("socket");
    size_t number = (size_t)(reader - readers);
    struct sockaddr_in own = {.sin_family = AF_INET};
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(number / PER_ADDRESS));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&own, sizeof own)) fail("bind");
    if (connect(fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) fail("connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.u64 = number};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    *reader = (struct reader){.fd = fd, .answered = reader->answered, .retry = RETRY};
    open_now++;
}

static void open_one(void) {
    readers = grow(readers, &room, count + 1, sizeof *readers);
    memset(&readers[count], 0, sizeof *readers);
    begin(&readers[count]);
    count++, unanswered++, to_open--;
}

static void ask(struct reader *reader, size_t number) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(reader->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if ((errno = error)) fail("connect");
    const char *text = request[number % request_count];
    if (send(reader->fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text)) fail("send");
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = number};
    epoll_ctl(poller, EPOLL_CTL_MOD, reader->fd, &event);
    reader->connected = 1;
}

static void closed(struct reader *reader) {
    close(reader->fd);
    reader->fd = -1;
    open_now--;
    if (waiting == ENDING) latest = now();
    else if (!reader->version) reader->again = now() + reader->retry / 1e3, away++, sent_away++;
    else fail("the server closed a connection");
}

static void come_again(void) {
    double at = now();
    for (size_t number = 0; number < count && away; number++) {
        struct reader *reader = &readers[number];
        if (reader->fd < 0 && reader->again && reader->again <= at) away--, begin(reader);
    }
}

static void see(struct reader *reader, uint32_t version, double at) {
    events++;
    if (version <= reader->version) return;
    if (reader->version < wanted && version >= wanted) behind--;
    reader->version = version;
    latest = at;
    arrivals = grow(arrivals, &arrival_room, arrived + 1, sizeof *arrivals);
    arrivals[arrived++] = (struct arrival){(uint32_t)(reader - readers), version, at};
}

static void hear(struct reader *reader, const char *text, size_t length) {
    if (!reader->told && memmem(text, length, "\"draining\"", 10)) reader->told = 1, told++;
    const char *retry = memmem(text, length, "retry: ", 7);
    if (retry) reader->retry = atoi(retry + 7);
}

/* Events are what is looked for, and all else is thrown away. */
static void take(struct reader *reader, ssize_t length) {
    double at = now();
    char *begin = buffer + TAIL - reader->kept, *end = buffer + TAIL + length, *from = begin, *found;
    memcpy(begin, reader->tail, reader->kept);
    for (;;) {
        if (!reader->with_id) {
            if (!(found = memmem(from, (size_t)(end - from), ID, LENGTH(ID)))) break;
            reader->with_id = 1;
            from = found + LENGTH(ID);
        }
        if (!(found = memmem(from, (size_t)(end - from), MARK, LENGTH(MARK)))) break;
        char *digit = found + LENGTH(MARK);
        uint32_t version = 0;
        while (digit < end && *digit >= '0' && *digit <= '9') version = version * 10 + (uint32_t)(*digit++ - '0');
        if (digit == end) break; /* the rest of the number is to come */
        see(reader, version, at);
        reader->with_id = 0;
        from = digit;
    }
    if (length < SHORT) hear(reader, begin, (size_t)(end - begin));
    if (end - from > TAIL - 1) from = end - (TAIL - 1);
    reader->kept = (uint8_t)(end - from);
    memcpy(reader->tail, from, reader->kept);
    bytes += (unsigned long long)length;
    if (!reader->answered) reader->answered = 1, unanswered--;
}

static void serve(size_t number, uint32_t ready) {
    struct reader *reader = &readers[number];
    if (reader->fd < 0) return;
    if (!reader->connected) {
        if (ready & (EPOLLOUT | EPOLLERR | EPOLLHUP)) ask(reader, number);
        return;
    }
    ssize_t length = recv(reader->fd, buffer + TAIL, READ, 0);
    if (length > 0) take(reader, length);
    else if (length == 0 || errno != EAGAIN) closed(reader);
}

static void cut(void) {
    struct linger none = {.l_onoff = 1}; /* no connection of ours lingers in TIME_WAIT */
    for (size_t number = 0; number < count; number++) {
        if (readers[number].fd < 0) continue;
        setsockopt(readers[number].fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        close(readers[number].fd);
    }
    count = open_now = unanswered = behind = away = sent_away = 0;
    wanted = 0;
    told = 0;
    printf("%.6f\n", now());
}

static void write_arrivals(const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(arrivals, sizeof *arrivals, arrived, file) != arrived || fclose(file)) fail(path);
    printf("%zu\n", arrived);
    arrived = 0;
}

static void obey(char *line) {
    static char path[4096];
    if (sscanf(line, "open %zu %zu %4095s", &to_open, &at_once, path) == 3) {
        load_requests(path);
        waiting = OPENING;
    } else if (sscanf(line, "reach %u", &wanted) == 1) {
        behind = 0;
        for (size_t number = 0; number < count; number++) behind += readers[number].version < wanted;
        waiting = REACHING;
    } else if (sscanf(line, "arrivals %4095s", path) == 1) write_arrivals(path);
    else if (!strcmp(line, "count")) printf("%llu %llu %zu\n", events, bytes, open_now);
    else if (!strcmp(line, "cut")) cut();
    else if (!strcmp(line, "over")) waiting = ENDING;
    else errno = EINVAL, fail(line);
}

/* Answers what was waited for, if it has come. */
static void look(void) {
    while (waiting == OPENING && to_open && unanswered < at_once) open_one();
    if (waiting == OPENING && !to_open && !unanswered) puts("opened");
    else if (waiting == REACHING && !behind) printf("%.6f %zu\n", latest, sent_away);
    else if (waiting == ENDING && !open_now) printf("%.6f %llu\n", latest, told);
    else return;
    waiting = IDLE;
}

static void listen_to_input(void) {
    static char line[8192];
    static size_t used;
    ssize_t length = read(STDIN_FILENO, line + used, sizeof line - used - 1);
    if (length <= 0) exit(0);
    used += (size_t)length;
    line[used] = 0;
    for (char *end; (end = memchr(line, '\n', used)); ) {
        *end = 0;
        obey(line);
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used + 1);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    alarm((unsigned)atoi(argv[3]));
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if ((poller = epoll_create1(0)) < 0) fail("epoll_create1");
    struct epoll_event input = {.events = EPOLLIN, .data.u64 = UINT64_MAX}, ready[ROUND];
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input)) fail("epoll_ctl");
    for (;;) {
        int number = epoll_wait(poller, ready, ROUND, away ? LOOK : -1);
        if (number < 0 && errno != EINTR) fail("epoll_wait");
        for (int at = 0; at < number; at++) {
            if (ready[at].data.u64 == UINT64_MAX) listen_to_input();
            else serve(ready[at].data.u64, ready[at].events);
        }
        if (away) come_again();
        look();
    }
}
