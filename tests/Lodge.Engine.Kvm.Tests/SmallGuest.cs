using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Xunit;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>A partition with some RAM and a bus that records, into which a test puts code.</summary>
internal sealed class SmallGuest : IDisposable
{
    /// <summary>Where code is put unless a test says otherwise, and where page tables and descriptor tables lie.</summary>
    public const ulong Code = 0x1_0000, Stack = 0x9_0000, PageTables = 0x2_0000, GlobalTable = 0x2_8000, InterruptTable = 0x2_9000, TaskState = 0x2_A000, Data = 0x4_0000;

    /// <summary>The port whose write ends a run.</summary>
    public const byte EndPort = 0xF4;

    public SmallGuest(int processors = 1, ulong memory = 4 << 20, KvmEngine? engine = null, ProcessorOptions? options = null)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        Memory = new GuestMemory(memory);
        Bus = new RecordingBus(this);
        Partition = (KvmPartition)(engine ?? new KvmEngine()).CreatePartition(
            new PartitionOptions(processors, CpuModel.Create(CpuModelName.V1, processors, new KvmEngine().CpuOffer), Memory, Bus, Clock) { Processor = options ?? ProcessorOptions.None });
        Clock.Start();
    }

    public GuestMemory Memory { get; }

    public MachineClock Clock { get; } = new();

    public RecordingBus Bus { get; }

    public KvmPartition Partition { get; }

    public KvmProcessor Processor => (KvmProcessor)Partition.Processors[0];

    /// <summary>Puts code into memory.</summary>
    public void Put(ulong address, int bitness, Action<Assembler> code)
    {
        var assembler = new Assembler(bitness);
        code(assembler);
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), address);
        Assert.True(Memory.TryWrite(address, stream.ToArray()));
    }

    /// <summary>Starts processor 0 in real mode at segment:0.</summary>
    public void RealMode(ulong address = Code, Action<ProcessorState>? change = null)
    {
        ProcessorState state = Processor.GetState();
        state.Segments[1] = new SegmentState((ushort)(address >> 4), address, 0xFFFF, 0x9B);
        state.InstructionPointer = 0;
        state.GeneralRegisters[4] = 0x8000;
        change?.Invoke(state);
        Processor.SetState(state);
    }

    /// <summary>Selectors of <see cref="LongMode"/>'s descriptor table.</summary>
    public const ushort KernelCode = 0x08, KernelData = 0x10, UserData = 0x18 | 3, UserCode = 0x20 | 3, TaskSelector = 0x28;

    /// <summary>
    /// Puts a processor in 64-bit mode, ring 0, at <paramref name="entry"/>: 4 GiB mapped one to one for ring 0 and 3, descriptor table, empty interrupt table
    /// and a task state with the stack for ring 0.
    /// </summary>
    public void LongMode(ulong entry = Code, int processor = 0, Action<ProcessorState>? change = null)
    {
        Memory.TryWrite(PageTables, (PageTables + 0x1000) | 7);
        for (ulong i = 0; i < 4; i++)
        {
            ulong directory = PageTables + 0x2000 + (i << 12);
            Memory.TryWrite(PageTables + 0x1000 + (i * 8), directory | 7);
            for (ulong j = 0; j < 512; j++)
            {
                Memory.TryWrite(directory + (j * 8), (i << 30) | (j << 21) | 0x87);
            }
        }
        ulong[] descriptors = [0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF, 0x0000_8B00_0000_0067 | (TaskState & 0xFF_FFFF) << 16, 0];
        for (int i = 0; i < descriptors.Length; i++)
        {
            Memory.TryWrite(GlobalTable + ((ulong)i * 8), descriptors[i]);
        }
        ulong stack = Stack - ((ulong)processor << 12);
        Memory.TryWrite(TaskState + 4, Stack);
        VirtualProcessor target = Partition.Processors[processor];
        ProcessorState state = target.GetState();
        state.Cr0 = 0x8000_0031;
        state.Cr3 = PageTables;
        state.Cr4 = 0x20;
        state.ModelSpecificRegisters[0xC000_0080] = 0x501;
        var data = new SegmentState(KernelData, 0, uint.MaxValue, 0xC093);
        state.Segments = [data, new SegmentState(KernelCode, 0, uint.MaxValue, 0xA09B), data, data, data, data];
        state.TaskRegister = new SegmentState(TaskSelector, TaskState, 0x67, 0x8B);
        state.GlobalDescriptorTable = new TableRegister(GlobalTable, 0x3F);
        state.InterruptDescriptorTable = new TableRegister(InterruptTable, 0xFFF);
        state.InstructionPointer = entry;
        state.GeneralRegisters[4] = stack;
        state.Flags = 2;
        state.Activity = ActivityState.Active;
        change?.Invoke(state);
        target.SetState(state);
    }

    /// <summary>Puts a 64-bit interrupt gate in the table.</summary>
    public void Gate(int vector, ulong handler)
    {
        ulong at = InterruptTable + ((ulong)vector * 16);
        Memory.TryWrite(at, (handler & 0xFFFF) | ((ulong)KernelCode << 16) | (0x8E00UL << 32) | ((handler >> 16 & 0xFFFF) << 48));
        Memory.TryWrite(at + 8, handler >> 32);
    }

    /// <summary>Reads a 32-bit word of the guest's memory.</summary>
    public uint Word(ulong address) => Memory.TryRead(address, out uint value) ? value : throw new InvalidOperationException();

    /// <summary>Runs processor 0 until the guest ends it by the port.</summary>
    public void RunToEnd()
    {
        ProcessorExit exit = Run();
        Assert.True(exit == ProcessorExit.Stopped && Bus.Ended, $"{exit}: {Processor.FailureReason}{Where()}");
    }

    /// <summary>Runs processor 0; fails when that takes so long that only a hang explains it.</summary>
    public ProcessorExit Run()
    {
        bool late = false;
        using var watchdog = new Timer(_ =>
        {
            late = true;
            Processor.Stop();
        }, null, TimeSpan.FromSeconds(60), Timeout.InfiniteTimeSpan);
        ProcessorExit exit = Processor.Run();
        Assert.False(late, $"the guest does not end{Where()}");
        return exit;
    }

    /// <summary>Has ring 0 enter ring 3 at <paramref name="user"/>, where I/O is allowed.</summary>
    public void PutEntryToRingThree(ulong user) => Put(Code, 64, a =>
    {
        a.push((int)UserData);
        a.push((int)Stack - 0x2000);
        a.push(0x3002);
        a.push((int)UserCode);
        a.push((int)user);
        a.iretq();
    });

    private string Where()
    {
        ProcessorState state = Processor.GetState();
        return $"; at {state.Segments[1].Selector:x4}:{state.InstructionPointer:x}, cr0 {state.Cr0:x}, log: {string.Join(", ", Bus.Log)}";
    }

    public void Dispose()
    {
        Partition.Dispose();
        Memory.Dispose();
    }
}

