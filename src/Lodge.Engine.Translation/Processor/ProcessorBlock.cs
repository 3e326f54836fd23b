using System.Runtime.InteropServices;

namespace Lodge.Engine.Translation.Processor;

/// <summary>Hidden and visible part of a segment register, see <see cref="Engine.Processor.SegmentState"/> for the units.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Segment
{
    public ulong Base;
    public uint Limit;
    public uint Attributes;
    public ushort Selector;
    private readonly ushort _pad0;
    private readonly uint _pad1;

    public const uint AttributeUnusable = 1u << 16;

    public readonly int Type => (int)(Attributes & 15);
    public readonly bool IsCodeOrData => (Attributes & 0x10) != 0;
    public readonly int Dpl => (int)((Attributes >> 5) & 3);
    public readonly bool Present => (Attributes & 0x80) != 0;
    public readonly bool Long => (Attributes & 0x2000) != 0;
    public readonly bool Default32 => (Attributes & 0x4000) != 0;
    public readonly bool Unusable => (Attributes & AttributeUnusable) != 0;
}

/// <summary>Indices of segment registers in the block, in encoding order.</summary>
internal static class Seg
{
    public const int Es = 0, Cs = 1, Ss = 2, Ds = 3, Fs = 4, Gs = 5;
}

/// <summary>One entry of the first-level software TLB (32 bytes): tags are page addresses, so that address xor tag is the page offset on a hit.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct TlbEntry
{
    public ulong ReadTag;
    public ulong WriteTag;
    public ulong Host;
    public ulong Delta;
}

