using System.Runtime.CompilerServices;

namespace Lodge.Engine.Translation.Emission;

/// <summary>Host registers by encoding number.</summary>
internal static class Host
{
    public const int Rax = 0, Rcx = 1, Rdx = 2, Rbx = 3, Rsp = 4, Rbp = 5, Rsi = 6, Rdi = 7, R8 = 8, R9 = 9, R10 = 10, R11 = 11, R12 = 12;

    /// <summary>Holds the guest's RSP.</summary>
    public const int R13 = 13;

    /// <summary>Scratch: addresses.</summary>
    public const int R14 = 14;

    /// <summary>Scratch: indices and renamed operands.</summary>
    public const int R15 = 15;
}

/// <summary>Condition codes as in Jcc opcodes.</summary>
internal static class Cc
{
    public const int O = 0, No = 1, B = 2, Ae = 3, E = 4, Ne = 5, Be = 6, A = 7, S = 8, Ns = 9, P = 10, Np = 11, L = 12, Ge = 13, Le = 14, G = 15;
}

/// <summary>What four bytes of emitted code are.</summary>
internal enum FixupKind : byte
{
    /// <summary>Displacement to something that stays where it is when the code stands elsewhere.</summary>
    Stub,

    /// <summary>Number of an exit of the block.</summary>
    Exit,

    /// <summary>Number of a flag recipe.</summary>
    Recipe,
}

/// <summary>Four bytes of emitted code that depend on where it stands, or on numbers of this cache.</summary>
internal readonly unsafe struct CodeFixup(byte* at, FixupKind kind)
{
    /// <summary>Their address.</summary>
    public byte* At { get; } = at;

    /// <summary>What they are.</summary>
    public FixupKind Kind { get; } = kind;
}

/// <summary>
/// Writes x86-64 machine code to a position in a <see cref="CodeMemory"/>. Opcodes: one byte, or 0x0Fxx, or 0x0F38xx style as an integer. Addresses
/// given and returned are those of the executable view.
/// </summary>
internal sealed unsafe class Emitter
{
    private byte* _at;
    private nint _delta;
    private List<CodeFixup>? _fixups;
    private byte* _outside;

    /// <summary>Continues at an address of the executable view.</summary>
    public void Begin(CodeMemory memory, byte* execute)
    {
        _delta = memory.Delta;
        _at = execute - _delta;
    }

    /// <summary>Current address in the executable view.</summary>
    public byte* Here => _at + _delta;

    /// <summary>Notes from now on what has to be changed in the code when it stands elsewhere.</summary>
    /// <param name="fixups">Where it is noted; null: nowhere any more.</param>
    /// <param name="outside">Addresses below this one stay where they are.</param>
    public void Note(List<CodeFixup>? fixups, byte* outside = null)
    {
        _fixups = fixups;
        _outside = outside;
    }

    /// <summary>Notes that the four bytes before this point are to be changed.</summary>
    public void NoteFixup(FixupKind kind) => _fixups?.Add(new CodeFixup(Here - 4, kind));

    /// <summary>Appends a byte.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Byte(int value) => *_at++ = (byte)value;

    /// <summary>Appends four bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Int32(int value)
    {
        Unsafe.WriteUnaligned(_at, value);
        _at += 4;
    }

    /// <summary>Appends eight bytes.</summary>
    public void Int64(ulong value)
    {
        Unsafe.WriteUnaligned(_at, value);
        _at += 8;
    }

    /// <summary>Appends raw code.</summary>
    public void Bytes(ReadOnlySpan<byte> code)
    {
        code.CopyTo(new Span<byte>(_at, code.Length));
        _at += code.Length;
    }

    /// <summary>Pads with INT3 to a multiple of <paramref name="alignment"/>.</summary>
    public void Align(int alignment)
    {
        while (((nint)Here & (alignment - 1)) != 0)
        {
            Byte(0xCC);
        }
    }

    /// <summary>op reg, rm between registers.</summary>
    public void Reg(bool wide, int opcode, int reg, int rm)
    {
        Rex(wide, reg, 0, rm);
        Opcode(opcode);
        Byte(0xC0 | ((reg & 7) << 3) | (rm & 7));
    }

    /// <summary>op reg, [base + displacement].</summary>
    public void Mem(bool wide, int opcode, int reg, int @base, int displacement)
    {
        Rex(wide, reg, 0, @base);
        Opcode(opcode);
        ModRm(reg, @base, displacement);
    }