/// <summary>Records what the guest does on the bus and answers reads by rule.</summary>
internal sealed class RecordingBus(SmallGuest guest) : IMachineBus
{
    private readonly Lock _gate = new();

    /// <summary>Accesses in order: "out8 1F0 12", "in32 ...", "write 4 FEC00000 12345678".</summary>
    public List<string> Log { get; } = [];

    /// <summary>Last value written to each port.</summary>
    public Dictionary<ushort, ulong> Ports { get; } = [];

    /// <summary>What reads return: port or address and size.</summary>
    public Func<ulong, int, ulong> Answer { get; set; } = static (address, size) => 0x1122_3344_5566_7788 ^ address;

    /// <summary>Called on writes to ports, on the processor's thread.</summary>
    public Action<ushort, ulong>? PortWritten { get; set; }

    /// <summary>Whether to note accesses in <see cref="Log"/>.</summary>
    public bool Recording { get; set; } = true;

    /// <summary>The guest wrote to <see cref="SmallGuest.EndPort"/>.</summary>
    public volatile bool Ended;

    public void ReadPort(ushort port, Span<byte> data)
    {
        Fill(data, Answer(port, data.Length));
        Note($"in{data.Length * 8} {port:X}");
    }

    public void WritePort(ushort port, ReadOnlySpan<byte> data)
    {
        ulong value = Value(data);
        if (port == SmallGuest.EndPort)
        {
            Ended = true;
            foreach (VirtualProcessor processor in guest.Partition.Processors)
            {
                processor.Stop();
            }
            return;
        }
        Note($"out{data.Length * 8} {port:X} {value:X}");
        lock (_gate)
        {
            Ports[port] = value;
        }
        PortWritten?.Invoke(port, value);
    }

    public void ReadMemory(ulong address, Span<byte> data)
    {
        Fill(data, Answer(address, data.Length));
        Note($"read{data.Length * 8} {address:X}");
    }

    public void WriteMemory(ulong address, ReadOnlySpan<byte> data) => Note($"write{data.Length * 8} {address:X} {Value(data):X}");

    private static ulong Value(ReadOnlySpan<byte> data)
    {
        Span<byte> wide = stackalloc byte[8];
        wide.Clear();
        data.CopyTo(wide);
        return BitConverter.ToUInt64(wide);
    }

    private static void Fill(Span<byte> data, ulong value) => BitConverter.GetBytes(value).AsSpan(0, data.Length).CopyTo(data);

    private void Note(string text)
    {
        if (Recording)
        {
            lock (_gate)
            {
                Log.Add(text);
            }
        }
    }
}
