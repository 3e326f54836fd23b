using System.Runtime.CompilerServices;
using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Vector loads and stores whose elements are accessed one by one: gathers, conditional moves, byte-masked stores (Intel SDM vol. 2: VGATHER, VPGATHER,
// VMASKMOV, VPMASKMOV, MASKMOVQ, MASKMOVDQU). Elements that the mask leaves out are not accessed and cannot fault.
internal sealed unsafe partial class Vcpu
{
    private const int YmmSize = 32;

    private byte* YmmRegister(Register register) => B->Ymm + ((register.IsYMM() ? register - Register.YMM0 : register - Register.XMM0) * YmmSize);

    /// <summary>Executes the instructions above. False, with no effect, when the instruction is of another kind.</summary>
    /// <exception cref="GuestFault">An element faults. A gather has then completed, and cleared the mask of, the elements before it; the others have had no effect.</exception>
    private bool TryExecuteVectorMemory(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Vgatherdps or Mnemonic.Vpgatherdd:
                ExecuteGather(instruction, 4, 4);
                return true;
            case Mnemonic.Vgatherqps or Mnemonic.Vpgatherqd:
                ExecuteGather(instruction, 8, 4);
                return true;
            case Mnemonic.Vgatherdpd or Mnemonic.Vpgatherdq:
                ExecuteGather(instruction, 4, 8);
                return true;
            case Mnemonic.Vgatherqpd or Mnemonic.Vpgatherqq:
                ExecuteGather(instruction, 8, 8);
                return true;
            case Mnemonic.Vmaskmovps or Mnemonic.Vpmaskmovd:
                ExecuteMaskedMove(instruction, 4);
                return true;
            case Mnemonic.Vmaskmovpd or Mnemonic.Vpmaskmovq:
                ExecuteMaskedMove(instruction, 8);
                return true;
            case Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu:
                ExecuteByteMaskedStore(instruction, YmmRegister(instruction.Op1Register), YmmRegister(instruction.Op2Register), 16);
                return true;
            case Mnemonic.Maskmovq:
                SaveX87();
                EnterMmx();
                byte* registers = B->ExtendedState + StOffset;
                ExecuteByteMaskedStore(instruction, registers + ((instruction.Op1Register - Register.MM0) * 16), registers + ((instruction.Op2Register - Register.MM0) * 16), 8);
                return true;
            default:
                return false;
        }
    }

    private void ExecuteGather(in Instruction instruction, int indexSize, int size)
    {
        Register destination = instruction.Op0Register, mask = instruction.Op2Register, index = instruction.MemoryIndex;
        byte* into = YmmRegister(destination), maskOf = YmmRegister(mask), indexOf = YmmRegister(index);
        if (into == maskOf || into == indexOf || maskOf == indexOf)
        {
            GuestFault.InvalidOpcode();
        }
        int elements = Math.Min(destination.GetSize() / size, index.GetSize() / indexSize);
        int addressSize = instruction.MemoryBase != Register.None ? instruction.MemoryBase.GetSize() : instruction.MemoryDisplSize == 8 || CodeBits == 64 ? 8 : 4;
        ulong baseOffset = instruction.MemoryDisplacement64 + (instruction.MemoryBase == Register.None ? 0 : ReadRegister(instruction.MemoryBase));
        for (int i = 0; i < elements; i++)
        {
            new Span<byte>(maskOf + (i * size), size).Fill((sbyte)maskOf[(i * size) + size - 1] < 0 ? (byte)0xFF : (byte)0);
        }
        for (int i = 0; i < elements; i++)
        {
            if (maskOf[i * size] == 0)
            {
                continue;
            }
            ulong position = indexSize == 4 ? (ulong)(long)Unsafe.ReadUnaligned<int>(indexOf + (i * 4)) : Unsafe.ReadUnaligned<ulong>(indexOf + (i * 8));
            ulong offset = baseOffset + (position * (ulong)instruction.MemoryIndexScale);
            offset = addressSize == 4 ? (uint)offset : offset;
            ulong value = ReadLinear(LinearAddress(SegmentNumber(instruction), offset, size, AccessKind.Read), size, UserMode);
            new ReadOnlySpan<byte>(&value, size).CopyTo(new Span<byte>(into + (i * size), size));
            new Span<byte>(maskOf + (i * size), size).Clear();
        }
        new Span<byte>(maskOf, YmmSize).Clear();
        new Span<byte>(into + (elements * size), YmmSize - (elements * size)).Clear();
    }

    private void ExecuteMaskedMove(in Instruction instruction, int size)
    {
        bool store = instruction.Op0Kind == OpKind.Memory;
        Register data = store ? instruction.Op2Register : instruction.Op0Register;
        int length = data.GetSize(), segment = SegmentNumber(instruction);
        byte* mask = YmmRegister(instruction.Op1Register), register = YmmRegister(data);
        ulong offset = EffectiveOffset(instruction);
        ulong offsetMask = Is32BitAddress(instruction) || CodeBits != 64 ? uint.MaxValue : ulong.MaxValue;
        byte* result = stackalloc byte[YmmSize];
        new Span<byte>(result, YmmSize).Clear();
        // A store happens entirely or not at all: first see whether any element faults.
        for (int i = 0; i < length; i += size)
        {
            if ((sbyte)mask[i + size - 1] >= 0)
            {
                continue;
            }
            ulong linear = LinearAddress(segment, (offset + (ulong)i) & offsetMask, size, store ? AccessKind.Write : AccessKind.Read);
            if (store)
            {
                ProbeWrite(linear, size, UserMode);
            }
            else
            {
                ulong value = ReadLinear(linear, size, UserMode);
                new ReadOnlySpan<byte>(&value, size).CopyTo(new Span<byte>(result + i, size));
            }
        }
        if (!store)
        {
            new ReadOnlySpan<byte>(result, YmmSize).CopyTo(new Span<byte>(register, YmmSize));
            return;
        }
        for (int i = 0; i < length; i += size)
        {
            if ((sbyte)mask[i + size - 1] < 0)
            {
                ulong value = size == 4 ? Unsafe.ReadUnaligned<uint>(register + i) : Unsafe.ReadUnaligned<ulong>(register + i);
                WriteLinear(LinearAddress(segment, (offset + (ulong)i) & offsetMask, size, AccessKind.Write), value, size, UserMode);
            }
        }
    }

    private void ExecuteByteMaskedStore(in Instruction instruction, byte* data, byte* mask, int length)
    {
        ulong offsetMask = instruction.Op0Kind switch
        {
            OpKind.MemorySegDI => 0xFFFF,
            OpKind.MemorySegEDI => 0xFFFF_FFFF,
            _ => ulong.MaxValue,
        };
        ulong offset = B->Gpr[7];
        int segment = SegmentNumber(instruction);
        for (int pass = 0; pass < 2; pass++)
        {
            for (int i = 0; i < length; i++)
            {
                if ((sbyte)mask[i] >= 0)
                {
                    continue;
                }
                ulong linear = LinearAddress(segment, (offset + (ulong)i) & offsetMask, 1, AccessKind.Write);
                if (pass == 0)
                {
                    ProbeWrite(linear, 1, UserMode);
                }
                else
                {
                    WriteLinear(linear, data[i], 1, UserMode);
                }
            }
        }
    }

    // An MMX instruction: #MF for a pending exception, top of stack 0, all registers in use (Intel SDM vol. 1, 9.5). The image holds ST(0) first, while
    // MMX registers are the physical ones.
    private void EnterMmx()
    {
        ref ushort status = ref *(ushort*)(B->ExtendedState + 2);
        if ((status & 0x80) != 0)
        {
            GuestFault.Raise(Vector.X87FloatingPoint);
        }
        int top = (status >> 11) & 7;
        if (top != 0)
        {
            byte* stack = B->ExtendedState + StOffset, copy = stackalloc byte[StSize];
            new ReadOnlySpan<byte>(stack, StSize).CopyTo(new Span<byte>(copy, StSize));
            for (int i = 0; i < 8; i++)
            {
                new ReadOnlySpan<byte>(copy + (((i - top) & 7) * 16), 16).CopyTo(new Span<byte>(stack + (i * 16), 16));
            }
        }
        status &= unchecked((ushort)~0x3800);
        B->ExtendedState[4] = 0xFF;
    }
}
