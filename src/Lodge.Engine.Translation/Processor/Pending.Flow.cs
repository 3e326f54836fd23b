using Iced.Intel;
namespace Lodge.Engine.Translation.Processor;

// Contract to be implemented by: near control flow, stack, strings, port I/O, flag instructions, legacy decimal instructions.
internal sealed unsafe partial class Vcpu
{
    // JMP/CALL/RET near, Jcc, LOOPcc, JCXZ.., PUSH/POP (not segment registers), PUSHA/POPA, PUSHF/POPF, ENTER/LEAVE, string instructions with all REP forms, IN/OUT/INS/OUTS,
    // CLI/STI/CLD/STD, BOUND, DAA/DAS/AAA/AAS/AAM/AAD, SALC, XLAT, LAHF/SAHF/CMC/CLC/STC, CMPXCHG8B/16B are NOT here (copied); false when not one of these. Sets B->NextRip.
    internal bool TryExecuteFlow(in Instruction instruction) => throw new NotImplementedException();
    // Stack primitives with the stack's width and wrap (SS.B / 64-bit), used by far transfers too.
    internal void Push(ulong value, int size) => throw new NotImplementedException();
    internal ulong Pop(int size) => throw new NotImplementedException();
}
