using System.Buffers.Binary;

namespace Lodge.Cli.DefaultSystem;

/// <summary>
/// A program of a few machine instructions for Linux guests that are cloned. It stands in a read of the command port while the template is taken, so that nothing has to be
/// started when a clone goes on: it tells <c>waiting</c> on file descriptor 3, reads a header from standard input, sets the clock, gives the kernel's random number generator a
/// seed and makes it use it at once (ioctls RNDADDENTROPY and RNDRESEEDCRNG, random(4)), then copies the text that follows to standard output and ends.
/// </summary>
internal static class CloneProgram
{
    /// <summary>Bytes of the header.</summary>
    public const int HeaderLength = 64;

    /// <summary>Bytes of the seed.</summary>
    public const int SeedLength = 32;

    // What follows in memory: ELF header (64 bytes), one program header (56 bytes), code.
    private const ulong Base = 0x400000;
    private const int CodeStart = 120;

    private static readonly byte[] Code =
    [
        // Tells on the control port that it waits: write(3, "waiting\n", 8).
        0x48, 0x81, 0xEC, 0x00, 0x10, 0x00, 0x00, // sub rsp,0x1000
        0x49, 0x89, 0xE4, // mov r12,rsp
        0x6A, 0x03, // push 0x3
        0x5F, // pop rdi
        0x48, 0x8D, 0x35, 0xA0, 0x00, 0x00, 0x00, // lea rsi,[rip+0xa0]
        0x6A, 0x08, // push 0x8
        0x5A, // pop rdx
        0x6A, 0x01, // push 0x1
        0x58, // pop rax
        0x0F, 0x05, // syscall
        0x31, 0xDB, // xor ebx,ebx
        // Reads the header.
        0x31, 0xFF, // xor edi,edi
        0x49, 0x8D, 0x34, 0x1C, // lea rsi,[r12+rbx*1]
        0x6A, 0x40, // push 0x40
        0x5A, // pop rdx
        0x29, 0xDA, // sub edx,ebx
        0x31, 0xC0, // xor eax,eax
        0x0F, 0x05, // syscall
        0x48, 0x85, 0xC0, // test rax,rax
        0x7E, 0x78, // jle failed
        0x01, 0xC3, // add ebx,eax
        0x83, 0xFB, 0x40, // cmp ebx,0x40
        0x72, 0xE5, // jb header
        // clock_settime(CLOCK_REALTIME, header + 8)
        0xB8, 0xE3, 0x00, 0x00, 0x00, // mov eax,0xe3
        0x31, 0xFF, // xor edi,edi
        0x49, 0x8D, 0x74, 0x24, 0x08, // lea rsi,[r12+0x8]
        0x0F, 0x05, // syscall
        // open("/dev/urandom", O_WRONLY)
        0x48, 0x8D, 0x3D, 0x6E, 0x00, 0x00, 0x00, // lea rdi,[rip+0x6e]
        0x6A, 0x01, // push 0x1
        0x5E, // pop rsi
        0x6A, 0x02, // push 0x2
        0x58, // pop rax
        0x0F, 0x05, // syscall
        0x89, 0xC5, // mov ebp,eax
        // ioctl(RNDADDENTROPY, header + 24), ioctl(RNDRESEEDCRNG)
        0x89, 0xEF, // mov edi,ebp
        0xBE, 0x03, 0x52, 0x08, 0x40, // mov esi,0x40085203
        0x49, 0x8D, 0x54, 0x24, 0x18, // lea rdx,[r12+0x18]
        0x6A, 0x10, // push 0x10
        0x58, // pop rax
        0x0F, 0x05, // syscall
        0x89, 0xEF, // mov edi,ebp
        0xBE, 0x07, 0x52, 0x00, 0x00, // mov esi,0x5207
        0x6A, 0x10, // push 0x10
        0x58, // pop rax
        0x0F, 0x05, // syscall
        0x4D, 0x8B, 0x2C, 0x24, // mov r13,QWORD PTR [r12]
        // Copies the text to standard output.
        0x31, 0xFF, // xor edi,edi
        0x4D, 0x85, 0xED, // test r13,r13
        0x74, 0x2D, // je end
        0x4C, 0x89, 0xE6, // mov rsi,r12
        0xBA, 0x00, 0x10, 0x00, 0x00, // mov edx,0x1000
        0x49, 0x39, 0xD5, // cmp r13,rdx
        0x49, 0x0F, 0x42, 0xD5, // cmovb rdx,r13
        0x31, 0xC0, // xor eax,eax
        0x0F, 0x05, // syscall
        0x48, 0x85, 0xC0, // test rax,rax
        0x7E, 0x12, // jle failed
        0x49, 0x29, 0xC5, // sub r13,rax
        0x48, 0x89, 0xC2, // mov rdx,rax
        0x6A, 0x01, // push 0x1
        0x5F, // pop rdi
        0x89, 0xF8, // mov eax,edi
        0x0F, 0x05, // syscall
        0x48, 0x39, 0xD0, // cmp rax,rdx
        0x74, 0xCF, // je text
        0x6A, 0x01, // failed: push 0x1
        0x5F, // pop rdi
        0xB8, 0xE7, 0x00, 0x00, 0x00, // end: mov eax,0xe7 (exit_group)
        0x0F, 0x05, // syscall
        .. "waiting\n"u8, // waiting_word
        .. "/dev/urandom\0"u8, // path
    ];