/// <summary>
/// All that generated code reaches through GS base: the registers of one processor, the software TLB, scratch and the addresses of stubs. Lives in
/// unmanaged memory. While C# runs, this is the whole and current state of the guest processor.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct ProcessorBlock
{
    /// <summary>Entries of a first-level TLB: 2^Bits.</summary>
    public const int TlbBits = 10;

    /// <summary>Number of entries of a first-level TLB.</summary>
    public const int TlbEntries = 1 << TlbBits;

    /// <summary>First-level TLBs: supervisor, user, supervisor with SMAP suspended (EFLAGS.AC).</summary>
    public const int TlbModes = 3;

    public fixed ulong Gpr[16];
    public ulong Rip;

    /// <summary>RIP after the instruction being executed by C#; handlers of jumps replace it.</summary>
    public ulong NextRip;

    /// <summary>Arithmetic flags as SETO AL; LAHF leave AX: bit 0 OF, bits 8-15 SF ZF - AF - PF 1 CF.</summary>
    public ulong PackedFlags;

    /// <summary>The other bits of RFLAGS (arithmetic bits zero, bit 1 set).</summary>
    public ulong SystemFlags;

    /// <summary>Not zero: leave generated code at the next poll. Set from any thread.</summary>
    public uint ExitRequest;

    /// <summary>Not zero: an interrupt waits that may be taken once IF is set. Set from any thread.</summary>
    public uint InterruptPending;

    /// <summary>Current privilege level.</summary>
    public uint Cpl;

    /// <summary>Execution mode, a key of translated code; computed by <c>UpdateMode</c>.</summary>
    public uint Mode;

    /// <summary>Index of the processor.</summary>
    public uint Index;

    /// <summary>1 while x87/MMX state is in the host's registers, 0 while in <see cref="ExtendedState"/>.</summary>
    public uint X87Loaded;

    /// <summary>Guest MXCSR.</summary>
    public uint Mxcsr;

    /// <summary>MXCSR of C# code.</summary>
    public uint HostMxcsr;

    /// <summary>ES CS SS DS FS GS LDTR TR.</summary>
    public Segment Segment0, Segment1, Segment2, Segment3, Segment4, Segment5, Ldtr, Tr;

    public ulong GdtrBase, IdtrBase;
    public uint GdtrLimit, IdtrLimit;
    public ulong Cr0, Cr2, Cr3, Cr4, Xcr0;
    public ulong Dr0, Dr1, Dr2, Dr3, Dr6, Dr7;
    public ulong Efer, Star, Lstar, Cstar, SyscallMask, KernelGsBase;
    public ulong SysenterCs, SysenterEsp, SysenterEip;
    public ulong TscAux;

    /// <summary>Guest TSC minus host TSC.</summary>
    public ulong TscOffset;

    /// <summary>PKRU.</summary>
    public uint Pkru;

    /// <summary>Interrupts (1), also debug exceptions (2) are held for the next instruction, see <see cref="Shadow"/>.</summary>
    public uint InterruptShadow;

    /// <summary>1: NMIs blocked until IRET.</summary>
    public uint NmiBlocked;

    /// <summary>Current activity (<see cref="Engine.Processor.ActivityState"/>).</summary>
    public uint Activity;

    /// <summary>1 while generated code (or a short helper of it) runs: other processors that revoke write access wait for a safe point.</summary>
    public uint Running;

    /// <summary>Where the arithmetic flags are at the entry of a block that expects a recipe: its number, 0 when they are packed. Generated code only.</summary>
    public uint EntryRecipe;

    /// <summary>Memory operand of the comparison whose recipe is in <see cref="EntryRecipe"/>, when it has one.</summary>
    public ulong EntryOperand;

    /// <summary>Backward jumps until one is looked at by C#, see <c>BlockCache.LoopInterval</c>.</summary>
    public int LoopsLeft;

    /// <summary>Set by another processor: drop write permission from the TLB before going on.</summary>
    public uint RevokeRequest;

    // Generated code only.
    public ulong HostRsp, Scratch0, Scratch1, Scratch2, Scratch3, FaultPc, FaultSignal, FaultFlags, ExitInfo, ExitTarget, ExitSite;

    /// <summary>Distinguishes address spaces in the jump cache: RIP is xor-ed with it. By user/supervisor.</summary>
    public ulong SupervisorJumpKey, UserJumpKey;

    /// <summary>The <see cref="Mode"/> that SYSCALL of CPL 3, or SYSRETQ of CPL 0, leads to; 0 when C# has to execute them. Computed by <c>UpdateMode</c>.</summary>
    public uint SystemCallMode;

    private readonly uint _pad;

    /// <summary>Address of this block.</summary>
    public ulong Self;

    /// <summary>Where the signal handler continues after a fault in generated code.</summary>
    public ulong FaultExit;

    private fixed ulong _align[AlignWords];

    /// <summary>FXSAVE64/XSAVE image (512 + 64 header), current while C# runs and <see cref="X87Loaded"/> is 0; only its x87/MMX part counts (XMM and MXCSR are in the fields here). At a multiple of 64.</summary>
    public fixed byte ExtendedState[576];

    /// <summary>YMM0-YMM15, current while C# runs (32 bytes each).</summary>
    public fixed byte Ymm[512];

    /// <summary>Host minus guest address of the window last checked, by base register (<c>AccessGroups</c>).</summary>
    public fixed ulong Windows[16];

    /// <summary>Bounce buffer for operands that cross pages or lie in device memory.</summary>
    public fixed byte Bounce[640];

    /// <summary>Mapping tokens of instruction pages, see <c>BlockCache</c>.</summary>
    public fixed uint InstructionTlb[InstructionTlbEntries];

    /// <summary>Jump cache: pairs of (RIP xor key, code address).</summary>
    public fixed ulong JumpCache[JumpCacheEntries * 2];

    /// <summary>First-level TLBs: <see cref="TlbModes"/> x <see cref="TlbEntries"/> entries of 4 words (<see cref="TlbEntry"/>).</summary>
    public fixed ulong Tlb[TlbModes * TlbEntries * 4];

    /// <summary>Entries of <see cref="InstructionTlb"/>.</summary>
    public const int InstructionTlbEntries = 256;

    /// <summary>Entries of <see cref="JumpCache"/>.</summary>
    public const int JumpCacheEntries = 4096;

    private const int AlignWords = 2;

    /// <summary>Segment by register number (<see cref="Seg"/>; 6 LDTR, 7 TR).</summary>
    public static Segment* SegmentOf(ProcessorBlock* block, int index) => &block->Segment0 + index;
}
