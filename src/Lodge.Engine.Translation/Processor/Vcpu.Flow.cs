using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

internal sealed unsafe partial class Vcpu
{
    /// <summary>
    /// Executes near control transfers, stack, string, port, flag and legacy decimal instructions. Sets <c>B->NextRip</c> on jumps. False, with no
    /// effect, when the instruction is of another kind.
    /// </summary>
    /// <exception cref="GuestFault">The instruction faults; it had no effect (a repeated string instruction stands at the faulting element).</exception>
    internal bool TryExecuteFlow(in Instruction instruction) =>
        TryExecuteBranch(instruction) || TryExecuteStack(instruction) || TryExecuteString(instruction) || TryExecutePortIo(instruction)
        || TryExecuteFlagInstruction(instruction) || TryExecuteLegacy(instruction);

    private bool UserMode => B->Cpl == 3;

    private static ulong WidthMask(int bytes) => bytes >= 8 ? ulong.MaxValue : (1UL << (bytes * 8)) - 1;

    /// <summary>Writes the status flags from their RFLAGS positions (CF 0, PF 2, AF 4, ZF 6, SF 7, OF 11).</summary>
    private void SetStatusFlags(uint flags) => B->PackedFlags = ((ulong)(flags & 0xD5) << 8) | 0x200 | ((flags >> 11) & 1);

    private static uint ResultFlags(ulong result, int size)
    {
        uint flags = (System.Numerics.BitOperations.PopCount(result & 0xFF) & 1) == 0 ? FlagPf : 0;
        if ((result & WidthMask(size)) == 0)
        {
            flags |= FlagZf;
        }
        return ((result >> ((size * 8) - 1)) & 1) != 0 ? flags | FlagSf : flags;
    }

    /// <summary>Status flags of left - right (CMP).</summary>
    private static uint CompareFlags(ulong left, ulong right, int size)
    {
        ulong result = left - right;
        uint flags = ResultFlags(result, size) | ((uint)(left ^ right ^ result) & FlagAf);
        if ((left & WidthMask(size)) < (right & WidthMask(size)))
        {
            flags |= FlagCf;
        }
        return ((((left ^ right) & (left ^ result)) >> ((size * 8) - 1)) & 1) != 0 ? flags | FlagOf : flags;
    }

    private const uint FlagCf = 1, FlagPf = 1 << 2, FlagAf = 1 << 4, FlagZf = 1 << 6, FlagSf = 1 << 7, FlagTf = 1 << 8, FlagIf = 1 << 9, FlagDf = 1 << 10, FlagOf = 1 << 11;
    private const uint FlagIopl = 3 << 12, FlagNt = 1 << 14, FlagRf = 1 << 16, FlagVm = 1 << 17, FlagAc = 1 << 18, FlagVif = 1 << 19, FlagVip = 1 << 20, FlagId = 1 << 21;

    private int IoPrivilegeLevel => (int)(B->SystemFlags >> 12) & 3;
}
