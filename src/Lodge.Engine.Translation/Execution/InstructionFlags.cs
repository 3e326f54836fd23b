using Iced.Intel;

namespace Lodge.Engine.Translation.Execution;

/// <summary>What one instruction does with the arithmetic flags.</summary>
[Flags]
internal enum FlagEffects : byte
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>See <see cref="InstructionFlags.Uses"/>.</summary>
    Uses = 1,

    /// <summary>See <see cref="InstructionFlags.Modifies"/>.</summary>
    Modifies = 2,

    /// <summary>See <see cref="InstructionFlags.Kills"/>.</summary>
    Kills = 4,
}

/// <summary>What instructions do with the arithmetic flags.</summary>
internal static class InstructionFlags
{
    private const RflagsBits Arithmetic = RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF;

    /// <summary>All of it.</summary>
    public static FlagEffects Of(in Instruction instruction)
    {
        RflagsBits modified = instruction.RflagsModified & Arithmetic, read = instruction.RflagsRead & Arithmetic;
        bool kills = modified == Arithmetic && Kills(instruction);
        return (modified != 0 ? FlagEffects.Modifies : 0) | (kills ? FlagEffects.Kills : 0) | (read != 0 || (modified != 0 && !kills) ? FlagEffects.Uses : 0);
    }

    /// <summary>The flags before the instruction matter to it or to what follows from it: it reads some, or changes some but not all.</summary>
    public static bool Uses(in Instruction instruction) =>
        (instruction.RflagsRead & Arithmetic) != 0 || (Modifies(instruction) && !Kills(instruction));

    /// <summary>Some flag is changed (or undefined).</summary>
    public static bool Modifies(in Instruction instruction) => (instruction.RflagsModified & Arithmetic) != 0;

    /// <summary>All flags are written, whatever the operands.</summary>
    public static bool Kills(in Instruction instruction)
    {
        if ((instruction.RflagsModified & Arithmetic) != Arithmetic)
        {
            return false;
        }
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Shl or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Sal or Mnemonic.Shld or Mnemonic.Shrd or Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr:
                int last = instruction.OpCount - 1;
                return instruction.GetOpKind(last) == OpKind.Immediate8 && (instruction.Immediate8 & 0x1F) != 0;
            case Mnemonic.Bsf or Mnemonic.Bsr or Mnemonic.Div or Mnemonic.Idiv:
                return false; // undefined flags are often left alone, and a fault must show the old ones
            default:
                return true;
        }
    }
}
