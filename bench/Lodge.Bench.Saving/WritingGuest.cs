using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Bench.Saving;

/// <summary>
/// A guest without a system that fills its memory (half of each page is noise), and then writes a page after the other, round after round, checking that each has what the
/// round before wrote. It prints F when it has filled, a point for each MiB that it went through, X when a page is wrong.
/// </summary>
internal static class WritingGuest
{
    private const ulong Tables = 0x1_0000, Code = 0x8000, First = 16 << 20, PageDirectories = 4;
    private const byte DebugConsole = 0xE9;

    /// <summary>Puts it into memory and the processor at its entry, in 64-bit mode with all of the first 4 GiB where it is.</summary>
    public static void Boot(GuestMemory memory, ProcessorState state)
    {
        memory.TryWrite(Tables, (Tables + 0x1000) | 3);
        for (ulong i = 0; i < PageDirectories; i++)
        {
            ulong directory = Tables + 0x2000 + (i << 12);
            memory.TryWrite(Tables + 0x1000 + (i * 8), directory | 3);
            for (ulong j = 0; j < 512; j++)
            {
                memory.TryWrite(directory + (j * 8), (i << 30) | (j << 21) | 0x83);
            }
        }
        var assembler = new Assembler(64);
        Write(assembler, memory.Size);
        using var code = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(code), Code);
        memory.TryWrite(Code, code.ToArray());
        state.Cr0 = 0x8000_0031;
        state.Cr3 = Tables;
        state.Cr4 = 0x20;
        state.ModelSpecificRegisters[0xC000_0080] = 0x500;
        var data = new SegmentState(0x10, 0, uint.MaxValue, 0xC093);
        state.Segments = [data, new SegmentState(8, 0, uint.MaxValue, 0xA09B), data, data, data, data];
        state.InstructionPointer = Code;
        state.Flags = 2;
    }

    private static void Write(Assembler a, ulong size)
    {
        Label fill = a.CreateLabel(), noise = a.CreateLabel(), round = a.CreateLabel(), page = a.CreateLabel(), quiet = a.CreateLabel(), wrong = a.CreateLabel();
        a.mov(rdi, size);
        a.mov(rsi, First);
        a.mov(r8, 0x1234_5678);
        a.mov(r10, 0x5851_F42D_4C95_7F2D);
        a.Label(ref fill);
        a.mov(rdx, rsi);
        a.mov(ecx, GuestMemory.PageSize / 2 / 8);
        a.Label(ref noise);
        a.imul(r8, r10);
        a.inc(r8);
        a.mov(__qword_ptr[rdx], r8);
        a.add(rdx, 8);
        a.dec(ecx);
        a.jnz(noise);
        a.mov(__qword_ptr[rsi], 0);
        a.add(rsi, GuestMemory.PageSize);
        a.cmp(rsi, rdi);
        a.jb(fill);
        a.mov(al, (sbyte)'F');
        a.@out(DebugConsole, al);
        a.xor(r9d, r9d);
        a.Label(ref round);
        a.mov(rsi, First);
        a.Label(ref page);
        a.cmp(__qword_ptr[rsi], r9);
        a.jne(wrong);
        a.inc(__qword_ptr[rsi]);
        a.add(rsi, GuestMemory.PageSize);
        a.test(esi, (1 << 20) - 1);
        a.jnz(quiet);
        a.mov(al, (sbyte)'.');
        a.@out(DebugConsole, al);
        a.Label(ref quiet);
        a.cmp(rsi, rdi);
        a.jb(page);
        a.inc(r9);
        a.jmp(round);
        a.Label(ref wrong);
        a.mov(al, (sbyte)'X');
        a.@out(DebugConsole, al);
        a.jmp(wrong);
    }
}
