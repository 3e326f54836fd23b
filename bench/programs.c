// Small programs with a fixed amount of work each. Prints "NAME NANOSECONDS CHECKSUM" per program.
// Each takes 25 ms or more natively at 100 percent. Usage: programs SCALE-PERCENT [NAME...]. Checksums are the same on every machine.
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int scale = 100;

static int scaled(int count)
{
    long value = (long)count * scale / 100;
    return value < 1 ? 1 : (int)value;
}

static uint64_t random_state = 88172645463325252u;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static void *allocate(size_t size)
{
    void *memory = aligned_alloc(64, size);
    if (!memory) {
        perror("aligned_alloc");
        exit(1);
    }
    memset(memory, 0, size);
    return memory;
}

// ---- integer

static uint64_t sieve(void)
{
    enum { Size = 1 << 20 };
    unsigned char *composite = allocate(Size);
    uint64_t count = 0;
    for (int round = scaled(20); round > 0; round--) {
        memset(composite, 0, Size);
        for (uint32_t i = 2; i < Size; i++) {
            if (composite[i])
                continue;
            count++;
            for (uint32_t j = i * 2; j < Size; j += i)
                composite[j] = 1;
        }
    }
    free(composite);
    return count;
}

static void quick_sort(uint32_t *values, long low, long high)
{
    while (low < high) {
        uint32_t pivot = values[(low + high) / 2];
        long i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot)
                i++;
            while (values[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t swap = values[i];
                values[i++] = values[j];
                values[j--] = swap;
            }
        }
        quick_sort(values, low, j);
        low = i;
    }
}

static uint64_t quicksort(void)
{
    enum { Count = 100000 };
    uint32_t *values = allocate(Count * sizeof *values);
    uint64_t sum = 0;
    for (int round = scaled(12); round > 0; round--) {
        for (int i = 0; i < Count; i++)
            values[i] = next_random();
        quick_sort(values, 0, Count - 1);
        sum += values[Count / 2];
    }
    free(values);
    return sum;
}

static uint64_t crc32_table(void)
{
    enum { Size = 65536 };
    static uint32_t table[256];
    unsigned char *data = allocate(Size);
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? 0xedb88320u ^ (value >> 1) : value >> 1;
        table[i] = value;
    }
    for (int i = 0; i < Size; i++)
        data[i] = (unsigned char)next_random();
    uint32_t crc = ~0u;
    for (int round = scaled(400); round > 0; round--)
        for (int i = 0; i < Size; i++)
            crc = table[(crc ^ data[i]) & 255] ^ (crc >> 8);
    free(data);
    return ~crc;
}

// ---- floating point, scalar

static uint64_t nbody(void)
{
    enum { Bodies = 5 };
    double p[Bodies][3], v[Bodies][3], mass[Bodies];
    for (int i = 0; i < Bodies; i++) {
        mass[i] = i ? 0.01 / i : 39.5;
        for (int k = 0; k < 3; k++) {
            p[i][k] = i * (k + 1.5) * (k & 1 ? -1 : 1);
            v[i][k] = i * 0.1 * (k - 1);
        }
    }
    for (int step = scaled(300000); step > 0; step--) {
        for (int i = 0; i < Bodies; i++)
            for (int j = i + 1; j < Bodies; j++) {
                double dx = p[i][0] - p[j][0], dy = p[i][1] - p[j][1], dz = p[i][2] - p[j][2];
                double square = dx * dx + dy * dy + dz * dz + 0.01;
                double magnitude = 0.0001 / (square * __builtin_sqrt(square));
                v[i][0] -= dx * mass[j] * magnitude;
                v[i][1] -= dy * mass[j] * magnitude;
                v[i][2] -= dz * mass[j] * magnitude;
                v[j][0] += dx * mass[i] * magnitude;
                v[j][1] += dy * mass[i] * magnitude;
                v[j][2] += dz * mass[i] * magnitude;
            }
        for (int i = 0; i < Bodies; i++)
            for (int k = 0; k < 3; k++)
                p[i][k] += 0.0001 * v[i][k];
    }
    uint64_t bits;
    memcpy(&bits, &p[1][1], sizeof bits);
    return bits;
}

static uint64_t mandelbrot(void)
{
    uint64_t iterations = 0;
    int rows = scaled(640);
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < 160; x++) {
            double cr = x * 2.0 / 160 - 1.5, ci = (y * 37 % 160) * 2.0 / 160 - 1, zr = 0, zi = 0;
            int n = 0;
            for (; n < 250 && zr * zr + zi * zi < 4; n++) {
                double next = zr * zr - zi * zi + cr;
                zi = 2 * zr * zi + ci;
                zr = next;
            }
            iterations += (uint64_t)n;
        }
    return iterations;
}

