using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation;

/// <summary>
/// A guest of a few instructions, run once and thrown away on another thread while the machine is being made: what the runtime does at the first use of each method and type (binding, static data,
/// instruction tables, the first exception) is then done already when the machine's own processors start.
/// </summary>
internal sealed unsafe class FirstGuest : IMachineBus
{
    private const ulong Tables = 0x1000, Code = 0x4000, Stack = 0x8000, PresentWritable = 3, LargePage = 0x80;

    private static ReadOnlySpan<byte> Program =>
    [
        0xB9, 0x03, 0x00, 0x00, 0x00, // mov ecx, 3
        0x51, // again: push rcx
        0x48, 0x89, 0x0C, 0x25, 0x00, 0x90, 0x00, 0x00, // mov [0x9000], rcx
        0x48, 0x8B, 0x44, 0x24, 0x00, // mov rax, [rsp]
        0x48, 0x3B, 0x04, 0x25, 0x00, 0x90, 0x00, 0x00, // cmp rax, [0x9000]
        0x75, 0x00, // jne +0
        0xE8, 0x1C, 0x00, 0x00, 0x00, // call function
        0x59, // pop rcx
        0xFF, 0xC9, // dec ecx
        0x75, 0xDE, // jnz again
        0x31, 0xC0, // xor eax, eax
        0x0F, 0xA2, // cpuid
        0x9C, // pushfq
        0x58, // pop rax
        0xFA, // cli
        0x0F, 0x31, // rdtsc
        0xBF, 0x00, 0xA0, 0x00, 0x00, // mov edi, 0xa000
        0xB9, 0x10, 0x00, 0x00, 0x00, // mov ecx, 16
        0xF3, 0xAA, // rep stosb
        0x0F, 0x0B, // ud2: there is no handler, the processor shuts down
        0x4D, 0x31, 0xED, // function: xor r13, r13
        0x4C, 0x8D, 0x68, 0x01, // lea r13, [rax+1]
        0x4D, 0x0F, 0xAF, 0xEC, // imul r13, r12
        0x66, 0x0F, 0xEF, 0xC0, // pxor xmm0, xmm0
        0xC3, // ret
    ];

    /// <summary>Runs it to its end.</summary>
    /// <returns>Blocks that were translated, and faults, which its last instruction alone raises.</returns>
    public static (long Translated, long Faults) Run()
    {
        using GuestMemory memory = new(2 << 20);
        using TranslationPartition partition = new(new PartitionOptions(1, CpuModel.Create(CpuModelName.V3, 1), memory, new FirstGuest(), new MachineClock()));
        for (int level = 0; level < 3; level++)
        {
            memory.TryWrite(Tables + ((ulong)level << 12), level == 2 ? PresentWritable | LargePage : (Tables + ((ulong)(level + 1) << 12)) | PresentWritable);
        }
        for (int i = 0; i < Program.Length; i++)
        {
            memory.TryWrite(Code + (ulong)i, Program[i]);
        }
        Vcpu vcpu = partition.Vcpus[0];
        ProcessorBlock* b = vcpu.B;
        b->Cr0 = Cr0Bits.Pg | Cr0Bits.Pe | Cr0Bits.Wp | Cr0Bits.Et;
        b->Cr4 = Cr4Bits.Pae | Cr4Bits.Osfxsr;
        b->Cr3 = Tables;
        b->Efer = EferBits.Lme | EferBits.Lma | EferBits.Nxe;
        b->Cpl = 0;
        for (int i = 0; i < 6; i++)
        {
            vcpu.Segment(i)->Base = 0;
            vcpu.Segment(i)->Limit = uint.MaxValue;
            vcpu.Segment(i)->Attributes = i == Seg.Cs ? 0xA09Bu : 0xC093u;
        }
        b->Rip = Code;
        b->Gpr[4] = Stack;
        vcpu.TlbFlushAll(includeGlobal: true);
        vcpu.UpdateMode();
        vcpu.RunLoop();
        return (vcpu.Blocks.Translated, vcpu.Faults);
    }

    /// <inheritdoc/>
    public void ReadPort(ushort port, Span<byte> data) => data.Fill(0xFF);

    /// <inheritdoc/>
    public void WritePort(ushort port, ReadOnlySpan<byte> data)
    {
    }

    /// <inheritdoc/>
    public void ReadMemory(ulong address, Span<byte> data) => data.Fill(0xFF);

    /// <inheritdoc/>
    public void WriteMemory(ulong address, ReadOnlySpan<byte> data)
    {
    }
}
