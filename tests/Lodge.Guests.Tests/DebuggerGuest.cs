using System.Buffers.Binary;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Guests.Tests;

/// <summary>
/// A tiny Multiboot guest for debuggers: goes to 64-bit mode, starts a second processor that counts in real mode, then goes round and round until
/// <see cref="Flag"/> is set, and ends through the debug exit port.
/// </summary>
internal sealed class DebuggerGuest
{
    public const ulong Base = 0x10_0000, Trampoline = 0x8000, RealModeCounter = 0x7000, Data = 0x20_0000, Counter = Data + 0x100, Flag = Data + 0x200, StackTop = 0x30_0000;
    private const ulong Tables = 0x40_0000;

    public DebuggerGuest()
    {
        byte[] image = new byte[0x1000];
        // Multiboot specification 0.6.96, 3.1.1 to 3.1.3: magic, flags (the addresses here are valid), checksum, then the addresses.
        uint[] header = [0x1BADB002, 0x10000, unchecked(0 - 0x1BADB002u - 0x10000u), (uint)Base, (uint)Base, (uint)Base + 0x1000, (uint)Base + 0x1000, (uint)Base + 0x40];
        for (int i = 0; i < header.Length; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(i * 4), header[i]);
        }

        // Descriptors: null, 64-bit code, data.
        ulong[] descriptors = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
        for (int i = 0; i < descriptors.Length; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(0x800 + (i * 8)), descriptors[i]);
        }
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(0x7F0), 23);
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(0x7F2), (uint)Base + 0x800);
        Place(image, 0x40, Enter());
        Place(image, 0x200, Main());
        Place(image, 0x600, Assemble(16, Trampoline, a =>
        {
            a.xor(ax, ax);
            a.mov(ds, ax);
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.inc(__word_ptr[(int)RealModeCounter]);
            a.jmp(again);
        }));
        Image = image;
    }

    public byte[] Image { get; }

    /// <summary>First instruction in 64-bit mode: mov rbx, 0x1122334455667788; two INC RCX follow.</summary>
    public ulong Start => Base + 0x200;

    /// <summary>A function called in each round; its only instruction is RET.</summary>
    public ulong Function { get; private set; }

    private byte[] Enter() => Assemble(32, Base + 0x40, a =>
    {
        a.cld();
        a.mov(esp, (uint)StackTop);
        // PML4 -> PDPT -> four page directories of 2 MiB pages: the low 4 GiB as they are.
        a.mov(__dword_ptr[(int)Tables], (uint)Tables + 0x1003);
        for (int i = 0; i < 4; i++)
        {
            a.mov(__dword_ptr[(int)Tables + 0x1000 + (i * 8)], (uint)Tables + 0x2003 + (uint)(i * 0x1000));
        }
        a.mov(edi, (uint)Tables + 0x2000);
        a.mov(eax, 0x83);
        a.mov(ecx, 2048);
        Label fill = a.CreateLabel();
        a.Label(ref fill);
        a.mov(__dword_ptr[edi], eax);
        a.add(eax, 0x20_0000);
        a.add(edi, 8);
        a.dec(ecx);
        a.jne(fill);
        a.mov(eax, (uint)Tables);
        a.mov(cr3, eax);
        a.mov(eax, 0x620); // PAE, OSFXSR, OSXMMEXCPT
        a.mov(cr4, eax);
        a.mov(ecx, 0xC000_0080);
        a.mov(eax, 0x100);
        a.xor(edx, edx);
        a.wrmsr();
        a.lgdt(__[(int)Base + 0x7F0]);
        a.mov(eax, cr0);
        a.or(eax, unchecked((int)0x8000_0001));
        a.mov(cr0, eax);
        a.AddInstruction(Instruction.CreateBranch(Code.Jmp_ptr1632, 8, (uint)Start));
    });

    private byte[] Main() => Assemble(64, Start, a =>
    {
        Label again = a.CreateLabel(), function = a.CreateLabel(), end = a.CreateLabel();
        a.mov(rbx, 0x1122_3344_5566_7788L);
        a.inc(rcx);
        a.inc(rcx);
        a.mov(ax, 16);
        a.mov(ds, ax);
        a.mov(es, ax);
        a.mov(ss, ax);
        // The trampoline below 1 MiB, then INIT and start-up (Intel SDM vol. 3, 10.4.4).
        a.mov(rsi, (long)Base + 0x600);
        a.mov(rdi, (long)Trampoline);
        a.mov(ecx, 64);
        a.rep.movsb();
        a.mov(rdi, 0xFEE0_0000L);
        a.mov(__dword_ptr[rdi + 0xF0], 0x1FF);
        a.mov(__dword_ptr[rdi + 0x310], 1 << 24);
        a.mov(__dword_ptr[rdi + 0x300], 0x4500);
        a.mov(__dword_ptr[rdi + 0x310], 1 << 24);
        a.mov(__dword_ptr[rdi + 0x300], 0x4600 | ((int)Trampoline >> 12));
        a.Label(ref again);
        a.inc(__qword_ptr[(long)Counter]);
        a.mov(rax, __qword_ptr[(long)Counter]);
        a.mov(__qword_ptr[(long)Data], rax);
        a.call(function);
        a.cmp(__byte_ptr[(long)Flag], 0);
        a.je(again);
        a.mov(eax, 21);
        a.@out(0xF4, eax);
        a.Label(ref end);
        a.hlt();
        a.jmp(end);
        a.Label(ref function);
        a.ret();
    });

    private byte[] Assemble(int bits, ulong at, Action<Assembler> program)
    {
        var assembler = new Assembler(bits);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        if (at == Start)
        {
            Function = at + (ulong)stream.Length - 1; // its last byte is the RET
        }
        return stream.ToArray();
    }

    private static void Place(byte[] image, int at, byte[] code)
    {
        if (at + code.Length > image.Length)
        {
            throw new InvalidOperationException("the guest's code does not fit");
        }
        code.CopyTo(image, at);
    }
}