// ---- SIMD on 16 KiB arrays

enum { Lanes = 4096 };

static uint64_t sse_float(void)
{
    float *a = allocate(Lanes * 4), *b = allocate(Lanes * 4);
    for (int i = 0; i < Lanes; i++) {
        a[i] = (float)(i & 63);
        b[i] = (float)(i & 31) * 0.5f;
    }
    __m128 sum = _mm_setzero_ps(), factor = _mm_set1_ps(0.5f);
    for (int round = scaled(20000); round > 0; round--)
        for (int i = 0; i < Lanes; i += 4) {
            __m128 value = _mm_add_ps(_mm_mul_ps(_mm_load_ps(a + i), factor), _mm_load_ps(b + i));
            _mm_store_ps(a + i, value);
            sum = _mm_max_ps(sum, value);
        }
    uint32_t bits[4];
    _mm_storeu_ps((float *)bits, sum);
    free(a);
    free(b);
    return bits[0] ^ (uint64_t)bits[3] << 32;
}

static uint64_t sse_integer(void)
{
    int *a = allocate(Lanes * 4);
    for (int i = 0; i < Lanes; i++)
        a[i] = (int)next_random();
    __m128i sum = _mm_setzero_si128(), mask = _mm_set1_epi32(0x00ff00ff);
    for (int round = scaled(20000); round > 0; round--)
        for (int i = 0; i < Lanes; i += 4) {
            __m128i value = _mm_load_si128((__m128i *)(a + i));
            value = _mm_xor_si128(_mm_add_epi16(value, sum), _mm_slli_epi32(value, 3));
            sum = _mm_add_epi32(sum, _mm_and_si128(_mm_shuffle_epi32(value, 0x1b), mask));
        }
    free(a);
    return (uint64_t)_mm_cvtsi128_si64(sum);
}

__attribute__((target("avx2,fma"))) static uint64_t avx2_float(void)
{
    float *a = allocate(Lanes * 4), *b = allocate(Lanes * 4);
    for (int i = 0; i < Lanes; i++) {
        a[i] = (float)(i & 63);
        b[i] = (float)(i & 31) * 0.5f;
    }
    __m256 sum = _mm256_setzero_ps(), factor = _mm256_set1_ps(0.5f);
    for (int round = scaled(20000); round > 0; round--)
        for (int i = 0; i < Lanes; i += 8) {
            __m256 value = _mm256_add_ps(_mm256_mul_ps(_mm256_load_ps(a + i), factor), _mm256_load_ps(b + i));
            _mm256_store_ps(a + i, value);
            sum = _mm256_max_ps(sum, value);
        }
    uint32_t bits[8];
    _mm256_storeu_ps((float *)bits, sum);
    free(a);
    free(b);
    return bits[0] ^ (uint64_t)bits[7] << 32;
}

__attribute__((target("avx2"))) static uint64_t avx2_integer(void)
{
    int *a = allocate(Lanes * 4);
    for (int i = 0; i < Lanes; i++)
        a[i] = (int)next_random();
    __m256i sum = _mm256_setzero_si256(), mask = _mm256_set1_epi32(0x00ff00ff);
    for (int round = scaled(20000); round > 0; round--)
        for (int i = 0; i < Lanes; i += 8) {
            __m256i value = _mm256_load_si256((__m256i *)(a + i));
            value = _mm256_xor_si256(_mm256_add_epi16(value, sum), _mm256_slli_epi32(value, 3));
            sum = _mm256_add_epi32(sum, _mm256_and_si256(_mm256_shuffle_epi32(value, 0x1b), mask));
        }
    free(a);
    return (uint64_t)_mm_cvtsi128_si64(_mm256_castsi256_si128(sum));
}

// ---- memory

static uint64_t memory_stream(void)
{
    enum { Words = 2 << 20 }; // 16 MiB each, beyond the last-level share of one core
    uint64_t *a = allocate(Words * 8), *b = allocate(Words * 8), sum = 0;
    for (int round = scaled(36); round > 0; round--) {
        for (int i = 0; i < Words; i++)
            b[i] = a[i] + (uint64_t)i;
        for (int i = 0; i < Words; i++)
            sum += b[i];
        a[round] = sum;
    }
    free(a);
    free(b);
    return sum;
}

