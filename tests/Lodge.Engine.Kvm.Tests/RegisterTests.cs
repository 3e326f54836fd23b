using System.Buffers.Binary;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Registers;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Xunit;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>Register sets through KVM and back. What the kernel or the architecture normalizes is left out where it is made or compared, with the reason.</summary>
public sealed class RegisterTests
{
    private const uint Timestamp = 0x10, Deadline = 0x6E0, ApicBase = 0x1B, Efer = 0xC000_0080, SystemTime = 0x4B56_4D01, WallClock = 0x4B56_4D00, EoiEnable = 0x4B56_4D04;

    // Registers whose any value (of that mask) is legal: SYSENTER, STAR, FMASK, and canonical addresses.
    private static readonly (uint Index, ulong Mask, bool Canonical)[] s_free =
    [
        (0x174, 0xFFFF_FFFF, false), (0x175, ulong.MaxValue, true), (0x176, ulong.MaxValue, true), (0xC000_0081, ulong.MaxValue, false), (0xC000_0082, ulong.MaxValue, true),
        (0xC000_0083, ulong.MaxValue, true), (0xC000_0084, 0xFFFF_FFFF, false), (0xC000_0102, ulong.MaxValue, true), (0x3B, ulong.MaxValue, false),
    ];

    private static (KvmPartition Partition, GuestMemory Memory, CpuModel Model) Create(int processors = 1)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        var memory = new GuestMemory(4 << 20);
        var engine = new KvmEngine();
        CpuModel model = CpuModel.Create(CpuModelName.Host, processors, engine.CpuOffer);
        return ((KvmPartition)engine.CreatePartition(new PartitionOptions(processors, model, memory, new SilentBus(), new MachineClock())), memory, model);
    }

    private static ulong Any(Random random) => (ulong)random.NextInt64(long.MinValue, long.MaxValue);

    private static ulong Canonical(ulong value) => (ulong)((long)(value << 16) >> 16);

    private static ProcessorState RandomState(Random random, ProcessorState reset, CpuModel model, string mode)
    {
        ulong Any() => RegisterTests.Any(random);
        bool longMode = mode == "long", real = mode == "real";
        var state = new ProcessorState
        {
            InstructionPointer = longMode ? Canonical(Any()) : (uint)Any(),
            Flags = (Any() & 0x25_4CD5) | 2, // neither VM nor VIP, VIF, TF, RF, IF: those go with other state
            Cr0 = 0x10 | (Any() & 0x0005_0022) | (real ? 0 : 1UL) | (mode is "pae" or "long" ? 1UL << 31 : 0),
            Cr2 = longMode ? Any() : (uint)Any(),
            Cr3 = Any() & ((1UL << model.PhysicalBits) - 1) & ~0xFFFUL & (longMode ? ulong.MaxValue : 0xFFFF_F000),
            Cr4 = (Any() & 0x6D8) | (mode is "pae" or "long" ? 0x20UL : 0),
            Xcr0 = 1,
            Dr6 = 0xFFFF_0FF0 | (Any() & 0xE00F),
            Dr7 = 0x400 | (Any() & 0xFFFF_0000),
            DebugAddresses = longMode ? [Any(), Any(), Any(), Any()] : [(uint)Any(), (uint)Any(), (uint)Any(), (uint)Any()],
            GlobalDescriptorTable = new TableRegister(longMode ? Canonical(Any()) : (uint)Any(), (ushort)Any()),
            InterruptDescriptorTable = new TableRegister(longMode ? Canonical(Any()) : (uint)Any(), (ushort)Any()),
            Activity = random.Next(4) == 0 ? ActivityState.Halted : ActivityState.Active,
            NmiBlocked = random.Next(2) != 0,
            InterruptShadow = random.Next(3) == 0,
        };
        state.DebugShadow = state.InterruptShadow && random.Next(2) != 0;
        for (int i = 0; i < 16; i++)
        {
            state.GeneralRegisters[i] = Any();
        }
        if (real)
        {
            for (int i = 0; i < 6; i++)
            {
                ushort selector = (ushort)Any();
                state.Segments[i] = new SegmentState(selector, (ulong)selector << 4, 0xFFFF, i == 1 ? 0x9Bu : 0x93);
            }
        }
        else
        {
            SegmentState Data() => new((ushort)((Any() & 0xFFF8) | 8), longMode ? 0 : (uint)Any(), uint.MaxValue, 0xC093);
            state.Segments = [Data(), new SegmentState((ushort)((Any() & 0xFFF8) | 8), 0, uint.MaxValue, longMode ? 0xA09Bu : 0xC09B), Data(), Data(), Data(), Data()];
            if (longMode)
            {
                state.Segments[4] = state.Segments[4] with { Base = Canonical(Any()) };
                state.Segments[5] = state.Segments[5] with { Base = Canonical(Any()) };
            }
        }
        state.TaskRegister = new SegmentState((ushort)(Any() & 0xFFF8), longMode ? Canonical(Any()) : (uint)Any(), 0x67 + (uint)random.Next(1000), 0x8B);
        state.LocalDescriptorTable = new SegmentState((ushort)(Any() & 0xFFF8), longMode ? Canonical(Any()) : (uint)Any(), (uint)random.Next(0x10000), 0x82);
        state.ModelSpecificRegisters[Efer] = longMode ? 0x500 | (Any() & 0x801) : Any() & 0x801;
        state.ModelSpecificRegisters[ApicBase] = reset.ModelSpecificRegisters[ApicBase];
        state.PageDirectoryPointers = mode == "pae" ? [.. Enumerable.Range(0, 4).Select(_ => ((Any() & ((1UL << model.PhysicalBits) - 1) & ~0xFFFUL) | 1) & 0xF_FFFF_F001)] : null;
        foreach ((uint index, ulong mask, bool canonical) in s_free)
        {
            ulong value = Any() & mask;
            state.ModelSpecificRegisters[index] = canonical ? Canonical(value) : value;
        }
        foreach (uint index in Enumerable.Range(0x200, 16).Select(i => (uint)i))
        {
            ulong pages = Any() & ((1UL << model.PhysicalBits) - 1) & ~0xFFFUL;
            state.ModelSpecificRegisters[index] = (index & 1) == 0 ? pages | new ulong[] { 0, 1, 4, 5, 6 }[random.Next(5)] : pages | (Any() & 0x800);
        }
        state.ModelSpecificRegisters[0x277] = 0x0007_0406_0001_0406;
        state.ModelSpecificRegisters[0x250] = 0x0606_0004_0501_0606;
        state.ModelSpecificRegisters[0x26F] = 0x0505_0505_0606_0606;
        state.ModelSpecificRegisters[0x2FF] = 0xC06;
        state.ModelSpecificRegisters[Timestamp] = Any() >> 8;
        state.ModelSpecificRegisters[SystemTime] = 0x1001;
        state.ModelSpecificRegisters[EoiEnable] = 0x2001;
        reset.LocalApic.CopyTo(state.LocalApic, 0);
        Span<byte> apic = state.LocalApic;
        void Put(int register, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(state.LocalApic.AsSpan(register), value);
        uint priority = (uint)Any() & 0xFF;
        Put(0x80, priority);
        state.Cr8 = priority >> 4;
        Put(0xD0, (uint)Any() & 0xFF00_0000);
        Put(0xE0, 0xFFFF_FFFF);
        Put(0xF0, 0x100 | ((uint)Any() & 0xFF));
        Put(0x310, (uint)Any() & 0xFF00_0000);
        Put(0x320, ((uint)Any() & 0xFF) | 0x1_0000); // masked timer
        Put(0x350, ((uint)Any() & 0xFF) | 0x700);
        Put(0x360, 0x400);
        Put(0x370, ((uint)Any() & 0xFF) | 0x1_0000);
        Put(0x3E0, (uint)Any() & 0xB);
        Put(0x100 + 0x70, (uint)Any()); // in service
        Put(0x180 + 0x70, (uint)Any());
        Put(0x200 + 0x60, (uint)Any()); // requested
        // Only where neither shadow nor blocking would hold it.
        if (random.Next(3) == 0)
        {
            state.PendingEvent = random.Next(3) switch
            {
                0 => new PendingEvent(PendingEventKind.Exception, 13, (uint)random.Next(0x10000)),
                1 => new PendingEvent(PendingEventKind.Exception, 6),
                _ => new PendingEvent(PendingEventKind.Interrupt, (byte)random.Next(32, 256)),
            };
        }
        byte[] area = state.ExtendedState;
        random.NextBytes(area.AsSpan(32, 128)); // x87 registers, of 80 bits each
        for (int i = 0; i < 8; i++)
        {
            area.AsSpan(42 + (i * 16), 6).Clear();
        }
        random.NextBytes(area.AsSpan(160, 256)); // XMM
        area[4] = (byte)random.Next(256); // tags
        BinaryPrimitives.WriteUInt32LittleEndian(area.AsSpan(24), (uint)Any() & 0xFFBF);
        BinaryPrimitives.WriteUInt64LittleEndian(area.AsSpan(512), 3);
        if ((model.SupportedXcr0 & CpuModel.ComponentAvx) != 0)
        {
            random.NextBytes(area.AsSpan(576, 256));
            area[512] |= 4;
            state.Xcr0 = 7;
        }
        return state;
    }

    // KVM without hardware virtualization (PVM) lets the guest have the host's counter as it is, though it takes an offset.
    private static bool CountersMove(KvmProcessorHandle handle)
    {
        handle.TryGetMsr(Timestamp, out ulong before);
        handle.TrySetTscOffset((1UL << 60) - before);
        return handle.TryGetMsr(Timestamp, out ulong after) && after >= 1UL << 60;
    }

    // Likewise it pages in long mode only.
    private static bool HasPaePaging(RegisterTransfer transfer, KvmProcessorHandle handle)
    {
        ProcessorState state = transfer.Store(handle);
        (state.Cr0, state.Cr4, state.PageDirectoryPointers) = (0x8000_0011, 0x20, [1, 1, 1, 1]);
        transfer.Load(handle, 0, state);
        return (transfer.Store(handle).Cr0 >> 31 & 1) != 0;
    }

    private static Dictionary<string, object?> Fields(ProcessorState s)
    {
        var fields = new Dictionary<string, object?>
        {
            ["rip"] = s.InstructionPointer,
            ["rflags"] = s.Flags,
            ["cr0"] = s.Cr0,
            ["cr2"] = s.Cr2,
            ["cr3"] = s.Cr3,
            ["cr4"] = s.Cr4,
            ["cr8"] = s.Cr8,
            ["xcr0"] = s.Xcr0,
            ["dr6"] = s.Dr6,
            ["dr7"] = s.Dr7,
            ["gdtr"] = s.GlobalDescriptorTable,
            ["idtr"] = s.InterruptDescriptorTable,
            ["ldtr"] = s.LocalDescriptorTable,
            ["tr"] = s.TaskRegister,
            ["activity"] = s.Activity,
            ["nmi blocked"] = s.NmiBlocked,
            ["shadow"] = s.InterruptShadow,
            ["debug shadow"] = s.DebugShadow,
            ["event"] = s.PendingEvent,
            ["pkru"] = s.Pkru,
        };
        for (int i = 0; i < 16; i++)
        {
            fields[$"r{i}"] = s.GeneralRegisters[i];
        }
        for (int i = 0; i < 6; i++)
        {
            fields[$"segment {i}"] = s.Segments[i];
        }
        for (int i = 0; i < 4; i++)
        {
            fields[$"dr{i}"] = s.DebugAddresses[i];
            fields[$"pdpte {i}"] = s.PageDirectoryPointers?[i];
        }
        foreach ((uint index, ulong value) in s.ModelSpecificRegisters)
        {
            fields[$"MSR {index:X}"] = value;
        }
        for (int i = 0; i < 1024; i += 16)
        {
            fields[$"APIC {i:X}"] = BinaryPrimitives.ReadUInt32LittleEndian(s.LocalApic.AsSpan(i));
        }
        for (int i = 0; i < s.ExtendedState.Length; i += 16)
        {
            fields[$"extended {i}"] = Convert.ToHexString(s.ExtendedState.AsSpan(i, Math.Min(16, s.ExtendedState.Length - i)));
        }
        return fields;
    }

    // What need not come back: the counter goes on; the processor priority, version and ID are computed; the mask of MXCSR is the processor's.
    private static readonly string[] s_normalized = [$"MSR {Timestamp:X}", "APIC A0", "APIC 30", "APIC 20", "extended 16"];

    [Theory]
    [InlineData("real")]
    [InlineData("flat")]
    [InlineData("pae")]
    [InlineData("long")]
    public void Every_register_comes_back(string mode)
    {
        (KvmPartition partition, GuestMemory memory, CpuModel model) = Create();
        using (memory)
        using (partition)
        {
            RegisterTransfer transfer = partition.Registers;
            var handle = ((KvmProcessor)partition.Processors[0]).Handle;
            ProcessorState reset = transfer.Store(handle);
            bool countersMove = CountersMove(handle);
            // AMD's SYSENTER is for 32-bit code: KVM keeps as much of its pointers.
            ulong sysenter = model.IsAmd ? uint.MaxValue : ulong.MaxValue;
            Assert.SkipWhen(mode == "pae" && !HasPaePaging(transfer, handle), "this host's KVM has no PAE paging outside of long mode");
            var wrong = new SortedSet<string>();
            for (int seed = 0; seed < 100; seed++)
            {
                ProcessorState state = RandomState(new Random(seed), reset, model, mode);
                state.DebugShadow &= !model.IsAmd; // whose one shadow does not tell
                state.ModelSpecificRegisters[0x175] &= sysenter;
                state.ModelSpecificRegisters[0x176] &= sysenter;
                Dictionary<string, object?> expected = Fields(state);
                transfer.Load(handle, 0, state);
                ProcessorState stored = transfer.Store(handle);
                Dictionary<string, object?> actual = Fields(stored);
                if (countersMove && stored.ModelSpecificRegisters[Timestamp] - state.ModelSpecificRegisters[Timestamp] > 1UL << 40)
                {
                    wrong.Add($"TSC {state.ModelSpecificRegisters[Timestamp]:X} became {stored.ModelSpecificRegisters[Timestamp]:X} (seed {seed})");
                }
                Assert.Equal(BinaryPrimitives.ReadUInt32LittleEndian(state.ExtendedState.AsSpan(24)), BinaryPrimitives.ReadUInt32LittleEndian(stored.ExtendedState.AsSpan(24)));
                foreach ((string name, object? value) in expected)
                {
                    if (!s_normalized.Contains(name) && !Equals(value, actual.GetValueOrDefault(name)))
                    {
                        wrong.Add($"{name}: {value:X} became {actual.GetValueOrDefault(name):X} (seed {seed})");
                    }
                }
                Assert.True(wrong.Count == 0, string.Join("\n", wrong));
            }
        }
    }
}
