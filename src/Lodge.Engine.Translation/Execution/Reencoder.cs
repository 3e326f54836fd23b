using Iced.Intel;
using Lodge.Engine.Translation.Emission;

namespace Lodge.Engine.Translation.Execution;

/// <summary>Host address of a memory operand: [base + R14 (when indexed) + displacement].</summary>
internal readonly record struct HostAddress(int Base, bool HasIndex, int Displacement)
{
    /// <summary>[R14].</summary>
    public static HostAddress InR14 { get; } = new(Host.R14, false, 0);
}

/// <summary>
/// Emits a copied instruction: its registers renamed by the convention of <see cref="Stubs"/>, its memory operand replaced by a host address. Flags pass
/// untouched from before it to it and from it on. Bytes are always encoded anew, so that nothing a guest writes is executed as other than what was decoded.
/// </summary>
internal sealed unsafe class Reencoder
{
    private readonly InstructionInfoFactory _information = new();
    private readonly Buffer _buffer = new();
    private readonly Encoder _encoder;

    public Reencoder() => _encoder = Encoder.Create(64, _buffer);

    /// <summary>Index of the memory operand, or -1.</summary>
    public static int MemoryOperand(in Instruction instruction)
    {
        for (int i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) == OpKind.Memory)
            {
                return i;
            }
        }
        return -1;
    }

    /// <summary>How operand <paramref name="index"/> is accessed.</summary>
    public OpAccess Access(in Instruction instruction, int index) => _information.GetInfo(instruction, InstructionInfoOptions.NoMemoryUsage | InstructionInfoOptions.NoRegisterUsage).GetOpAccess(index);

    /// <summary>
    /// Emits <paramref name="instruction"/>. When it has a memory operand, R14 holds its host address; R15 is used.
    /// </summary>
    /// <param name="address">Where the memory operand is; [R14] when null.</param>
    /// <param name="bitOffsetInR15">BT with memory and a register offset: the reduced offset is in R15 (<see cref="LoadBitOffset"/>).</param>
    /// <exception cref="NotSupportedException">The instruction cannot be encoded in 64-bit code.</exception>
    public void Emit(Emitter e, in Instruction instruction, bool bitOffsetInR15 = false, HostAddress? address = null)
    {
        Instruction copy = instruction;
        bool memory = MemoryOperand(instruction) >= 0;
        if (memory)
        {
            HostAddress at = address ?? HostAddress.InR14;
            copy.MemoryBase = Register.RAX + at.Base;
            copy.MemoryIndex = at.HasIndex ? Register.R14 : Register.None;
            copy.MemoryIndexScale = 1;
            copy.MemoryDisplacement64 = (ulong)at.Displacement;
            copy.MemoryDisplSize = at.Displacement == 0 ? 0 : 8;
        }
        copy.SegmentPrefix = Register.None;
        copy.HasXacquirePrefix = false;
        copy.HasXreleasePrefix = false;
        copy.Code = In64BitCode(copy.Code);

        int freeR15 = Host.R15, freeR14 = memory ? -1 : Host.R14;
        Span<int> guestOf = stackalloc int[4];
        Span<int> hostOf = stackalloc int[4];
        Span<bool> write = stackalloc bool[4];
        int renamed = 0, borrowed = -1;
        int highByte = -1;
        bool needsRex = memory;
        for (int i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) != OpKind.Register)
            {
                continue;
            }
            Register register = instruction.GetOpRegister(i);
            if (!register.IsGPR())
            {
                continue;
            }
            if (bitOffsetInR15)
            {
                copy.SetOpRegister(i, Make(Host.R15, register.GetSize()));
                continue;
            }
            if (register is >= Register.AH and <= Register.BH)
            {
                highByte = register - Register.AH;
                continue;
            }
            int number = Number(register);
            if (number >= 8 || number == 4)
            {
                needsRex = true;
            }
            if (number == 4)
            {
                copy.SetOpRegister(i, Make(13, register.GetSize()));
            }
            else if (number >= 13)
            {
                int host = -1;
                for (int k = 0; k < renamed; k++)
                {
                    if (guestOf[k] == number)
                    {
                        host = hostOf[k];
                    }
                }
                bool written = (Access(instruction, i) & (OpAccess)0xFF) is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;
                if (host < 0)
                {
                    if (freeR15 >= 0)
                    {
                        (host, freeR15) = (freeR15, -1);
                    }
                    else if (freeR14 >= 0)
                    {
                        (host, freeR14) = (freeR14, -1);
                    }
                    else
                    {
                        host = borrowed = Borrow(instruction);
                        e.Store(host, Field.Scratch3);
                    }
                    guestOf[renamed] = number;
                    hostOf[renamed] = host;
                    write[renamed++] = written;
                    e.Load(host, Field.Gpr(number));
                }
                else if (written)
                {
                    for (int k = 0; k < renamed; k++)
                    {
                        write[k] |= guestOf[k] == number;
                    }
                }
                copy.SetOpRegister(i, Make(host, register.GetSize()));
            }
        }
        bool rotate = highByte >= 0 && needsRex;
        if (rotate && highByte == 0 && instruction.Mnemonic == Mnemonic.Cmpxchg)
        {
            // RAX cannot be rotated: AL is compared with.
            e.Rorx(Host.R15, Host.Rax, 8);
            copy.Op1Register = Register.R15L;
            rotate = false;
        }
        if (rotate)
        {
            for (int i = 0; i < copy.OpCount; i++)
            {
                if (copy.GetOpKind(i) == OpKind.Register && copy.GetOpRegister(i) is >= Register.AH and <= Register.BH)
                {
                    copy.SetOpRegister(i, Register.AL + highByte);
                }
            }
            e.Rorx(highByte, highByte, 8);
        }
        _buffer.Length = 0;
        if (!_encoder.TryEncode(copy, 0, out uint length, out string? error))
        {
            throw new NotSupportedException($"cannot encode {instruction}: {error}");
        }
        e.Bytes(_buffer.Bytes.AsSpan(0, (int)length));
        if (rotate)
        {
            e.Rorx(highByte, highByte, 56);
        }
        for (int k = 0; k < renamed; k++)
        {
            if (write[k])
            {
                e.Store(hostOf[k], Field.Gpr(guestOf[k]));
            }
        }
        if (borrowed >= 0)
        {
            e.Load(borrowed, Field.Scratch3);
        }
    }

    /// <summary>CMP and TEST with a memory operand, whose value goes to R15 first. The other operand is not in a renamed register.</summary>
    public void EmitComparisonInR15(Emitter e, in Instruction instruction, HostAddress at)
    {
        int size = instruction.MemorySize.GetSize();
        int load = size switch { 1 => 0x0FB6, 2 => 0x0FB7, _ => 0x8B };
        if (at.HasIndex)
        {
            e.MemIndex(size == 8, load, Host.R15, at.Base, Host.R14, 1, at.Displacement);
        }
        else
        {
            e.Mem(size == 8, load, Host.R15, at.Base, at.Displacement);
        }
        Instruction copy = instruction;
        int operand = MemoryOperand(instruction);
        copy.SetOpKind(operand, OpKind.Register);
        copy.SetOpRegister(operand, Make(15, size));
        copy.SegmentPrefix = Register.None;
        copy.Code = In64BitCode(copy.Code);
        _buffer.Length = 0;
        if (!_encoder.TryEncode(copy, 0, out uint length, out string? error))
        {
            throw new NotSupportedException($"cannot encode {instruction}: {error}");
        }
        e.Bytes(_buffer.Bytes.AsSpan(0, (int)length));
    }

    /// <summary>Number (0-15) of a general register of any width other than AH-BH.</summary>
    public static int Number(Register register) => register switch
    {
        >= Register.AL and <= Register.BL => register - Register.AL,
        >= Register.SPL and <= Register.R15L => register - Register.SPL + 4,
        >= Register.AX and <= Register.R15W => register - Register.AX,
        >= Register.EAX and <= Register.R15D => register - Register.EAX,
        >= Register.RAX and <= Register.R15 => register - Register.RAX,
        _ => throw new ArgumentOutOfRangeException(nameof(register), register, "not a general register"),
    };

    /// <summary>BTx [mem], reg: puts the bit offset reduced to the operand into R15 (the address has the rest). Flags are lost.</summary>
    public static void LoadBitOffset(Emitter e, in Instruction instruction)
    {
        int number = Number(instruction.Op1Register);
        if (number >= 13)
        {
            e.Load(Host.R15, Field.Gpr(number));
        }
        else
        {
            e.Mov(Host.R15, number == 4 ? Host.R13 : number);
        }
        e.Immediate(false, 4, Host.R15, (instruction.Op1Register.GetSize() * 8) - 1);
    }

    private static int Borrow(in Instruction instruction)
    {
        Span<bool> used = stackalloc bool[16];
        for (int i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) == OpKind.Register && instruction.GetOpRegister(i) is var register && register.IsGPR() && register is not (>= Register.AH and <= Register.BH))
            {
                used[Number(register)] = true;
            }
        }
        for (int candidate = Host.R8; candidate <= Host.R11; candidate++)
        {
            if (!used[candidate])
            {
                return candidate;
            }
        }
        return Host.R12;
    }

    private static Register Make(int number, int size) => size switch
    {
        1 => number < 4 ? Register.AL + number : Register.SPL + (number - 4),
        2 => Register.AX + number,
        4 => Register.EAX + number,
        _ => Register.RAX + number,
    };

    private static Code In64BitCode(Code code) => code switch
    {
        Code.Inc_r16 => Code.Inc_rm16,
        Code.Inc_r32 => Code.Inc_rm32,
        Code.Dec_r16 => Code.Dec_rm16,
        Code.Dec_r32 => Code.Dec_rm32,
        Code.Add_rm8_imm8_82 => Code.Add_rm8_imm8,
        Code.Or_rm8_imm8_82 => Code.Or_rm8_imm8,
        Code.Adc_rm8_imm8_82 => Code.Adc_rm8_imm8,
        Code.Sbb_rm8_imm8_82 => Code.Sbb_rm8_imm8,
        Code.And_rm8_imm8_82 => Code.And_rm8_imm8,
        Code.Sub_rm8_imm8_82 => Code.Sub_rm8_imm8,
        Code.Xor_rm8_imm8_82 => Code.Xor_rm8_imm8,
        Code.Cmp_rm8_imm8_82 => Code.Cmp_rm8_imm8,
        Code.Mov_AL_moffs8 => Code.Mov_r8_rm8,
        Code.Mov_AX_moffs16 => Code.Mov_r16_rm16,
        Code.Mov_EAX_moffs32 => Code.Mov_r32_rm32,
        Code.Mov_RAX_moffs64 => Code.Mov_r64_rm64,
        Code.Mov_moffs8_AL => Code.Mov_rm8_r8,
        Code.Mov_moffs16_AX => Code.Mov_rm16_r16,
        Code.Mov_moffs32_EAX => Code.Mov_rm32_r32,
        Code.Mov_moffs64_RAX => Code.Mov_rm64_r64,
        _ => code,
    };

    private sealed class Buffer : CodeWriter
    {
        public readonly byte[] Bytes = new byte[64];
        public int Length;

        public override void WriteByte(byte value) => Bytes[Length++] = value;
    }
}