    /// <summary>The program's file: a static ELF executable with one segment.</summary>
    public static byte[] File()
    {
        byte[] file = new byte[CodeStart + Code.Length];
        Span<byte> elf = file;
        ((ReadOnlySpan<byte>)[0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1]).CopyTo(elf); // 64-bit, little-endian, version 1
        BinaryPrimitives.WriteUInt16LittleEndian(elf[16..], 2); // e_type: executable
        BinaryPrimitives.WriteUInt16LittleEndian(elf[18..], 62); // e_machine: x86-64
        BinaryPrimitives.WriteUInt32LittleEndian(elf[20..], 1); // e_version
        BinaryPrimitives.WriteUInt64LittleEndian(elf[24..], Base + CodeStart); // e_entry
        BinaryPrimitives.WriteUInt64LittleEndian(elf[32..], 64); // e_phoff
        BinaryPrimitives.WriteUInt16LittleEndian(elf[52..], 64); // e_ehsize
        BinaryPrimitives.WriteUInt16LittleEndian(elf[54..], 56); // e_phentsize
        BinaryPrimitives.WriteUInt16LittleEndian(elf[56..], 1); // e_phnum
        Span<byte> segment = elf[64..];
        BinaryPrimitives.WriteUInt32LittleEndian(segment, 1); // p_type: PT_LOAD
        BinaryPrimitives.WriteUInt32LittleEndian(segment[4..], 5); // p_flags: read, execute
        BinaryPrimitives.WriteUInt64LittleEndian(segment[16..], Base); // p_vaddr
        BinaryPrimitives.WriteUInt64LittleEndian(segment[24..], Base); // p_paddr
        BinaryPrimitives.WriteUInt64LittleEndian(segment[32..], (ulong)file.Length); // p_filesz
        BinaryPrimitives.WriteUInt64LittleEndian(segment[40..], (ulong)file.Length); // p_memsz
        BinaryPrimitives.WriteUInt64LittleEndian(segment[48..], 0x1000); // p_align
        Code.CopyTo(elf[CodeStart..]);
        return file;
    }

    /// <summary>What the program is given: the header and the text.</summary>
    /// <param name="now">The guest's time.</param>
    /// <param name="seed"><see cref="SeedLength"/> random bytes.</param>
    /// <param name="text">What it copies.</param>
    public static byte[] Input(DateTimeOffset now, ReadOnlySpan<byte> seed, ReadOnlySpan<byte> text)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(seed.Length, SeedLength);
        byte[] input = new byte[HeaderLength + text.Length];
        long ticks = (now - DateTimeOffset.UnixEpoch).Ticks;
        BinaryPrimitives.WriteInt64LittleEndian(input, text.Length);
        BinaryPrimitives.WriteInt64LittleEndian(input.AsSpan(8), ticks / TimeSpan.TicksPerSecond); // struct timespec
        BinaryPrimitives.WriteInt64LittleEndian(input.AsSpan(16), ticks % TimeSpan.TicksPerSecond * TimeSpan.NanosecondsPerTick);
        BinaryPrimitives.WriteInt32LittleEndian(input.AsSpan(24), SeedLength * 8); // struct rand_pool_info
        BinaryPrimitives.WriteInt32LittleEndian(input.AsSpan(28), SeedLength);
        seed.CopyTo(input.AsSpan(32));
        text.CopyTo(input.AsSpan(HeaderLength));
        return input;
    }
}
