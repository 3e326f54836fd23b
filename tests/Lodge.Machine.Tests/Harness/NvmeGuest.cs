using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Buses;
using Lodge.Machine.Devices.Storage.Nvme;
using Lodge.Machine.Pci;
using Xunit;

namespace Lodge.Machine.Tests.Harness;

/// <summary>A completion queue entry.</summary>
internal readonly record struct NvmeCompletion(uint Result, ushort Head, ushort Queue, ushort Identifier, ushort Status)
{
    /// <summary>Status without the bit that forbids retries.</summary>
    public int Code => Status & 0x7FF;
}

/// <summary>A bus with RAM and an NVMe controller, and a small driver for it.</summary>
internal sealed class NvmeGuest : IDisposable
{
    private readonly ulong _bar;
    private readonly Dictionary<int, Pair> _pairs = [];
    private ulong _next = 0x10_0000;
    private ushort _identifier;

    public NvmeGuest(TestDisk disk, Func<NvmeConfiguration, NvmeConfiguration>? change = null, ulong memory = 8 << 20)
    {
        Memory = new GuestMemory(memory);
        var pci = new PciBus(new PciBusConfiguration(
            Bus, Messages, [Line, new RecordedLine(), new RecordedLine(), new RecordedLine()], 16, new PciWindow(0xC000, 0x4000),
            [new PciWindow(0xC000_0000, 0x2000_0000)], new PciWindow(0x10_0000_0000, 1UL << 36)));
        Bus.Attach(pci);
        var configuration = new NvmeConfiguration(disk) { Serial = "LODGE-0042", Queues = 3 };
        Controller = new NvmeController("nvme0", Memory, change?.Invoke(configuration) ?? configuration);
        pci.Add(Controller, 4);
        pci.AssignResources();
        Config(PciRegisters.Command, 6, 2);
        _bar = (Config(0x10) & ~15u) | ((ulong)Config(0x14) << 32);
    }

    public GuestMemory Memory { get; }

    public MachineBus Bus { get; } = new();

    public RecordedMessages Messages { get; } = new();

    public RecordedLine Line { get; } = new();

    public NvmeController Controller { get; }

    /// <summary>Address of the shadow doorbells; 0: the registers are written.</summary>
    public ulong Shadow { get; set; }

    /// <summary>Doorbell registers written.</summary>
    public int DoorbellsRung { get; private set; }

    public ulong Bar => _bar;

    /// <summary>Places the registers where this guest looks for them, as firmware does after a restored state moved them.</summary>
    public void PlaceRegisters()
    {
        Config(0x10, (uint)_bar);
        Config(0x14, (uint)(_bar >> 32));
        Config(PciRegisters.Command, 6, 2);
    }