static uint64_t chase(size_t size, int steps)
{
    size_t count = size / 64, *order = allocate((count + 7) / 8 * 64);
    char *memory = allocate(size);
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = count - 1; i > 0; i--) {
        size_t j = next_random() % (i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (size_t i = 0; i < count; i++)
        *(void **)(memory + order[i] * 64) = memory + order[(i + 1) % count] * 64;
    void **at = (void **)memory;
    for (; steps > 0; steps--)
        at = *at;
    uint64_t end = (uint64_t)((char *)at - memory);
    free(memory);
    free(order);
    return end;
}

static uint64_t chase_16k(void)
{
    return chase(16 << 10, scaled(20000000));
}

static uint64_t chase_4m(void)
{
    return chase(4 << 20, scaled(4000000));
}

// ---- calls

__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t fib_of(int n)
{
    return n < 2 ? (uint64_t)n : fib_of(n - 1) + fib_of(n - 2);
}

static uint64_t fib(void)
{
    uint64_t sum = 0;
    for (int round = scaled(60); round > 0; round--) {
        int n = 27;
        __asm__ volatile("" : "+r"(n));
        sum += fib_of(n);
    }
    return sum;
}

__attribute__((noinline)) static uint64_t target_add(uint64_t x) { return x + 3; }
__attribute__((noinline)) static uint64_t target_xor(uint64_t x) { return x ^ 0x55; }
__attribute__((noinline)) static uint64_t target_rotate(uint64_t x) { return x << 1 | x >> 63; }
__attribute__((noinline)) static uint64_t target_multiply(uint64_t x) { return x * 5; }

static uint64_t indirect_calls(void)
{
    static uint64_t (*volatile targets[4])(uint64_t) = { target_add, target_xor, target_rotate, target_multiply };
    uint64_t x = 1;
    for (int i = scaled(16000000); i > 0; i--)
        x = targets[(i ^ (i >> 3)) & 3](x);
    return x;
}

// ---- the operating system

static uint64_t syscalls(void)
{
    uint64_t parent = (uint64_t)getppid(), same = 0;
    for (int i = scaled(500000); i > 0; i--)
        same += (uint64_t)syscall(SYS_getppid) == parent;
    return same;
}

static void must(int condition, const char *what)
{
    if (!condition) {
        perror(what);
        exit(1);
    }
}

static uint64_t context_switches(void)
{
    int there[2], back[2], count = scaled(20000);
    char byte = 1;
    must(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        for (int i = 0; i < count; i++)
            if (read(there[0], &byte, 1) != 1 || write(back[1], &byte, 1) != 1)
                _exit(1);
        _exit(0);
    }
    for (int i = 0; i < count; i++)
        must(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "ping-pong");
    must(waitpid(child, NULL, 0) == child, "waitpid");
    close(there[0]);
    close(there[1]);
    close(back[0]);
    close(back[1]);
    return (uint64_t)count;
}

static uint64_t fork_exit(void)
{
    uint64_t done = 0;
    for (int i = scaled(800); i > 0; i--) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0)
            _exit(0);
        done += waitpid(child, NULL, 0) == child;
    }
    return done;
}

static uint64_t page_faults(void)
{
    enum { Size = 16 << 20 };
    uint64_t faults = 0;
    for (int round = scaled(16); round > 0; round--) {
        char *memory = mmap(NULL, Size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(memory != MAP_FAILED, "mmap");
        madvise(memory, Size, MADV_NOHUGEPAGE);
        for (int i = 0; i < Size; i += 4096, faults++)
            memory[i] = 1;
        munmap(memory, Size);
    }
    return faults;
}

static const struct {
    const char *name;
    uint64_t (*run)(void);
} programs[] = {
    { "sieve", sieve },
    { "quicksort", quicksort },
    { "crc32", crc32_table },
    { "nbody", nbody },
    { "mandelbrot", mandelbrot },
    { "sse-float", sse_float },
    { "sse-integer", sse_integer },
    { "avx2-float", avx2_float },
    { "avx2-integer", avx2_integer },
    { "memory-stream", memory_stream },
    { "chase-16k", chase_16k },
    { "chase-4m", chase_4m },
    { "fib", fib },
    { "indirect-calls", indirect_calls },
    { "syscalls", syscalls },
    { "context-switches", context_switches },
    { "fork-exit", fork_exit },
    { "page-faults", page_faults },
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        scale = atoi(argv[1]);
    if (scale < 1)
        return 2;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        int wanted = argc <= 2;
        for (int k = 2; k < argc; k++)
            wanted |= strcmp(argv[k], programs[i].name) == 0;
        if (!wanted)
            continue;
        if (strncmp(programs[i].name, "avx2", 4) == 0 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
            printf("%s unsupported\n", programs[i].name);
            continue;
        }
        random_state = 88172645463325252u;
        uint64_t start = now();
        uint64_t checksum = programs[i].run();
        uint64_t end = now();
        printf("%s %llu %016llx\n", programs[i].name, (unsigned long long)(end - start), (unsigned long long)checksum);
        fflush(stdout);
    }
    return 0;
}