    /// <summary>op reg, [base + index*scale + displacement].</summary>
    public void MemIndex(bool wide, int opcode, int reg, int @base, int index, int scale, int displacement)
    {
        Rex(wide, reg, index, @base);
        Opcode(opcode);
        int ss = scale switch { 1 => 0, 2 => 1, 4 => 2, _ => 3 };
        Byte(0x84 | ((reg & 7) << 3));
        Byte((ss << 6) | ((index & 7) << 3) | (@base & 7));
        Int32(displacement);
    }

    /// <summary>op reg, [index*scale + displacement].</summary>
    public void MemNoBase(bool wide, int opcode, int reg, int index, int scale, int displacement)
    {
        Rex(wide, reg, index, 0);
        Opcode(opcode);
        int ss = scale switch { 1 => 0, 2 => 1, 4 => 2, _ => 3 };
        Byte(0x04 | ((reg & 7) << 3));
        Byte((ss << 6) | ((index & 7) << 3) | 5);
        Int32(displacement);
    }

    /// <summary>op reg, gs:[displacement]: a field of the processor block.</summary>
    public void Gs(bool wide, int opcode, int reg, int displacement)
    {
        Byte(0x65);
        Rex(wide, reg, 0, 0);
        Opcode(opcode);
        Byte(0x04 | ((reg & 7) << 3));
        Byte(0x25);
        Int32(displacement);
    }

    /// <summary>op reg16, gs:[displacement].</summary>
    public void Gs16(int opcode, int reg, int displacement)
    {
        Byte(0x66);
        Gs(false, opcode, reg, displacement);
    }

    /// <summary>op reg, gs:[index + displacement].</summary>
    public void GsIndex(bool wide, int opcode, int reg, int index, int displacement)
    {
        Byte(0x65);
        Rex(wide, reg, 0, index);
        Opcode(opcode);
        Byte(0x80 | ((reg & 7) << 3) | (index & 7));
        if ((index & 7) == 4)
        {
            Byte(0x24);
        }
        Int32(displacement);
    }

    /// <summary>VMOVDQU between YMM register and gs:[displacement].</summary>
    public void GsYmm(bool store, int ymm, int displacement)
    {
        Byte(0x65);
        Byte(0xC5);
        Byte(ymm < 8 ? 0xFE : 0x7E);
        Byte(store ? 0x7F : 0x6F);
        Byte(0x04 | ((ymm & 7) << 3));
        Byte(0x25);
        Int32(displacement);
    }

    /// <summary>RORX r64, r64, imm8 (flags untouched; BMI2).</summary>
    public void Rorx(int destination, int source, int count)
    {
        Byte(0xC4);
        Byte((destination < 8 ? 0x80 : 0) | 0x40 | (source < 8 ? 0x20 : 0) | 3);
        Byte(0xFB);
        Byte(0xF0);
        Byte(0xC0 | ((destination & 7) << 3) | (source & 7));
        Byte(count);
    }

    /// <summary>MOV r64, address of this process: of one length, so that what follows stands at the same place in every process.</summary>
    public void MovAddress(int reg, void* address)
    {
        Byte(reg >= 8 ? 0x49 : 0x48);
        Byte(0xB8 | (reg & 7));
        Int64((ulong)address);
    }

    /// <summary>MOV r64, constant, in the shortest form.</summary>
    public void MovImmediate(int reg, ulong value)
    {
        if (value <= uint.MaxValue)
        {
            if (reg >= 8)
            {
                Byte(0x41);
            }
            Byte(0xB8 | (reg & 7));
            Int32((int)value);
        }
        else if ((long)value == (int)value)
        {
            Byte(reg >= 8 ? 0x49 : 0x48);
            Byte(0xC7);
            Byte(0xC0 | (reg & 7));
            Int32((int)value);
        }
        else
        {
            Byte(reg >= 8 ? 0x49 : 0x48);
            Byte(0xB8 | (reg & 7));
            Int64(value);
        }
    }

    /// <summary>LEA reg, [base + displacement] (64-bit).</summary>
    public void Lea(int reg, int @base, int displacement) => Mem(true, 0x8D, reg, @base, displacement);

    /// <summary>MOV reg, reg (64-bit).</summary>
    public void Mov(int destination, int source) => Reg(true, 0x8B, destination, source);

    /// <summary>MOV reg, gs:[...] (64-bit).</summary>
    public void Load(int reg, int displacement) => Gs(true, 0x8B, reg, displacement);

