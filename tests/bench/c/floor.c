/* The least that a delivery can cost: one event to every connection by `send`, one after the other, and nothing else.
 *
 *   floor PORT SECONDS
 *
 * Says `ready`, answers every request with a head and one comment, and sends to all what comes on its standard input:
 * the number of bytes, a line end, the bytes. It ends with its input, or when its alarm rings.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 100000
#define HEAD "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: hi\n\n"

static int viewers[MOST];
static size_t count;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void welcome(int listener) {
    static char request[65536];
    int fd = accept(listener, NULL, NULL), on = 1;
    if (fd < 0 || count == MOST) fail("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (size_t length = 0; !memmem(request, length, "\r\n\r\n", 4);) {
        ssize_t more = recv(fd, request + length, sizeof request - length, 0);
        if (more <= 0) fail("recv");
        length += (size_t)more;
    }
    if (send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL) < 0) fail("send");
    viewers[count++] = fd;
}

static void deliver(void) {
    static char event[65536];
    size_t length;
    if (scanf("%zu", &length) != 1) exit(0);
    getchar();
    if (length > sizeof event || fread(event, 1, length, stdin) != length) fail("stdin");
    for (size_t number = 0; number < count; number++) send(viewers[number], event, length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    alarm((unsigned)atoi(argv[2]));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) fail("listen");
    setvbuf(stdin, NULL, _IONBF, 0); /* `poll` must see whatever was not yet taken */
    puts("ready");
    fflush(stdout);
    struct pollfd ready[2] = {{.fd = listener, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
    for (;;) {
        if (poll(ready, 2, -1) < 0 && errno != EINTR) fail("poll");
        if (ready[1].revents) deliver();
        else if (ready[0].revents) welcome(listener);
    }
}
