using Iced.Intel;
namespace Lodge.Engine.Translation.Processor;

// Contract to be implemented by: paging, linear memory, operands, control/debug registers, MSRs, CPUID, extended state. Delete what you implement.
internal enum AccessKind { Read = 0, Write = 1, Execute = 2 }

/// <summary>Outcome of a page walk.</summary>
internal unsafe struct PageTranslation
{
    /// <summary>Guest physical address of the byte asked for.</summary>
    public ulong Physical;

    /// <summary>Host address of the byte when it is RAM, else null.</summary>
    public byte* Host;

    /// <summary>Stores may go to this page without another walk (permission and dirty bit are there).</summary>
    public bool Writable;

    /// <summary>User-mode access is permitted.</summary>
    public bool User;

    /// <summary>Global page (CR4.PGE).</summary>
    public bool Global;

    /// <summary>Instruction fetch is permitted.</summary>
    public bool Executable;

    /// <summary>log2 of the page size: 12, 21, 22 or 30.</summary>
    public int PageShift;
}

internal sealed unsafe partial class Vcpu
{
    // Walks the page tables (or passes through without paging). Sets accessed/dirty bits atomically. Does not throw. user: access with CPL 3 rights.
    internal bool TryWalk(ulong linear, AccessKind access, bool user, out PageTranslation translation, out uint errorCode) => throw new NotImplementedException();

    // Segmentation: linear address of segment:offset with limit/type/canonical checks for size bytes; throws #GP/#SS.
    internal ulong LinearAddress(int segment, ulong offset, int size, AccessKind access) => throw new NotImplementedException();

    // Data accesses at a linear address with paging; may cross pages; may hit devices (Bus) or the local APIC page; throw GuestFault (#PF).
    // user = CPL 3 rights (false for implicit supervisor accesses such as descriptor tables). RAM stores call Memory.Written.
    internal ulong ReadLinear(ulong linear, int size, bool user) => throw new NotImplementedException();
    internal void WriteLinear(ulong linear, ulong value, int size, bool user) => throw new NotImplementedException();
    internal void ReadLinear(ulong linear, Span<byte> data, bool user) => throw new NotImplementedException();
    internal void WriteLinear(ulong linear, ReadOnlySpan<byte> data, bool user) => throw new NotImplementedException();
    // Checks that a store of that size would succeed (both pages), without storing.
    internal void ProbeWrite(ulong linear, int size, bool user) => throw new NotImplementedException();

    // Offset part of the memory operand, truncated to the address size (no segment).
    internal ulong EffectiveOffset(in Instruction instruction) => throw new NotImplementedException();
    // Any operand (register incl. segment registers' selector, memory, immediate sign-extended to operand size) zero-extended to 64 bits; up to 8 bytes.
    internal ulong ReadOperand(in Instruction instruction, int operand) => throw new NotImplementedException();
    internal void WriteOperand(in Instruction instruction, int operand, ulong value) => throw new NotImplementedException();

    // #UD when the CPU model or CR0/CR4/XCR0 do not have the instruction, #NM by CR0.TS/EM. Called before every instruction in T0.
    internal void CheckAvailability(in Instruction instruction) => throw new NotImplementedException();
    // MOV CR/DR, CLTS, LMSW, SMSW, INVLPG, INVPCID, INVD, WBINVD, RDMSR, WRMSR, RDPMC, RDTSC, RDTSCP, RDPID, CPUID, XGETBV, XSETBV, XSAVE*, XRSTOR*, FXSAVE, FXRSTOR,
    // RDFSBASE.., SWAPGS, RDPKRU, WRPKRU, RDRAND/RDSEED via host, CLAC, STAC, MONITOR, MWAIT, HLT, LDMXCSR, STMXCSR, VMCALL (KVM hypercalls); false when not one of these.
    internal bool TryExecuteSystem(in Instruction instruction) => throw new NotImplementedException();
    // Sets guest registers for a reset.
    internal void ResetRegisters() => throw new NotImplementedException();
    internal Lodge.Engine.Processor.ProcessorState SaveRegisters() => throw new NotImplementedException();
    internal void RestoreRegisters(Lodge.Engine.Processor.ProcessorState state) => throw new NotImplementedException();
}
