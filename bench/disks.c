// Measures a disk in a guest: random 4 KiB reads and writes one at a time and sixteen at a time, sequential 1 MiB reads and writes four at a time, for a fixed time
// each, past the page cache. Asynchronous I/O by Linux' own calls (io_submit(2)), so that it needs no library.
//
// Usage: disks LABEL DEVICE MILLISECONDS
// Every block of 4 KiB holds its own number in its first eight bytes, before and after; a read that finds another is an error.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MOST = 16, LARGE = 1 << 20 };

static const char *label;
static int file;
static uint64_t length;
static aio_context_t context;
static unsigned char *memory;

static void fail(const char *what)
{
    printf("disk: %s error %s: %s\n", label, what, strerror(errno));
    exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint64_t next_random(void)
{
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void start(struct iocb *request, int slot, int write, size_t size, uint64_t offset)
{
    unsigned char *buffer = memory + (size_t)slot * LARGE;
    if (write)
        for (size_t at = 0; at < size; at += BLOCK) {
            uint64_t number = (offset + at) / BLOCK;
            memcpy(buffer + at, &number, sizeof number);
        }
    memset(request, 0, sizeof *request);
    request->aio_fildes = (uint32_t)file;
    request->aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    request->aio_buf = (uintptr_t)buffer;
    request->aio_nbytes = size;
    request->aio_offset = (int64_t)offset;
    request->aio_data = (uint64_t)slot;
    if (syscall(SYS_io_submit, context, 1, &request) != 1)
        fail("io_submit");
}

static void check(const struct iocb *request, const struct io_event *event)
{
    if (event->res != (int64_t)request->aio_nbytes) {
        errno = event->res < 0 ? (int)-event->res : EIO;
        fail("transfer");
    }
    if (request->aio_lio_opcode == IOCB_CMD_PREAD)
        for (size_t at = 0; at < request->aio_nbytes; at += BLOCK) {
            uint64_t number;
            memcpy(&number, (const unsigned char *)(uintptr_t)request->aio_buf + at, sizeof number);
            if (number != ((uint64_t)request->aio_offset + at) / BLOCK) {
                errno = EILSEQ;
                fail("content");
            }
        }
}

static void measure(const char *name, int write, size_t size, int depth, uint64_t nanoseconds)
{
    struct iocb requests[MOST];
    struct io_event events[MOST];
    uint64_t units = length / size, place = 0, operations = 0, began = now(), end = began + nanoseconds, time = began;
    int busy = 0;
    for (; busy < depth; busy++)
        start(&requests[busy], busy, write, size, (size == BLOCK ? next_random() : place++) % units * size);
    while (busy > 0) {
        long count = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
        if (count < 1)
            fail("io_getevents");
        time = now();
        for (long index = 0; index < count; index++) {
            int slot = (int)events[index].data;
            check(&requests[slot], &events[index]);
            operations++;
            busy--;
            if (time < end) {
                start(&requests[slot], slot, write, size, (size == BLOCK ? next_random() : place++) % units * size);
                busy++;
            }
        }
    }
    printf("disk: %s %s %llu %llu %llu\n", label, name, (unsigned long long)operations, (unsigned long long)(operations * size), (unsigned long long)(time - began));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    label = argv[1];
    uint64_t nanoseconds = strtoull(argv[3], NULL, 10) * 1000000u;
    file = open(argv[2], O_RDWR | O_DIRECT);
    if (file < 0 || ioctl(file, BLKGETSIZE64, &length) != 0)
        fail("open");
    if (syscall(SYS_io_setup, MOST, &context) != 0)
        fail("io_setup");
    memory = mmap(NULL, (size_t)MOST * LARGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    measure("random-read-1", 0, BLOCK, 1, nanoseconds);
    measure("random-read-16", 0, BLOCK, 16, nanoseconds);
    measure("random-write-1", 1, BLOCK, 1, nanoseconds);
    measure("random-write-16", 1, BLOCK, 16, nanoseconds);
    measure("sequential-read", 0, LARGE, 4, nanoseconds);
    measure("sequential-write", 1, LARGE, 4, nanoseconds);
    return 0;
}
