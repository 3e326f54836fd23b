// The peer of bench/Lodge.Bench.Exits: the same guest on /dev/kvm in plain C, one processor, local APIC in the kernel, the other interrupt controllers not.
// exits first: ends after the guest's first exit. exits COUNT: a line "name nanoseconds" for COUNT exits of each kind, after a warm-up of a quarter of them.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 2 << 20, DEVICE_PORT = 0x510 };
static const uint64_t DEVICE_ADDRESS = 0xD0000000;

static const struct {
    const char *name;
    unsigned char code[4];
} kinds[] = {
    {"port-write", {0xEF, 0xEB, 0xFD, 0xF4}},  // out dx, eax; jmp
    {"port-read", {0xED, 0xEB, 0xFD, 0xF4}},   // in eax, dx; jmp
    {"memory-write", {0x89, 0x03, 0xEB, 0xFC}}, // mov [rbx], eax; jmp
    {"memory-read", {0x8B, 0x03, 0xEB, 0xFC}},  // mov eax, [rbx]; jmp
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int check(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

// What answers the guest. A device of its own, as behind Lodge's bus: the value that was written is read again.
static uint32_t device;

static void access_device(void *data, int write, unsigned length)
{
    if (write)
        memcpy(&device, data, length);
    else
        memcpy(data, &device, length);
}

static struct kvm_segment segment(uint16_t selector, int type, int ring, int code)
{
    return (struct kvm_segment){.selector = selector | ring, .limit = 0xFFFFFFFF, .type = type, .present = 1, .dpl = ring, .db = !code, .s = 1, .l = code, .g = 1};
}

static void enter(int vcpu, uint64_t address, int ring)
{
    struct kvm_sregs sregs;
    check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs = segment(ring ? 0x20 : 0x08, 0xB, ring, 1);
    sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = segment(ring ? 0x18 : 0x10, 0x3, ring, 0);
    sregs.tr = (struct kvm_segment){.selector = 0x28, .base = 0x6000, .limit = 0x2067, .type = 0xB, .present = 1};
    sregs.gdt = (struct kvm_dtable){.base = 0x5000, .limit = 0x37};
    sregs.cr0 = 0x80000033; // PG, NE, ET, MP, PE
    sregs.cr3 = 0x1000;
    sregs.cr4 = 0x20;   // PAE
    sregs.efer = 0x500; // LMA, LME
    check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = {.rip = address, .rflags = 2, .rdx = DEVICE_PORT, .rbx = DEVICE_ADDRESS};
    check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void run(int vcpu, struct kvm_run *run)
{
    check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        access_device((char *)run + run->io.data_offset, run->io.direction == KVM_EXIT_IO_OUT, run->io.size * run->io.count);
        break;
    case KVM_EXIT_MMIO:
        access_device(run->mmio.data, run->mmio.is_write, run->mmio.len);
        break;
    default:
        fprintf(stderr, "exit %u\n", run->exit_reason);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    int vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
    check(ioctl(vm, KVM_ENABLE_CAP, &split), "KVM_CAP_SPLIT_IRQCHIP");
    char *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY, .userspace_addr = (uintptr_t)memory};
    check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    int vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    struct kvm_run *state = mmap(NULL, check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + 256 * sizeof cpuid->entries[0]);
    cpuid->nent = 256;
    check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid), "KVM_GET_SUPPORTED_CPUID");
    check(ioctl(vcpu, KVM_SET_CPUID2, cpuid), "KVM_SET_CPUID2");

    // 0 to 1 GiB and 3 to 4 GiB mapped as they are, for all rings.
    uint64_t *entries = (uint64_t *)memory;
    entries[0x1000 / 8] = 0x2007;
    entries[0x2000 / 8] = 0x3007;
    entries[0x2000 / 8 + 3] = 0x4007;
    for (uint64_t i = 0; i < 512; i++) {
        entries[0x3000 / 8 + i] = i << 21 | 0x87;
        entries[0x4000 / 8 + i] = (i << 21 | 0x87) + 0xC0000000;
    }
    const uint64_t descriptors[] = {0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0x00008B0060002067, 0};
    memcpy(memory + 0x5000, descriptors, sizeof descriptors);
    *(uint16_t *)(memory + 0x6066) = 0x68; // the task state's permission map, which allows all ports
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        memcpy(memory + 0xA000 + i * 16, kinds[i].code, sizeof kinds[i].code);

    if (strcmp(argv[1], "first") == 0) {
        enter(vcpu, 0xA000, 0);
        run(vcpu, state);
        puts("first");
        return 0;
    }
    long count = atol(argv[1]);
    for (int ring = 0; ring <= 3; ring += 3) {
        for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
            enter(vcpu, 0xA000 + i * 16, ring);
            for (long n = count / 4; n > 0; n--)
                run(vcpu, state);
            uint64_t begin = now();
            for (long n = count; n > 0; n--)
                run(vcpu, state);
            printf("ring%d-%s %llu\n", ring, kinds[i].name, (unsigned long long)(now() - begin));
            // What the last access has left to do is done before the registers are set.
            state->immediate_exit = 1;
            ioctl(vcpu, KVM_RUN, 0);
            state->immediate_exit = 0;
        }
    }
    return 0;
}
