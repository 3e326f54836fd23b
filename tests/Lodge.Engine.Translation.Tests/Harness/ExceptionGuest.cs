using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Tests.Harness;

/// <summary>
/// A machine for instruction tests: 4-level paging with pages mapped one by one, and an IDT whose handlers (on a stack of their own, so that any RSP
/// will do) end the run at once. 64-bit or compatibility mode, ring 0 or 3.
/// </summary>
internal sealed unsafe class ExceptionGuest : IMachineBus, IDisposable
{
    // Physical (and linear, supervisor) places of the tables. Page tables and mapped pages grow upwards from FirstFree.
    private const ulong Pml4 = 0x1000, Gdt = 0x2000, Idt = 0x3000, Tss = 0x4000, Ldt = 0x5000, Handlers = 0x6000, ExceptionStack = 0x9000, FirstFree = 0x1_0000;

    /// <summary>Where the supervisor's own pages are in every address space (canonical, top of the lower half).</summary>
    public const ulong Window = 0x7FFF_FF00_0000;

    public const ushort ExitPort = 0xF4;
    private ulong _free = FirstFree;
    private int _executing;

    public ExceptionGuest(ulong memory = 64 << 20, int processors = 1)
    {
        Memory = new GuestMemory(memory);
        var clock = new MachineClock();
        clock.Start();
        Partition = (TranslationPartition)new TranslationEngine().CreatePartition(
            new PartitionOptions(processors, CpuModel.Create(CpuModelName.Host, processors), Memory, this, clock));
        for (ulong page = Gdt; page < FirstFree; page += 0x1000)
        {
            Map(Window + page, page, 3);
        }
        // As Linux has them: 0x08 32-bit and 0x10 64-bit kernel code, 0x18 kernel data, 0x23 and 0x33 32-bit and 64-bit user code, 0x2B user data; 0x40 TSS.
        ReadOnlySpan<ulong> gdt =
        [
            0, 0x00CF9B000000FFFF, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0,
            0x0000890000000067 | ((Window + Tss & 0xFF_FFFF) << 16) | ((Window + Tss >> 24 & 0xFF) << 56), Window + Tss >> 32,
        ];
        for (int i = 0; i < gdt.Length; i++)
        {
            Memory.TryWrite(Gdt + ((ulong)i * 8), gdt[i]);
        }
        for (ulong i = 0; i < 8; i++)
        {
            Memory.TryWrite(Ldt + (i * 8), 0x00CFF3000000FFFF);
        }
        for (ulong i = 0; i < 256; i++)
        {
            ulong handler = Window + Handlers + (i * 16);
            ulong dpl = i is 3 or 4 ? 3UL : 0;
            Memory.TryWrite(Idt + (i * 16), (handler & 0xFFFF) | (0x10UL << 16) | (1UL << 32) | ((0x8EUL | (dpl << 5)) << 40) | ((handler >> 16 & 0xFFFF) << 48));
            Memory.TryWrite(Idt + (i * 16) + 8, handler >> 32);
            Memory.TryWrite(Handlers + (i * 16), 0xFEEB_F4E6u); // out 0xF4, al; jmp $
        }
        Memory.TryWrite(Tss + 4, Window + ExceptionStack + 0x1000);
        Memory.TryWrite(Tss + 36, Window + ExceptionStack + 0x1000);
        Memory.TryWrite(Tss + 102, (ushort)0x68);
        Enter(64, false);
    }

    public GuestMemory Memory { get; }

    public TranslationPartition Partition { get; }

    public Vcpu Processor => Partition.Vcpus[0];

    public ProcessorBlock* B => Processor.B;

    /// <summary>Called for writes to other ports.</summary>
    public Action<ushort, ulong>? OnPort { get; set; }

    /// <summary>Bytes of RAM from 0 that hold tables and mapped pages.</summary>
    public ulong Used => _free;