    public uint Config(int register)
    {
        Span<byte> data = stackalloc byte[4];
        Bus.ReadMemory(MemoryMap.EcamBase + (ulong)((4 << 15) | register), data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    public void Config(int register, uint value, int width = 4)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Bus.WriteMemory(MemoryMap.EcamBase + (ulong)((4 << 15) | register), data[..width]);
    }

    public uint Read(int register)
    {
        Span<byte> data = stackalloc byte[4];
        Bus.ReadMemory(_bar + (ulong)register, data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    public void Write(int register, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Bus.WriteMemory(_bar + (ulong)register, data);
    }

    public ulong Allocate(ulong length)
    {
        ulong at = _next;
        _next += (length + 4095) & ~4095UL;
        return at;
    }

    public void EnableMsix()
    {
        for (uint vector = 0; vector < Controller.Msix!.Vectors; vector++)
        {
            Write(0x2000 + ((int)vector * 16), 0xFEE0_0000);
            Write(0x2008 + ((int)vector * 16), 0x40 + vector);
            Write(0x200C + ((int)vector * 16), 0);
        }
        for (uint at = Config(0x34) & 0xFF; at != 0; at = (Config((int)at) >> 8) & 0xFF)
        {
            if ((Config((int)at) & 0xFF) == 0x11)
            {
                Config((int)at + 2, 0x8000, 2);
            }
        }
    }

    /// <summary>Resets, and enables with an admin queue pair.</summary>
    public void Enable(int entries = 16, bool msix = true)
    {
        Disable();
        if (msix)
        {
            EnableMsix();
        }
        _pairs.Clear();
        Shadow = 0;
        Pair admin = _pairs[0] = new Pair(Allocate(4096), Allocate(4096), entries, entries);
        Clear(admin);
        Write(0x24, (uint)((entries - 1) | ((entries - 1) << 16)));
        Write(0x28, (uint)admin.Submission);
        Write(0x2C, 0);
        Write(0x30, (uint)admin.Completion);
        Write(0x34, 0);
        Write(0x14, 0x0046_0001);
        Wait.Until(() => (Read(0x1C) & 1) != 0, "ready");
    }

    public void Disable()
    {
        Write(0x14, 0);
        Wait.Until(() => (Read(0x1C) & 1) == 0, "not ready");
    }

    public NvmeCompletion CreateQueues(int id, int entries = 32, int completionEntries = 32)
    {
        Pair pair = new(Allocate((ulong)entries * 64), Allocate((ulong)completionEntries * 16), entries, completionEntries);
        Clear(pair);
        NvmeCompletion done = Admin(5, 0, pair.Completion, 0, (uint)(id | ((completionEntries - 1) << 16)), (uint)(3 | (id << 16)));
        if (done.Status == 0)
        {
            done = Admin(1, 0, pair.Submission, 0, (uint)(id | ((entries - 1) << 16)), (uint)(1 | (id << 16)));
        }
        if (done.Status == 0)
        {
            _pairs[id] = pair;
        }
        return done;
    }

    /// <summary>Creates I/O queues without a look at whether it works, at places that are used again each time.</summary>
    public void AssumeQueues(params int[] ids)
    {
        _next = 0x20_0000;
        foreach (int id in ids)
        {
            Pair pair = _pairs[id] = new Pair(Allocate(2048), Allocate(512), 32, 32);
            Clear(pair);
            Submit(0, 5, 0, pair.Completion, 0, (uint)(id | (31 << 16)), (uint)(3 | (id << 16)));
            Submit(0, 1, 0, pair.Submission, 0, (uint)(id | (31 << 16)), (uint)(1 | (id << 16)));
        }
    }

    public NvmeCompletion Admin(byte opcode, uint space, ulong prp1, ulong prp2, params uint[] dwords) => Run(0, opcode, space, prp1, prp2, dwords);

    public NvmeCompletion Run(int queue, byte opcode, uint space, ulong prp1, ulong prp2, params uint[] dwords)
    {
        ushort identifier = Submit(queue, opcode, space, prp1, prp2, dwords);
        NvmeCompletion done = Take(queue);
        Assert.Equal((identifier, queue), (done.Identifier, done.Queue));
        return done;
    }

    /// <summary>A read (opcode 2) or write (1) of blocks.</summary>
    public NvmeCompletion Transfer(byte opcode, ulong block, int blocks, ulong prp1, ulong prp2 = 0, uint control = 0, int queue = 1) =>
        Run(queue, opcode, 1, prp1, prp2, (uint)block, (uint)(block >> 32), (uint)(blocks - 1) | control);

    public ushort Submit(int queue, byte opcode, uint space, ulong prp1, ulong prp2, params uint[] dwords)
    {
        Span<byte> entry = stackalloc byte[64];
        entry.Clear();
        entry[0] = opcode;
        ushort identifier = _identifier++;
        BinaryPrimitives.WriteUInt16LittleEndian(entry[2..], identifier);
        BinaryPrimitives.WriteUInt32LittleEndian(entry[4..], space);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[24..], prp1);
        BinaryPrimitives.WriteUInt64LittleEndian(entry[32..], prp2);
        for (int i = 0; i < dwords.Length; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(entry[(40 + (i * 4))..], dwords[i]);
        }
        Submit(queue, entry);
        return identifier;
    }

    public void Submit(int queue, ReadOnlySpan<byte> entry)
    {
        Pair pair = _pairs[queue];
        Memory.TryWrite(pair.Submission + ((ulong)pair.Tail * 64), entry);
        int old = pair.Tail;
        pair.Tail = (pair.Tail + 1) % pair.Entries;
        Ring(queue * 2, old, pair.Tail);
    }

    public bool TryTake(int queue, out NvmeCompletion completion)
    {
        Pair pair = _pairs[queue];
        ulong at = pair.Completion + ((ulong)pair.Head * 16);
        Memory.TryRead(at + 12, out uint last);
        completion = default;
        if ((last >> 16 & 1) == 1 != pair.Phase)
        {
            return false;
        }
        Memory.TryRead(at, out uint result);
        Memory.TryRead(at + 8, out uint where);
        completion = new NvmeCompletion(result, (ushort)where, (ushort)(where >> 16), (ushort)last, (ushort)(last >> 17));
        int old = pair.Head;
        pair.Head++;
        if (pair.Head == pair.CompletionEntries)
        {
            pair.Head = 0;
            pair.Phase = !pair.Phase;
        }
        if (!pair.HoldHead)
        {
            Ring((queue * 2) + 1, old, pair.Head);
        }
        return true;
    }

    public NvmeCompletion Take(int queue)
    {
        NvmeCompletion completion = default;
        Wait.Until(() => TryTake(queue, out completion), $"completion in queue {queue}");
        return completion;
    }

    /// <summary>Whether the head doorbell is not rung for what is taken.</summary>
    public void HoldHead(int queue, bool hold)
    {
        Pair pair = _pairs[queue];
        pair.HoldHead = hold;
        if (!hold)
        {
            Ring((queue * 2) + 1, 0, pair.Head);
        }
    }

    public byte[] Ram(ulong address, int length)
    {
        byte[] bytes = new byte[length];
        Assert.True(Memory.TryRead(address, bytes));
        return bytes;
    }

    public byte[] Save()
    {
        var writer = new StateWriter();
        Controller.Save(writer);
        return writer.ToArray();
    }

    public void Dispose()
    {
        Controller.Stop();
        Memory.Dispose();
    }

    /// <summary>Rings a doorbell as Linux does: with shadow doorbells only when the controller asks for it.</summary>
    private void Ring(int index, int old, int value)
    {
        if (Shadow != 0 && index > 1)
        {
            Memory.TryWrite(Shadow + ((ulong)index * 4), (uint)value);
            Interlocked.MemoryBarrier();
            Memory.TryRead(Shadow + 4096 + ((ulong)index * 4), out uint wanted);
            if ((ushort)(value - (int)wanted - 1) >= (ushort)(value - old))
            {
                return;
            }
        }
        DoorbellsRung++;
        Write(0x1000 + (index * 4), (uint)value);
    }

    private void Clear(Pair pair)
    {
        Memory.TryWrite(pair.Submission, new byte[pair.Entries * 64]);
        Memory.TryWrite(pair.Completion, new byte[pair.CompletionEntries * 16]);
    }

    private sealed class Pair(ulong submission, ulong completion, int entries, int completionEntries)
    {
        public ulong Submission => submission;

        public ulong Completion => completion;

        public int Entries => entries;

        public int CompletionEntries => completionEntries;

        public int Tail { get; set; }

        public int Head { get; set; }

        public bool Phase { get; set; } = true;

        public bool HoldHead { get; set; }
    }
}
