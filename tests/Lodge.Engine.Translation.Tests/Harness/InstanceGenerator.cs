using Iced.Intel;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Tests.Harness;

/// <summary>Where a memory operand lies in the data window of <see cref="InstanceGenerator"/>.</summary>
internal enum Placement
{
    /// <summary>In one writable page.</summary>
    Inside,

    /// <summary>Over the boundary of two writable pages.</summary>
    Crossing,

    /// <summary>In a page that is not present.</summary>
    NotPresent,

    /// <summary>From a writable page into one that is not present.</summary>
    CrossingNotPresent,

    /// <summary>In a read-only page.</summary>
    ReadOnly,

    /// <summary>From a read-only page into a writable one.</summary>
    CrossingReadOnly,

    /// <summary>In device memory.</summary>
    Device,
}

/// <summary>One instruction with the registers to run it with.</summary>
internal sealed class TestInstance
{
    public byte[] Bytes = [];
    public Instruction Decoded;
    public RegisterFile Registers = new();
    public Placement Placement;
    public ulong Target;
    public int Size;
    public ulong FsBase, GsBase;

    /// <summary>Loads registers and segment bases.</summary>
    public unsafe void Apply(ProcessorBlock* b)
    {
        Registers.Load(b);
        b->Segment4.Base = FsBase;
        b->Segment5.Base = GsBase;
    }
}

/// <summary>Makes random instances of instruction codes from their operand kinds.</summary>
internal sealed class InstanceGenerator(int seed, int bits)
{
    /// <summary>
    /// The data window: pages 0-3 writable (not contiguous in physical memory), 4 not present, 5 read-only, 6 writable, 7 not present, 8 device, 9 writable.
    /// </summary>
    public const ulong DataStart = 0x4000_0000;

    public const ulong CodeStart = 0x4100_0000;

    private static readonly ulong[] Interesting =
    [
        0, 1, 2, 3, 7, 8, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1_0000_0000,
        0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, ulong.MaxValue, ulong.MaxValue - 1, 0x5555_5555_5555_5555, 0x0123_4567_89AB_CDEF,
    ];

    private static readonly uint[] Singles =
        [0, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0x7F80_0001, 1, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x4F00_0000, 0x5F00_0000];

    private static readonly ulong[] Doubles =
    [
        0, 1UL << 63, 0x3FF0_0000_0000_0000, 0xC000_0000_0000_0000, 0x7FF0_0000_0000_0000, 0xFFF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001, 1,
        0x000F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x7FEF_FFFF_FFFF_FFFF, 0x41E0_0000_0000_0000, 0x43E0_0000_0000_0000, 0x3FE0_0000_0000_0000,
    ];

    private static readonly int[] Renamed = [4, 13, 14, 15], AwkwardBases = [4, 5, 13, 14, 15];

    private readonly Random _random = new(seed);
    private TestInstance _instance = null!;
    private RegisterFile _registers = null!;

    public Random Random => _random;

    /// <summary>Whether a code is an instruction of the mode in an encoding that the model could have.</summary>
    public static bool IsInstruction(Code code, int bits)
    {
        OpCodeInfo info = code.ToOpCode();
        return info.IsInstruction && (bits == 64 ? info.Mode64 : info.Mode32) && info.Encoding is EncodingKind.Legacy or EncodingKind.VEX;
    }

    /// <summary>Makes an instance at a code address. False when the random choice cannot be encoded.</summary>
    public bool TryGenerate(Code code, ulong address, out TestInstance instance, Placement placement = Placement.Inside)
    {
        instance = _instance = new TestInstance { Placement = placement };
        _registers = instance.Registers;
        FillRegisters();
        OpCodeInfo info = code.ToOpCode();
        Instruction i = default;
        i.Code = code;
        bool memory = false;
        for (int operand = 0; operand < info.OpCount; operand++)
        {
            if (!SetOperand(ref i, operand, info.GetOpKind(operand), address, ref memory))
            {
                return false;
            }
        }
        if (memory && !AddressMemory(ref i, placement))
        {
            return false;
        }
        if (memory && i.GetOpKind(0) == OpKind.Memory && info.CanUseLockPrefix && _random.Next(4) == 0)
        {
            i.HasLockPrefix = true;
        }
        if (!Implicit(ref i, info, placement))
        {
            return false;
        }
        var writer = new Writer();
        if (!Encoder.Create(bits, writer).TryEncode(i, address, out _, out _))
        {
            return false;
        }
        instance.Bytes = [.. writer.Bytes];
        var decoder = Decoder.Create(bits, new ByteArrayCodeReader(instance.Bytes));
        decoder.IP = address;
        decoder.Decode(out instance.Decoded);
        return !instance.Decoded.IsInvalid && instance.Decoded.Length == instance.Bytes.Length;
    }