    /// <summary>Takes a free physical page.</summary>
    public ulong TakePage()
    {
        ulong page = _free;
        _free += 0x1000;
        return _free <= Memory.Size ? Memory.AddressOfOffset(page) : throw new InvalidOperationException("test machine is out of memory");
    }

    /// <summary>Maps a page: flags as in the page-table entry (1 present, 2 writable, 4 user). Does not invalidate.</summary>
    public void Map(ulong linear, ulong physical, ulong flags)
    {
        ulong table = Pml4;
        for (int shift = 39; shift > 12; shift -= 9)
        {
            ulong at = table + ((linear >> shift & 511) * 8);
            Memory.TryRead(at, out ulong entry);
            if ((entry & 1) == 0)
            {
                entry = TakePage() | 7;
                Memory.TryWrite(at, entry);
            }
            table = entry & 0x000F_FFFF_FFFF_F000;
        }
        Memory.TryWrite(table + ((linear >> 12 & 511) * 8), physical | flags);
    }

    /// <summary>Physical address of the page-table entry of a mapped page.</summary>
    public ulong EntryAddress(ulong linear)
    {
        ulong table = Pml4;
        for (int shift = 39; shift > 12; shift -= 9)
        {
            Memory.TryRead(table + ((linear >> shift & 511) * 8), out ulong entry);
            table = entry & 0x000F_FFFF_FFFF_F000;
        }
        return table + ((linear >> 12 & 511) * 8);
    }