    /// <summary>MOV gs:[...], reg (64-bit).</summary>
    public void Store(int reg, int displacement) => Gs(true, 0x89, reg, displacement);

    /// <summary>MOV dword gs:[...], imm32.</summary>
    public void StoreImmediate32(int displacement, int value)
    {
        Gs(false, 0xC7, 0, displacement);
        Int32(value);
    }

    /// <summary>MOV qword gs:[...], sign-extended imm32.</summary>
    public void StoreImmediate64(int displacement, int value)
    {
        Gs(true, 0xC7, 0, displacement);
        Int32(value);
    }

    /// <summary>op r, imm32 of the 81 group (/0 ADD /1 OR /4 AND /5 SUB /6 XOR /7 CMP).</summary>
    public void Immediate(bool wide, int operation, int reg, int value)
    {
        Rex(wide, 0, 0, reg);
        Byte(value is >= -128 and <= 127 ? 0x83 : 0x81);
        Byte(0xC0 | (operation << 3) | (reg & 7));
        if (value is >= -128 and <= 127)
        {
            Byte(value);
        }
        else
        {
            Int32(value);
        }
    }

    /// <summary>SUB dword gs:[...], imm8.</summary>
    public void SubtractGs32(int displacement, sbyte value)
    {
        Gs(false, 0x83, 5, displacement);
        Byte(value);
    }

    /// <summary>CMP dword gs:[...], imm8/imm32.</summary>
    public void CompareGs32(int displacement, int value)
    {
        bool small = value is >= -128 and <= 127;
        Gs(false, small ? 0x83 : 0x81, 7, displacement);
        if (small)
        {
            Byte(value);
        }
        else
        {
            Int32(value);
        }
    }

    /// <summary>Jcc rel32 to be bound later; returns the address of the displacement.</summary>
    public byte* Jump(int condition)
    {
        Byte(0x0F);
        Byte(0x80 | condition);
        Int32(0);
        return Here - 4;
    }

    /// <summary>JMP rel32 to be bound later; returns the address of the displacement.</summary>
    public byte* Jump()
    {
        Byte(0xE9);
        Int32(0);
        return Here - 4;
    }

    /// <summary>JMP rel32 to a known address.</summary>
    public void JumpTo(byte* target)
    {
        Byte(0xE9);
        Displacement(target);
    }

    /// <summary>Jcc rel32 to a known address.</summary>
    public void JumpTo(int condition, byte* target)
    {
        Byte(0x0F);
        Byte(0x80 | condition);
        Displacement(target);
    }

    /// <summary>CALL rel32.</summary>
    public void Call(byte* target)
    {
        Byte(0xE8);
        Displacement(target);
    }

    /// <summary>Binds a displacement returned by <see cref="Jump()"/> to the current address.</summary>
    public void Bind(byte* displacement) => Patch(displacement, Here);

    /// <summary>Sets the displacement at <paramref name="displacement"/> so that it leads to <paramref name="target"/>.</summary>
    public void Patch(byte* displacement, byte* target) => Unsafe.WriteUnaligned(displacement - _delta, (int)(target - (displacement + 4)));

    private void Displacement(byte* target)
    {
        Int32((int)(target - (Here + 4)));
        if (_fixups is not null && target < _outside)
        {
            NoteFixup(FixupKind.Stub);
        }
    }

    private void Rex(bool wide, int reg, int index, int rm)
    {
        int rex = (wide ? 8 : 0) | ((reg >> 3) << 2) | ((index >> 3) << 1) | (rm >> 3);
        if (rex != 0)
        {
            Byte(0x40 | rex);
        }
    }

    private void Opcode(int opcode)
    {
        if (opcode > 0xFFFF)
        {
            Byte(opcode >> 16);
        }
        if (opcode > 0xFF)
        {
            Byte(opcode >> 8);
        }
        Byte(opcode);
    }

    private void ModRm(int reg, int @base, int displacement)
    {
        bool sib = (@base & 7) == 4;
        int mod = displacement == 0 && (@base & 7) != 5 ? 0 : displacement is >= -128 and <= 127 ? 1 : 2;
        Byte((mod << 6) | ((reg & 7) << 3) | (@base & 7));
        if (sib)
        {
            Byte(0x24);
        }
        if (mod == 1)
        {
            Byte(displacement);
        }
        else if (mod == 2)
        {
            Int32(displacement);
        }
    }
}
