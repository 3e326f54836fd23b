/* Request and response: the other side of bench/network. Without an address it serves: it sends back each byte that it gets. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 4) {
        fprintf(stderr, "usage: network PORT | network ADDRESS PORT SECONDS\n");
        return 2;
    }
    int one = 1, client = argc == 4;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(argv[client ? 2 : 1])) };
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!client) {
        if (bind(s, (struct sockaddr *)&address, sizeof address) || listen(s, 1)) {
            perror("network");
            return 1;
        }
        for (;;) {
            char c;
            int connection = accept(s, NULL, NULL);
            setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            while (read(connection, &c, 1) == 1 && write(connection, &c, 1) == 1) {
            }
            close(connection);
        }
    }
    inet_pton(AF_INET, argv[1], &address.sin_addr);
    if (connect(s, (struct sockaddr *)&address, sizeof address)) {
        perror("network");
        return 1;
    }
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    enum { MOST = 1 << 20 };
    double *times = malloc(MOST * sizeof *times), end = now() + atof(argv[3]);
    int count = 0;
    char c = 'x';
    for (double begin = now(); begin < end && count < MOST;) {
        if (write(s, &c, 1) != 1 || read(s, &c, 1) != 1) {
            perror("network");
            return 1;
        }
        double after = now();
        times[count++] = after - begin;
        begin = after;
    }
    qsort(times, count, sizeof *times, compare);
    printf("net: value %.3f\n", times[count / 2] * 1e6);
    return 0;
}
