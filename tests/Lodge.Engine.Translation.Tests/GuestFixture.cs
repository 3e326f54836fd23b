using System.Runtime.InteropServices;
using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Interrupts;
using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>A processor with its registers, a little RAM and a bus that records, for tests of what C# executes.</summary>
internal sealed unsafe class GuestFixture : IMachineBus, IDisposable
{
    private readonly void* _block = NativeMemory.AlignedAlloc((nuint)sizeof(ProcessorBlock) + 4096, 4096);

    public GuestFixture(CpuModelName model = CpuModelName.V3, ulong memory = 4 << 20, CpuModel? processor = null)
    {
        NativeMemory.Clear(_block, (nuint)sizeof(ProcessorBlock));
        Memory = new GuestMemory(memory);
        Partition.Options = new PartitionOptions(1, processor ?? CpuModel.Create(model, 1), Memory, this, new MachineClock());
        Partition.Timers = _timers = new TimerService(Partition.Options.Clock);
        Vcpu = new Vcpu(Partition, (ProcessorBlock*)_block);
        Partition.Vcpus = [Vcpu];
        Vcpu.Apic = new LocalApic(Vcpu, Partition, _timers) { MemoryBase = ulong.MaxValue };
    }

    private readonly TimerService _timers;

    public TranslationPartition Partition { get; } = new();

    public GuestMemory Memory { get; }

    public Vcpu Vcpu { get; }

    public ProcessorBlock* B => Vcpu.B;

    public List<(ulong Address, int Size)> MemoryReads { get; } = [];

    public List<(ulong Address, int Size)> MemoryWrites { get; } = [];

    /// <summary>64-bit flat mode at CPL 0 with 4-level paging from the PML4 at <paramref name="cr3"/>.</summary>
    public void EnterLongMode(ulong cr3, ulong cr4 = 0, uint cpl = 0)
    {
        B->Cr0 = Cr0Bits.Pg | Cr0Bits.Pe | Cr0Bits.Wp | Cr0Bits.Et;
        B->Cr4 = Cr4Bits.Pae | cr4;
        B->Cr3 = cr3;
        B->Efer = EferBits.Lme | EferBits.Lma | EferBits.Nxe;
        B->Cpl = cpl;
        B->Xcr0 = 7;
        Vcpu.Segment(Seg.Cs)->Attributes = 0xA09B;
        for (int i = 0; i < 6; i++)
        {
            if (i != Seg.Cs)
            {
                Vcpu.Segment(i)->Attributes = 0xC093;
                Vcpu.Segment(i)->Limit = uint.MaxValue;
            }
        }
    }

    /// <summary>32-bit flat protected mode without paging.</summary>
    public void EnterProtectedMode()
    {
        B->Cr0 = Cr0Bits.Pe | Cr0Bits.Et;
        for (int i = 0; i < 6; i++)
        {
            Vcpu.Segment(i)->Attributes = i == Seg.Cs ? 0xC09Bu : 0xC093u;
            Vcpu.Segment(i)->Limit = uint.MaxValue;
            Vcpu.Segment(i)->Base = 0;
        }
    }

    public void Write64(ulong address, ulong value) => Assert.True(Memory.TryWrite(address, value));

    public ulong Read64(ulong address)
    {
        Assert.True(Memory.TryRead(address, out ulong value));
        return value;
    }

    /// <summary>Decodes and executes one system instruction with its availability check, as the run loop does.</summary>
    public void Execute(params byte[] code)
    {
        Instruction instruction = Decode(code);
        Vcpu.CheckAvailability(instruction);
        Assert.True(Vcpu.TryExecuteSystem(instruction));
    }

    /// <summary>One instruction in the current code width.</summary>
    public Instruction Decode(byte[] code)
    {
        var decoder = Decoder.Create(Vcpu.CodeBits, new ByteArrayCodeReader(code));
        decoder.IP = B->Rip;
        decoder.Decode(out Instruction instruction);
        Assert.False(instruction.IsInvalid);
        return instruction;
    }

    public GuestFault Faults(Vector vector, params byte[] code)
    {
        GuestFault fault = Assert.Throws<GuestFault>(() => Execute(code));
        Assert.Equal(vector, fault.Vector);
        return fault;
    }

    public void ReadPort(ushort port, Span<byte> data) => data.Fill(0xFF);

    public void WritePort(ushort port, ReadOnlySpan<byte> data)
    {
    }

    public void ReadMemory(ulong address, Span<byte> data)
    {
        MemoryReads.Add((address, data.Length));
        data.Fill(0xFF);
    }

    public void WriteMemory(ulong address, ReadOnlySpan<byte> data) => MemoryWrites.Add((address, data.Length));

    public void Dispose()
    {
        _timers.Dispose();
        Memory.Dispose();
        NativeMemory.AlignedFree(_block);
    }
}