    /// <summary>Assembles 64-bit code at a mapped address.</summary>
    public void Assemble(ulong at, Action<Iced.Intel.Assembler> program)
    {
        var assembler = new Iced.Intel.Assembler(64);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new Iced.Intel.StreamCodeWriter(stream), at);
        Write(at, stream.ToArray());
    }

    /// <summary>Maps fresh pages over a range.</summary>
    public ulong MapFresh(ulong linear, ulong length, ulong flags = 7)
    {
        ulong first = _free;
        for (ulong page = linear & ~0xFFFUL; page < linear + length; page += 0x1000)
        {
            if (!Processor.TryTranslateQuietly(page, out _))
            {
                Map(page, TakePage(), flags);
            }
        }
        return first;
    }

    /// <summary>Writes at a linear address, also over pages that are not contiguous.</summary>
    public void Write(ulong linear, ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            int length = Math.Min(data.Length, 4096 - (int)(linear & 0xFFF));
            if (!Processor.TryTranslateQuietly(linear, out ulong physical) || !Memory.TryWrite(physical, data[..length]))
            {
                throw new InvalidOperationException($"{linear:x} is not mapped");
            }
            data = data[length..];
            linear += (ulong)length;
        }
    }

    /// <summary>Processor state: <paramref name="bits"/> 64, or 32 for compatibility mode.</summary>
    public void Enter(int bits, bool user, int processor = 0)
    {
        var state = new ProcessorState { Cr0 = 0x8005_0033, Cr3 = Pml4, Cr4 = 0x5_0620, Xcr0 = 7, Flags = 0x202 };
        state.ModelSpecificRegisters[0xC0000080] = 0xD01;
        uint dpl = user ? 0x60u : 0;
        ushort code = bits == 64 ? user ? (ushort)0x33 : (ushort)0x10 : user ? (ushort)0x23 : (ushort)0x08;
        state.Segments[1] = new SegmentState(code, 0, uint.MaxValue, (bits == 64 ? 0xA09Bu : 0xC09Bu) | dpl);
        foreach (int i in (int[])[0, 2, 3, 4, 5])
        {
            state.Segments[i] = new SegmentState(user ? (ushort)0x2B : (ushort)0x18, 0, uint.MaxValue, 0xC093 | dpl);
        }
        state.TaskRegister = new SegmentState(0x40, Window + Tss, 0x67, 0x8B);
        state.LocalDescriptorTable = new SegmentState(0x38, Window + Ldt, 0x3F, 0x82);
        state.GlobalDescriptorTable = new TableRegister(Window + Gdt, 0x4F);
        state.InterruptDescriptorTable = new TableRegister(Window + Idt, 0xFFF);
        Partition.Vcpus[processor].RestoreState(state);
    }

    /// <summary>Interrupt vectors of real mode, which end the run, and their handler.</summary>
    public void PrepareReal()
    {
        for (ulong i = 0; i < 256; i++)
        {
            Memory.TryWrite(i * 4, 0x600u + ((uint)i * 4));
            Memory.TryWrite(0x600 + (i * 4), 0xFEEB_F4E6u);
        }
    }

    /// <summary>Real mode at a code segment.</summary>
    public void EnterReal(ushort code)
    {
        var state = new ProcessorState { Cr0 = 0x10, Cr4 = 0x4_0600, Xcr0 = 7, Flags = 0x202 };
        for (int i = 0; i < 6; i++)
        {
            state.Segments[i] = new SegmentState(i == 1 ? code : (ushort)0, i == 1 ? (ulong)code << 4 : 0, 0xFFFF, i == 1 ? 0x9Bu : 0x93);
        }
        state.TaskRegister = new SegmentState(0, 0, 0xFFFF, 0x8B);
        state.LocalDescriptorTable = new SegmentState(0, 0, 0xFFFF, 0x82);
        state.InterruptDescriptorTable = new TableRegister(0, 0x3FF);
        Partition.Vcpus[0].RestoreState(state);
    }

    /// <summary>
    /// Runs processor 0 from its RIP until an exception or the exit port ends it. Returns the vector, or -1 for the exit port, -2 when it was stopped from
    /// outside, -3 when it shut down.
    /// </summary>
    public int Run()
    {
        Volatile.Write(ref _executing, 1);
        ProcessorExit exit = Processor.RunLoop();
        if (Processor.Failure is { } failure)
        {
            throw new InvalidOperationException("the engine failed", failure);
        }
        if (exit != ProcessorExit.Stopped)
        {
            return -3;
        }
        if (Volatile.Read(ref _executing) != 0)
        {
            return -2;
        }
        if ((B->Cr0 & 1) == 0 && B->Rip is >= 0x600 and < 0xA00)
        {
            return (int)(B->Rip - 0x600) / 4;
        }
        ulong handler = B->Rip - Window - Handlers;
        return handler < 0x1000 ? (int)(handler / 16) : -1;
    }

    /// <summary>What the last exception pushed: RIP, RFLAGS, RSP, error code.</summary>
    public (ulong Rip, ulong Flags, ulong Rsp, ulong ErrorCode) Frame(int vector)
    {
        Memory.TryRead(ExceptionStack + 0x1000 - 40, out ulong rip);
        Memory.TryRead(ExceptionStack + 0x1000 - 24, out ulong flags);
        Memory.TryRead(ExceptionStack + 0x1000 - 16, out ulong rsp);
        Memory.TryRead(ExceptionStack + 0x1000 - 48, out ulong error);
        return (rip, flags, rsp, vector is 8 or 10 or 11 or 12 or 13 or 14 or 17 ? error : 0);
    }

    public void ReadPort(ushort port, Span<byte> data) => data.Fill(0xFF);

    public void WritePort(ushort port, ReadOnlySpan<byte> data)
    {
        if (port == ExitPort)
        {
            Volatile.Write(ref _executing, 0);
            Processor.RequestStop();
            return;
        }
        ulong value = 0;
        for (int i = 0; i < data.Length; i++)
        {
            value |= (ulong)data[i] << (i * 8);
        }
        OnPort?.Invoke(port, value);
    }

    public void ReadMemory(ulong address, Span<byte> data)
    {
        for (int i = 0; i < data.Length; i++)
        {
            data[i] = (byte)((address + (ulong)i) * 7);
        }
    }

    public void WriteMemory(ulong address, ReadOnlySpan<byte> data)
    {
    }

    public void Dispose()
    {
        Partition.Dispose();
        Memory.Dispose();
    }
}
