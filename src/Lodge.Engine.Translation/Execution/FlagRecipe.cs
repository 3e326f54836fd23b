using System.Numerics;
using Iced.Intel;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>What is computed to rebuild flags.</summary>
internal enum FlagOperation : byte
{
    /// <summary>CMP: both operands are unchanged.</summary>
    Compare,

    /// <summary>SUB: the first operand holds the difference.</summary>
    Subtract,

    /// <summary>ADD: the first operand holds the sum.</summary>
    Add,

    /// <summary>TEST; AND, OR and XOR, whose first operand holds the result, with a second operand of all ones.</summary>
    Test,

    /// <summary>NEG: the operand holds the result.</summary>
    Negate,

    /// <summary>COMISS, COMISD, UCOMISS, UCOMISD between registers.</summary>
    CompareFloat,
}

/// <summary>
/// How the arithmetic flags of an instruction are found again from the registers after it, as long as its inputs have not changed since: so that flags
/// that nothing reads need not be kept, and a fault shows them nevertheless. SDM vol. 1, 3.4.3.1 and the instructions of vol. 2.
/// </summary>
/// <param name="Operation">The instruction.</param>
/// <param name="Size">Operand size in bytes.</param>
/// <param name="Left">Number of the first register.</param>
/// <param name="Right">Number of the second register; -1: <paramref name="Immediate"/>.</param>
/// <param name="Immediate">Second operand when it is no register.</param>
internal readonly record struct FlagRecipe(FlagOperation Operation, byte Size, byte Left, sbyte Right, ulong Immediate)
{
    /// <summary>Number of the memory operand, which is in host R15 behind the comparison that ends a block, or in <c>ProcessorBlock.EntryOperand</c>.</summary>
    public const byte MemoryOperand = 32;

    /// <summary>The memory operand is needed.</summary>
    public bool NeedsOperand => Left == MemoryOperand || Right == MemoryOperand;

    /// <summary>Registers that must be as the instruction left them: bit n for general register n, bit 16 + n for XMM register n.</summary>
    public uint Inputs => IsConstant ? 0 : Operation == FlagOperation.CompareFloat ? 0x1_0000U << Left | 0x1_0000U << Right : Bit(Left) | (Right >= 0 ? Bit(Right) : 0);

    private static uint Bit(int number) => number == MemoryOperand ? 0 : 1U << number;

    /// <inheritdoc/>
    public bool Equals(FlagRecipe other) => Key == other.Key && Immediate == other.Immediate;

    /// <inheritdoc/>
    public override int GetHashCode() => (int)((Immediate ^ (Immediate >> 32)) * 0x9E37_79B1) ^ (Key * 31);

    private int Key => ((int)Operation << 24) | (Size << 16) | (Left << 8) | (byte)Right;

    // SUB or XOR of a register with itself.
    private bool IsConstant => (Operation == FlagOperation.Compare && Right == Left) || (Operation == FlagOperation.Test && Right < 0 && Immediate == 0);

    /// <summary>The recipe of an instruction that is copied, or null when its flags cannot be found again.</summary>
    public static FlagRecipe? Of(in Instruction i)
    {
        if (i.Mnemonic is Mnemonic.Comisd or Mnemonic.Ucomisd or Mnemonic.Vcomisd or Mnemonic.Vucomisd or Mnemonic.Comiss or Mnemonic.Ucomiss or Mnemonic.Vcomiss or Mnemonic.Vucomiss)
        {
            byte width = i.Mnemonic is Mnemonic.Comisd or Mnemonic.Ucomisd or Mnemonic.Vcomisd or Mnemonic.Vucomisd ? (byte)8 : (byte)4;
            return i.Op1Kind == OpKind.Register ? new FlagRecipe(FlagOperation.CompareFloat, width, (byte)(i.Op0Register - Register.XMM0), (sbyte)(i.Op1Register - Register.XMM0), 0) : null;
        }
        if (i.OpCount is 0 or > 2 || i.Op0Kind != OpKind.Register || !IsPlain(i.Op0Register) || i.Code.Encoding() != EncodingKind.Legacy)
        {
            return null;
        }
        byte size = (byte)i.Op0Register.GetSize(), left = (byte)Reencoder.Number(i.Op0Register);
        if (i.Mnemonic == Mnemonic.Neg)
        {
            return new FlagRecipe(FlagOperation.Negate, size, left, -1, 0);
        }
        if (i.OpCount != 2)
        {
            return null;
        }
        sbyte right = -1;
        ulong immediate = 0;
        switch (i.Op1Kind)
        {
            case OpKind.Register when IsPlain(i.Op1Register):
                right = (sbyte)Reencoder.Number(i.Op1Register);
                break;
            case OpKind.Memory when i.Mnemonic is Mnemonic.And or Mnemonic.Or or Mnemonic.Xor:
                break;
            case OpKind.Immediate8 or OpKind.Immediate16 or OpKind.Immediate32 or OpKind.Immediate8to16 or OpKind.Immediate8to32 or OpKind.Immediate8to64 or OpKind.Immediate32to64:
                immediate = i.GetImmediate(1);
                break;
            default:
                return null;
        }
        switch (i.Mnemonic)
        {
            case Mnemonic.Cmp:
                return new FlagRecipe(FlagOperation.Compare, size, left, right, immediate);
            case Mnemonic.Test:
                return new FlagRecipe(FlagOperation.Test, size, left, right, immediate);
            case Mnemonic.Sub when right == left:
                return new FlagRecipe(FlagOperation.Compare, size, left, right, 0);
            case Mnemonic.Xor when right == left:
                return new FlagRecipe(FlagOperation.Test, size, left, -1, 0);
            case Mnemonic.And or Mnemonic.Or or Mnemonic.Xor:
                return new FlagRecipe(FlagOperation.Test, size, left, -1, ulong.MaxValue);
            case Mnemonic.Sub:
                return new FlagRecipe(FlagOperation.Subtract, size, left, right, immediate);
            case Mnemonic.Add when right != left: // the bit that is shifted out of a doubled register is lost
                return new FlagRecipe(FlagOperation.Add, size, left, right, immediate);
            default:
                return null;
        }
    }

    /// <summary>The recipe of CMP and TEST with a memory operand whose value is kept in R15, or null.</summary>
    public static FlagRecipe? OfComparisonInMemory(in Instruction i)
    {
        if (i.Mnemonic is not (Mnemonic.Cmp or Mnemonic.Test) || i.OpCount != 2)
        {
            return null;
        }
        FlagOperation operation = i.Mnemonic == Mnemonic.Cmp ? FlagOperation.Compare : FlagOperation.Test;
        if (i.Op0Kind == OpKind.Memory)
        {
            byte size = (byte)i.MemorySize.GetSize();
            if (i.Op1Kind == OpKind.Register)
            {
                return IsSame(i.Op1Register) ? new FlagRecipe(operation, size, MemoryOperand, (sbyte)Reencoder.Number(i.Op1Register), 0) : null;
            }
            return new FlagRecipe(operation, size, MemoryOperand, -1, i.GetImmediate(1));
        }
        return i.Op1Kind == OpKind.Memory && i.Op0Kind == OpKind.Register && IsSame(i.Op0Register)
            ? new FlagRecipe(operation, (byte)i.MemorySize.GetSize(), (byte)Reencoder.Number(i.Op0Register), (sbyte)MemoryOperand, 0)
            : null;
    }

    // In the same host register as in the guest's.
    private static bool IsSame(Register register) => IsPlain(register) && Reencoder.Number(register) is not (4 or >= 13);

    /// <summary>The flags in the form of <c>ProcessorBlock.PackedFlags</c>.</summary>
    /// <param name="block">The guest's state at the point where they are wanted.</param>
    public unsafe ulong Evaluate(ProcessorBlock* block) =>
        Operation == FlagOperation.CompareFloat
            ? EvaluateFloat(*(ulong*)(block->Ymm + (Left * 32)), *(ulong*)(block->Ymm + (Right * 32)), (block->Mxcsr & 0x40) != 0)
            : Evaluate(Value(block, Left), Right >= 0 ? Value(block, Right) : Immediate);

    private static unsafe ulong Value(ProcessorBlock* block, int number) => number == MemoryOperand ? block->EntryOperand : block->Gpr[number];

    // SDM vol. 2, COMISD: unordered 111, greater 000, less 001, equal 100 in ZF, PF, CF; the others are cleared. MXCSR.DAZ takes denormals for zeros.
    private ulong EvaluateFloat(ulong left, ulong right, bool denormalsAreZeros)
    {
        double a = Size == 8 ? BitConverter.UInt64BitsToDouble(left) : BitConverter.UInt32BitsToSingle((uint)left);
        double b = Size == 8 ? BitConverter.UInt64BitsToDouble(right) : BitConverter.UInt32BitsToSingle((uint)right);
        if (denormalsAreZeros)
        {
            double normal = Size == 8 ? 2.2250738585072014E-308 : 1.17549435E-38f;
            a = Math.Abs(a) < normal ? 0 : a;
            b = Math.Abs(b) < normal ? 0 : b;
        }
        return (2UL | (a > b ? 0UL : a < b ? 1UL : a == b ? 0x40UL : 0x45UL)) << 8;
    }

    private ulong Evaluate(ulong left, ulong right)
    {
        int bits = Size * 8;
        ulong mask = ulong.MaxValue >> (64 - bits), sign = 1UL << (bits - 1);
        ulong a, b, result;
        bool carry = false, overflow = false, adjust = false;
        switch (Operation)
        {
            case FlagOperation.Test:
                result = left & right & mask;
                break;
            case FlagOperation.Add:
                (result, b) = (left & mask, right & mask);
                a = (result - b) & mask;
                carry = result < a;
                overflow = ((a ^ result) & (b ^ result) & sign) != 0;
                adjust = ((a ^ b ^ result) & 0x10) != 0;
                break;
            default:
                (a, b) = Operation switch
                {
                    FlagOperation.Compare => (left & mask, right & mask),
                    FlagOperation.Subtract => ((left + right) & mask, right & mask),
                    _ => (0UL, (0 - left) & mask),
                };
                result = (a - b) & mask;
                carry = a < b;
                overflow = ((a ^ b) & (a ^ result) & sign) != 0;
                adjust = ((a ^ b ^ result) & 0x10) != 0;
                break;
        }
        bool parity = (BitOperations.PopCount(result & 0xFF) & 1) == 0;
        ulong low = (carry ? 1UL : 0) | 2 | (parity ? 4UL : 0) | (adjust ? 0x10UL : 0) | (result == 0 ? 0x40UL : 0) | ((result & sign) != 0 ? 0x80UL : 0);
        return (low << 8) | (overflow ? 1UL : 0);
    }

    private static bool IsPlain(Register register) => register.IsGPR() && register is not (>= Register.AH and <= Register.BH);
}

/// <summary>Where the flags are at a host address, as the side table of a block tells (six bits).</summary>
internal static class FlagSource
{
    /// <summary>Packed in the processor block.</summary>
    public const int Packed = 0;

    /// <summary>In host RFLAGS.</summary>
    public const int Host = 1;

    /// <summary>By the recipe in the processor block that the block before has left.</summary>
    public const int Entry = 2;

    /// <summary>This and above: by a recipe of the block.</summary>
    public const int FirstRecipe = 3;

    /// <summary>Number of values.</summary>
    public const int Count = 64;
}