    public ulong Value()
    {
        ulong value = _random.Next(3) switch
        {
            0 => Interesting[_random.Next(Interesting.Length)],
            1 => (ulong)_random.NextInt64() ^ ((ulong)_random.NextInt64() << 1),
            _ => (ulong)_random.Next(-300, 300),
        };
        return bits == 64 ? value : (uint)value;
    }

    private void FillRegisters()
    {
        for (int i = 0; i < 16; i++)
        {
            _registers.Gpr[i] = bits == 64 || i < 8 ? Value() : 0;
        }
        _registers.Gpr[4] = DataStart + 0x800 + ((ulong)_random.Next(64) * 8);
        _registers.Flags = 2 | ((ulong)_random.Next(0x1000) & RegisterFile.ArithmeticFlags);
        FillVectors(_registers.Ymm);
        uint mxcsr = _random.Next(10) == 0 ? (uint)_random.Next(0x40) << 7 : 0x1F80;
        mxcsr |= (uint)_random.Next(4) << 13;
        mxcsr |= _random.Next(4) == 0 ? 0x8000u : 0;
        mxcsr |= _random.Next(4) == 0 ? 0x40u : 0;
        _registers.Mxcsr = mxcsr;
        Span<byte> x87 = _registers.X87;
        x87.Clear();
        BitConverter.TryWriteBytes(x87, (ushort)((_random.Next(10) == 0 ? _random.Next(0x40) | 0x40 : 0x7F) | (_random.Next(4) == 0 ? _random.Next(16) << 8 : 0x300)));
        BitConverter.TryWriteBytes(x87[2..], (ushort)((_random.Next(8) << 11) | (_random.Next(4) == 0 ? _random.Next(0x40) : 0) | (_random.Next(8) << 8)));
        if ((x87[2] & ~x87[0] & 0x3F) != 0)
        {
            x87[2] |= 0x80; // ES and B follow from the others
            x87[3] |= 0x80;
        }
        x87[4] = _random.Next(3) == 0 ? (byte)_random.Next(256) : (byte)0xFF;
        for (int i = 0; i < 8; i++)
        {
            Span<byte> st = x87.Slice(32 + (i * 16), 10);
            ulong significand = Value() | (_random.Next(8) == 0 ? 0 : 1UL << 63);
            ushort exponent = _random.Next(5) switch
            {
                0 => 0,
                1 => 0x7FFF,
                2 => 0x3FFF,
                3 => (ushort)(0x3FFF + _random.Next(-70, 70)),
                _ => (ushort)_random.Next(0x8000),
            };
            BitConverter.TryWriteBytes(st, significand);
            BitConverter.TryWriteBytes(st[8..], (ushort)(exponent | (_random.Next(2) << 15)));
        }
    }

    /// <summary>Fills with integers and floating-point values of all classes.</summary>
    public void FillVectors(Span<byte> data)
    {
        for (int i = 0; i + 8 <= data.Length; i += 8)
        {
            switch (_random.Next(4))
            {
                case 0:
                    BitConverter.TryWriteBytes(data[i..], Interesting[_random.Next(Interesting.Length)]);
                    break;
                case 1:
                    BitConverter.TryWriteBytes(data[i..], Singles[_random.Next(Singles.Length)]);
                    BitConverter.TryWriteBytes(data[(i + 4)..], Singles[_random.Next(Singles.Length)]);
                    break;
                case 2:
                    BitConverter.TryWriteBytes(data[i..], Doubles[_random.Next(Doubles.Length)]);
                    break;
                default:
                    _random.NextBytes(data.Slice(i, 8));
                    break;
            }
        }
    }

