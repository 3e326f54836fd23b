using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Processor;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Translation.Tests.Harness;

/// <summary>
/// A small machine for processor tests: RAM, 64-bit mode with identity page tables (4 KiB pages, supervisor and user), code at <see cref="CodeBase"/>,
/// data at <see cref="DataBase"/>, and a port (0xF4) that ends the run.
/// </summary>
internal sealed unsafe class FlatGuest : IMachineBus, IDisposable
{
    public const ulong CodeBase = 0x10_0000, DataBase = 0x20_0000, StackTop = 0x30_0000, Tables = 0x8_0000;
    public readonly GuestMemory Memory = new(16 << 20);
    public readonly TranslationPartition Partition;
    public readonly List<(ushort Port, ulong Value)> Output = [];
    private Action? _onExitPort;

    public FlatGuest(int processors = 1, bool userMode = false, CpuModelName model = CpuModelName.Host)
    {
        var clock = new MachineClock();
        clock.Start();
        Partition = (TranslationPartition)new TranslationEngine().CreatePartition(new PartitionOptions(processors, CpuModel.Create(model, processors), Memory, this, clock));
        // PML4 -> PDPT -> PD -> 8 page tables for 16 MiB.
        Memory.TryWrite(Tables, Tables + 0x1000 | 7);
        Memory.TryWrite(Tables + 0x1000, Tables + 0x2000 | 7);
        for (ulong i = 0; i < 8; i++)
        {
            Memory.TryWrite(Tables + 0x2000 + (i * 8), (Tables + 0x3000 + (i * 0x1000)) | 7);
            for (ulong k = 0; k < 512; k++)
            {
                Memory.TryWrite(Tables + 0x3000 + (i * 0x1000) + (k * 8), (((i * 512) + k) << 12) | 7);
            }
        }
        for (int i = 0; i < processors; i++)
        {
            ProcessorState state = LongMode(userMode);
            if (!Partition.Vcpus[i].Model.Has(CpuFeature.Xsave))
            {
                (state.Cr4, state.Xcr0) = (state.Cr4 & ~(1UL << 18), 3);
            }
            Partition.Vcpus[i].RestoreState(state);
        }
        Processor = Partition.Vcpus[0];
    }

    public Vcpu Processor { get; }

    public static ProcessorState LongMode(bool user)
    {
        var state = new ProcessorState
        {
            InstructionPointer = CodeBase,
            Cr0 = 0x8005_0033,
            Cr3 = Tables,
            Cr4 = 0x4_0620, // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
            Xcr0 = 7,
            Flags = 2,
        };
        state.ModelSpecificRegisters[0xC0000080] = 0xD01;
        uint dpl = user ? 0x60u : 0;
        ushort rpl = user ? (ushort)3 : (ushort)0;
        state.Segments[1] = new SegmentState((ushort)(0x08 | rpl), 0, uint.MaxValue, 0xA09B | dpl);
        foreach (int i in (int[])[0, 2, 3, 4, 5])
        {
            state.Segments[i] = new SegmentState((ushort)(0x10 | rpl), 0, uint.MaxValue, 0xC093 | dpl);
        }
        state.TaskRegister = new SegmentState(0x20, 0x1000, 0x67, 0x8B);
        state.LocalDescriptorTable = new SegmentState(0, 0, 0, 0x10082);
        state.GeneralRegisters[4] = StackTop;
        return state;
    }

    /// <summary>Assembles and loads at <see cref="CodeBase"/>.</summary>
    public void Load(Action<Assembler> program, ulong at = CodeBase)
    {
        var assembler = new Assembler(64);
        program(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        Memory.TryWrite(at, stream.ToArray());
    }

    /// <summary>
    /// Makes handlers for all exceptions and for <paramref name="interrupt"/> (from CPL 3 as well, on a stack of their own): each outputs to port 0xE0 its vector, the two
    /// lowest words of its stack and DR6, and ends the run.
    /// </summary>
    public void InstallHandlers(byte interrupt = 0x80)
    {
        const ulong Gdt = 0x4000, Idt = 0x5000, TaskState = 0x1000;
        ulong[] descriptors = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
        for (int i = 0; i < descriptors.Length; i++)
        {
            Memory.TryWrite(Gdt + ((ulong)i * 8), descriptors[i]);
        }
        Memory.TryWrite(TaskState + 4, StackTop - 0x1000); // RSP0
        foreach (int vector in (int[])[.. Enumerable.Range(0, 32), interrupt])
        {
            ulong handler = HandlerAddress(vector);
            Memory.TryWrite(Idt + ((ulong)vector * 16), (handler & 0xFFFF) | (0x08UL << 16) | (0xEE00UL << 32) | ((handler >> 16) << 48));
            Load(
                a =>
                {
                    a.mov(eax, vector);
                    a.@out(0xE0, eax);
                    a.pop(rax);
                    a.@out(0xE0, eax);
                    a.pop(rax);
                    a.@out(0xE0, eax);
                    a.mov(rax, dr6);
                    a.@out(0xE0, eax);
                    a.@out(0xF4, eax);
                    a.hlt();
                },
                handler);
        }
        ProcessorState state = Processor.SaveState();
        state.GlobalDescriptorTable = new TableRegister(Gdt, 0xFFF);
        state.InterruptDescriptorTable = new TableRegister(Idt, 0xFFF);
        state.TaskRegister = new SegmentState(0x20, TaskState, 0x67, 0x8B);
        Processor.RestoreState(state);
    }

    /// <summary>Where <see cref="InstallHandlers"/> puts a handler.</summary>
    public static ulong HandlerAddress(int vector) => 0x15_0000 + ((ulong)vector * 64);

    /// <summary>Ends the program: OUT 0xF4, EAX.</summary>
    public static void Exit(Assembler a) => a.@out(0xF4, eax);

    /// <summary>Runs processor 0 until the exit port is written.</summary>
    public ProcessorExit Run()
    {
        _onExitPort = Partition.Vcpus[0].RequestStop;
        ProcessorExit exit = Processor.RunLoop();
        if (Processor.Failure is { } failure)
        {
            throw new InvalidOperationException("engine failed", failure);
        }
        return exit;
    }

    public void ReadPort(ushort port, Span<byte> data) => data.Fill(0xFF);

    public void WritePort(ushort port, ReadOnlySpan<byte> data)
    {
        ulong value = 0;
        for (int i = 0; i < data.Length; i++)
        {
            value |= (ulong)data[i] << (i * 8);
        }
        lock (Output)
        {
            Output.Add((port, value));
        }
        if (port == 0xF4)
        {
            _onExitPort?.Invoke();
        }
    }

    public void ReadMemory(ulong address, Span<byte> data) => data.Fill(0xFF);

    public void WriteMemory(ulong address, ReadOnlySpan<byte> data)
    {
    }

    public void Dispose()
    {
        Partition.Dispose();
        Memory.Dispose();
    }
}
