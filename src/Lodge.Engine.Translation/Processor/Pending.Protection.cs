using Iced.Intel;
namespace Lodge.Engine.Translation.Processor;

// Contract to be implemented by: segments, far transfers, exceptions and interrupts, task switch, fast system calls.
internal sealed unsafe partial class Vcpu
{
    // Loads a segment register with all protection checks (MOV/POP/LDS.. semantics).
    internal void LoadSegment(int segment, ushort selector) => throw new NotImplementedException();
    // Delivers an exception whose faulting instruction is at B->Rip (B->Rip is what is pushed, for traps the caller has advanced it). Handles nested
    // faults to double fault; returns false on triple fault. Never throws. Sets B->Rip to the handler.
    internal bool DeliverException(Vector vector, uint? errorCode, ulong address) => throw new NotImplementedException();
    // Delivers an external interrupt / NMI; the return address is B->Rip. False on triple fault.
    internal bool DeliverInterrupt(byte vector) => throw new NotImplementedException();
    internal bool DeliverNmi() => throw new NotImplementedException();
    // Far JMP/CALL/RET, IRET, INT n, INT3, INTO, INT1, SYSCALL, SYSRET, SYSENTER, SYSEXIT, MOV Sreg, POP/PUSH Sreg, LDS/LES/LFS/LGS/LSS, LGDT, SGDT, LIDT, SIDT, LLDT, SLDT,
    // LTR, STR, LAR, LSL, VERR, VERW, ARPL; false when not one of these. Sets B->NextRip.
    internal bool TryExecuteProtection(in Instruction instruction) => throw new NotImplementedException();
}