    private Register Gpr(int size, bool opcodeField = false)
    {
        int count = bits == 64 ? 16 : 8;
        // The registers that translated code renames come up more often.
        int number = bits == 64 && _random.Next(3) == 0 ? Renamed[_random.Next(4)] : _random.Next(count);
        return size switch
        {
            1 when bits == 32 || (_random.Next(4) == 0 && !opcodeField) => Register.AL + _random.Next(8),
            1 => number < 4 ? Register.AL + number : Register.SPL + (number - 4),
            2 => Register.AX + number,
            4 => Register.EAX + number,
            _ => Register.RAX + number,
        };
    }

    private Register Vector(Register first) => first + _random.Next(first == Register.MM0 || bits == 32 ? 8 : 16);

    private bool SetOperand(ref Instruction i, int n, OpCodeOperandKind kind, ulong address, ref bool memory)
    {
        bool toMemory = _random.Next(3) != 0;
        switch (kind)
        {
            case OpCodeOperandKind.mem_offs:
                i.SetOpKind(n, OpKind.Memory);
                i.MemoryDisplSize = bits / 8;
                memory = true;
                return true;
            case OpCodeOperandKind.mem or OpCodeOperandKind.mem_mib or OpCodeOperandKind.mem_mpx:
                i.SetOpKind(n, OpKind.Memory);
                memory = true;
                return true;
            case OpCodeOperandKind.mem_vsib32x or OpCodeOperandKind.mem_vsib64x:
                i.SetOpKind(n, OpKind.Memory);
                i.MemoryIndex = Vector(Register.XMM0);
                memory = true;
                return true;
            case OpCodeOperandKind.mem_vsib32y or OpCodeOperandKind.mem_vsib64y:
                i.SetOpKind(n, OpKind.Memory);
                i.MemoryIndex = Vector(Register.YMM0);
                memory = true;
                return true;
            case OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r64_or_mem or OpCodeOperandKind.mm_or_mem
                or OpCodeOperandKind.xmm_or_mem or OpCodeOperandKind.ymm_or_mem when toMemory:
                i.SetOpKind(n, OpKind.Memory);
                memory = true;
                return true;
        }
        Register register = kind switch
        {
            OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r8_reg or OpCodeOperandKind.r8_opcode => Gpr(1),
            OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r16_reg or OpCodeOperandKind.r16_rm or OpCodeOperandKind.r16_opcode or OpCodeOperandKind.r16_reg_mem => Gpr(2),
            OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r32_reg or OpCodeOperandKind.r32_rm or OpCodeOperandKind.r32_opcode or OpCodeOperandKind.r32_vvvv
                or OpCodeOperandKind.r32_reg_mem => Gpr(4),
            OpCodeOperandKind.r64_or_mem or OpCodeOperandKind.r64_reg or OpCodeOperandKind.r64_rm or OpCodeOperandKind.r64_opcode or OpCodeOperandKind.r64_vvvv
                or OpCodeOperandKind.r64_reg_mem => Gpr(8),
            OpCodeOperandKind.mm_or_mem or OpCodeOperandKind.mm_reg or OpCodeOperandKind.mm_rm => Vector(Register.MM0),
            OpCodeOperandKind.xmm_or_mem or OpCodeOperandKind.xmm_reg or OpCodeOperandKind.xmm_rm or OpCodeOperandKind.xmm_vvvv or OpCodeOperandKind.xmm_is4
                or OpCodeOperandKind.xmm_is5 => Vector(Register.XMM0),
            OpCodeOperandKind.ymm_or_mem or OpCodeOperandKind.ymm_reg or OpCodeOperandKind.ymm_rm or OpCodeOperandKind.ymm_vvvv or OpCodeOperandKind.ymm_is4
                or OpCodeOperandKind.ymm_is5 => Vector(Register.YMM0),
            OpCodeOperandKind.al => Register.AL,
            OpCodeOperandKind.cl => Register.CL,
            OpCodeOperandKind.ax => Register.AX,
            OpCodeOperandKind.dx => Register.DX,
            OpCodeOperandKind.eax => Register.EAX,
            OpCodeOperandKind.rax => Register.RAX,
            OpCodeOperandKind.st0 => Register.ST0,
            OpCodeOperandKind.sti_opcode => Register.ST0 + _random.Next(8),
            OpCodeOperandKind.es => Register.ES,
            OpCodeOperandKind.cs => Register.CS,
            OpCodeOperandKind.ss => Register.SS,
            OpCodeOperandKind.ds => Register.DS,
            OpCodeOperandKind.fs => Register.FS,
            OpCodeOperandKind.gs => Register.GS,
            OpCodeOperandKind.seg_reg => Register.DS,
            OpCodeOperandKind.cr_reg => Register.CR2,
            OpCodeOperandKind.dr_reg => Register.DR0,
            _ => Register.None,
        };
        if (register != Register.None)
        {
            i.SetOpKind(n, OpKind.Register);
            i.SetOpRegister(n, register);
            return true;
        }
        OpKind implied = kind switch
        {
            OpCodeOperandKind.imm8 or OpCodeOperandKind.imm8_const_1 or OpCodeOperandKind.imm4_m2z => n > 0 && i.GetOpKind(n - 1) is OpKind.Immediate8 or OpKind.Immediate16
                && n > 0 ? OpKind.Immediate8_2nd : OpKind.Immediate8,
            OpCodeOperandKind.imm8sex16 => OpKind.Immediate8to16,
            OpCodeOperandKind.imm8sex32 => OpKind.Immediate8to32,
            OpCodeOperandKind.imm8sex64 => OpKind.Immediate8to64,
            OpCodeOperandKind.imm16 => OpKind.Immediate16,
            OpCodeOperandKind.imm32 => OpKind.Immediate32,
            OpCodeOperandKind.imm32sex64 => OpKind.Immediate32to64,
            OpCodeOperandKind.imm64 => OpKind.Immediate64,
            OpCodeOperandKind.br16_1 or OpCodeOperandKind.br16_2 => OpKind.NearBranch16,
            OpCodeOperandKind.br32_1 or OpCodeOperandKind.br32_4 => OpKind.NearBranch32,
            OpCodeOperandKind.br64_1 or OpCodeOperandKind.br64_4 => OpKind.NearBranch64,
            OpCodeOperandKind.seg_rSI => bits == 64 ? OpKind.MemorySegRSI : OpKind.MemorySegESI,
            OpCodeOperandKind.es_rDI => bits == 64 ? OpKind.MemoryESRDI : OpKind.MemoryESEDI,
            OpCodeOperandKind.seg_rDI => bits == 64 ? OpKind.MemorySegRDI : OpKind.MemorySegEDI,
            _ => OpKind.Register,
        };
        if (implied == OpKind.Register)
        {
            if (kind == OpCodeOperandKind.seg_rBX_al)
            {
                i.SetOpKind(n, OpKind.Memory);
                i.MemoryBase = bits == 64 ? Register.RBX : Register.EBX;
                i.MemoryIndex = Register.AL;
                return true;
            }
            return false;
        }
        i.SetOpKind(n, implied);
        ulong value = kind == OpCodeOperandKind.imm8_const_1 ? 1 : kind == OpCodeOperandKind.imm4_m2z ? (ulong)_random.Next(4) : Value();
        switch (implied)
        {
            case OpKind.Immediate8:
                i.Immediate8 = (byte)value;
                break;
            case OpKind.Immediate8_2nd:
                i.Immediate8_2nd = (byte)value;
                break;
            case OpKind.Immediate8to16:
                i.Immediate8to16 = (sbyte)value;
                break;
            case OpKind.Immediate8to32:
                i.Immediate8to32 = (sbyte)value;
                break;
            case OpKind.Immediate8to64:
                i.Immediate8to64 = (sbyte)value;
                break;
            case OpKind.Immediate16:
                i.Immediate16 = (ushort)value;
                break;
            case OpKind.Immediate32:
                i.Immediate32 = (uint)value;
                break;
            case OpKind.Immediate32to64:
                i.Immediate32to64 = (int)value;
                break;
            case OpKind.Immediate64:
                i.Immediate64 = value;
                break;
            case OpKind.NearBranch16 or OpKind.NearBranch32 or OpKind.NearBranch64:
                i.NearBranch64 = address + 32;
                break;
        }
        return true;
    }

    private ulong ChooseTarget(Placement placement, int size)
    {
        size = Math.Max(size, 1);
        ulong offset = (ulong)_random.Next(0x400, 0xC00);
        if (_random.Next(4) != 0)
        {
            offset &= ~63UL;
        }
        ulong near = (ulong)_random.Next(1, Math.Max(2, size));
        return DataStart + placement switch
        {
            Placement.Inside => 0x1000 + offset,
            Placement.Crossing => 0x2000 - near,
            Placement.NotPresent => 0x4000 + offset,
            Placement.CrossingNotPresent => 0x4000 - near,
            Placement.ReadOnly => 0x5000 + offset,
            Placement.CrossingReadOnly => 0x6000 - near,
            _ => 0x8000 + offset,
        };
    }

    private bool AddressMemory(ref Instruction i, Placement placement)
    {
        bool vsib = i.MemoryIndex != Register.None, offsets = i.MemoryDisplSize != 0;
        int size = i.MemorySize.GetSize();
        ulong target = ChooseTarget(placement, size);
        _instance.Target = target;
        _instance.Size = size;
        if (offsets)
        {
            i.MemoryDisplacement64 = target;
            return true;
        }
        ulong segmentBase = 0;
        if (bits == 64 && _random.Next(8) == 0)
        {
            i.SegmentPrefix = _random.Next(2) == 0 ? Register.FS : Register.GS;
            segmentBase = _random.Next(2) == 0 ? (ulong)_random.Next(1 << 29) : 0xFFFF_8000_0000_0000 + (ulong)_random.Next();
            _instance.FsBase = i.SegmentPrefix == Register.FS ? segmentBase : 0;
            _instance.GsBase = i.SegmentPrefix == Register.GS ? segmentBase : 0;
        }
        ulong offset = target - segmentBase;
        int width = bits == 64 && !vsib && segmentBase == 0 && _random.Next(6) == 0 ? 4 : bits / 8;
        ulong mask = width == 4 ? uint.MaxValue : ulong.MaxValue;
        int form = vsib ? 2 : _random.Next(8);
        i.MemoryIndexScale = 1;
        if (form == 0 && segmentBase == 0)
        {
            // RIP-relative, or absolute.
            if (bits == 64 && _random.Next(3) != 0)
            {
                i.MemoryBase = width == 4 ? Register.EIP : Register.RIP;
            }
            i.MemoryDisplSize = width == 4 && bits == 64 ? 4 : bits / 8;
            i.MemoryDisplacement64 = offset;
            return true;
        }
        int registers = bits == 64 ? 16 : 8;
        int baseNumber = form == 1 ? -1 : _random.Next(3) == 0 && bits == 64 ? AwkwardBases[_random.Next(5)] : _random.Next(registers);
        int indexNumber = form is 2 or 3 or 4 && !vsib || form == 1 ? _random.Next(registers) : -1;
        if (indexNumber == 4)
        {
            indexNumber = 15 & (registers - 1);
        }
        int displacement = _random.Next(3) switch
        {
            0 => 0,
            1 => _random.Next(-128, 128),
            _ => _random.Next(),
        };
        if (_random.Next(2) == 0)
        {
            displacement = -displacement;
        }
        i.MemoryIndexScale = indexNumber >= 0 || vsib ? 1 << _random.Next(4) : 1;
        if (vsib)
        {
            FillIndices(i);
        }
        ulong index = 0;
        if (indexNumber >= 0)
        {
            if (baseNumber == indexNumber || baseNumber < 0)
            {
                // The displacement must reach, whatever the register.
                _registers.Gpr[indexNumber] = (ulong)_random.Next(-100000, 100000) & mask;
            }
            index = _registers.Gpr[indexNumber] * (ulong)i.MemoryIndexScale;
        }
        if (baseNumber < 0 || baseNumber == indexNumber)
        {
            ulong rest = offset - index - (baseNumber >= 0 ? _registers.Gpr[baseNumber] : 0);
            if (width == 8 && (long)rest != (int)rest)
            {
                return false;
            }
            displacement = (int)rest;
        }
        else
        {
            ulong value = (offset - index - (ulong)(long)displacement) & mask;
            _registers.Gpr[baseNumber] = width == 4 && bits == 64 ? value | ((ulong)_random.Next() << 32) : value;
        }
        i.MemoryBase = baseNumber < 0 ? Register.None : width == 8 ? Register.RAX + baseNumber : Register.EAX + baseNumber;
        if (!vsib)
        {
            i.MemoryIndex = indexNumber < 0 ? Register.None : width == 8 ? Register.RAX + indexNumber : Register.EAX + indexNumber;
        }
        i.MemoryDisplacement64 = width == 8 ? (ulong)(long)displacement : (uint)displacement;
        i.MemoryDisplSize = displacement == 0 && baseNumber >= 0 ? 0 : displacement is >= -128 and <= 127 && baseNumber >= 0 ? 1 : width;
        return true;
    }

    private void FillIndices(in Instruction i)
    {
        int at = (i.MemoryIndex.IsYMM() ? i.MemoryIndex - Register.YMM0 : i.MemoryIndex - Register.XMM0) * 32;
        bool quadwords = i.Code.ToString().Contains("vm64", StringComparison.Ordinal);
        for (int k = 0; k < 32; k += quadwords ? 8 : 4)
        {
            int index = _random.Next(-30, 30);
            if (quadwords)
            {
                BitConverter.TryWriteBytes(_registers.Ymm.AsSpan(at + k), (long)index);
            }
            else
            {
                BitConverter.TryWriteBytes(_registers.Ymm.AsSpan(at + k), index);
            }
        }
    }

    // Registers that instructions use without naming them. False when an address register would have to serve two ends.
    private bool Implicit(ref Instruction i, OpCodeInfo info, Placement placement)
    {
        ulong[] gpr = _registers.Gpr;
        if (Vcpu.IsBitString(i))
        {
            int number = i.Op1Register.GetNumber();
            if ((i.MemoryBase != Register.None && i.MemoryBase.GetNumber() == number) || (i.MemoryIndex != Register.None && i.MemoryIndex.GetNumber() == number))
            {
                return false;
            }
            int size = i.MemorySize.GetSize();
            ulong mask = size == 8 ? ulong.MaxValue : (1UL << (size * 8)) - 1;
            gpr[number] = (gpr[number] & ~mask) | ((ulong)_random.Next(-2000, 2000) & mask);
        }
        bool free = _instance.Target == 0;
        if (i.Mnemonic is Mnemonic.Div or Mnemonic.Idiv && _random.Next(2) == 0 && free)
        {
            gpr[2] = 0;
        }
        if (i.IsStringInstruction)
        {
            gpr[6] = ChooseTarget(placement, 8);
            gpr[7] = ChooseTarget(placement, 8) + (ulong)_random.Next(64);
            gpr[1] = (ulong)_random.Next(40);
            _instance.Target = gpr[7];
            switch (_random.Next(3))
            {
                case 0 when info.CanUseRepPrefix || info.CanUseRepnePrefix:
                    i.HasRepPrefix = true;
                    break;
                case 1 when info.CanUseRepnePrefix:
                    i.HasRepnePrefix = true;
                    break;
            }
        }
        else if (i.Mnemonic is Mnemonic.Maskmovq or Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu)
        {
            gpr[7] = _instance.Target = ChooseTarget(placement, 16);
        }
        else if (i.Mnemonic == Mnemonic.Xlatb)
        {
            gpr[3] = ChooseTarget(placement, 1) - (byte)gpr[0];
            _instance.Target = gpr[3];
        }
        else if (free && i.Mnemonic is Mnemonic.Push or Mnemonic.Pop or Mnemonic.Pushfq)
        {
            gpr[4] = _instance.Target = ChooseTarget(placement, 8) + (i.Mnemonic == Mnemonic.Pop ? 0UL : 8);
        }
        else if (i.Mnemonic is Mnemonic.Push or Mnemonic.Pop && i.MemoryBase.GetNumber() == 4 && i.MemoryBase != Register.None)
        {
            return false;
        }
        else if (i.Mnemonic == Mnemonic.Leave)
        {
            gpr[5] = _instance.Target = ChooseTarget(placement, 8);
        }
        return true;
    }

    private sealed class Writer : CodeWriter
    {
        public readonly List<byte> Bytes = [];

        public override void WriteByte(byte value) => Bytes.Add(value);
    }
}
