using System.Buffers.Binary;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Debugging;

// x87, SSE and AVX registers out of the standard format of XSAVE (Intel SDM vol. 1, 10.5.1 "x87 state", table 10-2; vol. 1, 13.4).
internal sealed partial class RegisterSet
{
    private const int ControlWord = 0, StatusWord = 2, TagWord = 4, OpcodeWord = 6, InstructionPointer = 8, DataPointer = 16, MxcsrAt = 24, StackAt = 32, XmmAt = 160,
        ComponentsAt = 512, UpperAt = 576;

    private void AddX87()
    {
        for (int i = 0; i < 8; i++)
        {
            int at = StackAt + (i * 16);
            Area($"st{i}", 80, "i387_ext", Core, CpuModel.ComponentX87, at);
        }
        Word("fctrl", ControlWord);
        Word("fstat", StatusWord);
        Add("ftag", 32, "int", Core, (s, d) => BinaryPrimitives.WriteUInt32LittleEndian(d, FullTags(Use(s, CpuModel.ComponentX87))), (s, v) =>
        {
            uint tags = BinaryPrimitives.ReadUInt32LittleEndian(v);
            byte inUse = 0;
            for (int i = 0; i < 8; i++)
            {
                inUse |= ((tags >> (i * 2)) & 3) == 3 ? (byte)0 : (byte)(1 << i);
            }
            Use(s, CpuModel.ComponentX87)[TagWord] = inUse;
            return tags <= ushort.MaxValue;
        });
        Word("fiseg", InstructionPointer + 4);
        Area("fioff", 32, "int", Core, CpuModel.ComponentX87, InstructionPointer);
        Word("foseg", DataPointer + 4);
        Area("fooff", 32, "int", Core, CpuModel.ComponentX87, DataPointer);
        Word("fop", OpcodeWord);
    }

    private void AddVectors(bool avx)
    {
        for (int i = 0; i < 16; i++)
        {
            Area($"xmm{i}", 128, "vec128", Sse, CpuModel.ComponentSse, XmmAt + (i * 16));
        }
        Add("mxcsr", 32, "i386_mxcsr", Sse, (s, d) => s.ExtendedState.AsSpan(MxcsrAt, 4).CopyTo(d), (s, v) =>
        {
            v.CopyTo(s.ExtendedState.AsSpan(MxcsrAt));
            return true;
        });
        for (int i = 0; avx && i < 16; i++)
        {
            Area($"ymm{i}h", 128, "uint128", Avx, CpuModel.ComponentAvx, UpperAt + (i * 16));
        }
    }

    // A register of 16 bits that gdb sees as 32.
    private void Word(string name, int at) =>
        Add(name, 32, "int", Core, (s, d) => BinaryPrimitives.WriteUInt32LittleEndian(d, BinaryPrimitives.ReadUInt16LittleEndian(Use(s, CpuModel.ComponentX87)[at..])), (s, v) =>
        {
            uint value = BinaryPrimitives.ReadUInt32LittleEndian(v);
            BinaryPrimitives.WriteUInt16LittleEndian(Use(s, CpuModel.ComponentX87)[at..], (ushort)value);
            return value <= ushort.MaxValue;
        });

    private void Area(string name, int bits, string type, string feature, ulong component, int at) =>
        Add(name, bits, type, feature, (s, d) => Use(s, component).Slice(at, d.Length).CopyTo(d), (s, v) =>
        {
            v.CopyTo(Use(s, component)[at..]);
            return true;
        });

    /// <summary>The area with a component marked in use: one that is not has its initial value (13.6), which is put there first.</summary>
    private static Span<byte> Use(ProcessorState state, ulong component)
    {
        Span<byte> area = state.ExtendedState;
        ulong present = BinaryPrimitives.ReadUInt64LittleEndian(area[ComponentsAt..]);
        if ((present & component) == 0)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(area[ComponentsAt..], present | component);
            switch (component)
            {
                case CpuModel.ComponentX87:
                    area[..MxcsrAt].Clear();
                    area[StackAt..XmmAt].Clear();
                    BinaryPrimitives.WriteUInt16LittleEndian(area, 0x37F);
                    break;
                case CpuModel.ComponentSse:
                    area.Slice(XmmAt, 256).Clear();
                    break;
                default:
                    area.Slice(UpperAt, 256).Clear();
                    break;
            }
        }
        return area;
    }

    // Two bits for each physical register: 0 valid, 1 zero, 2 special, 3 empty (8.1.7); XSAVE keeps only whether it is empty.
    private static uint FullTags(ReadOnlySpan<byte> area)
    {
        int top = (area[StatusWord + 1] >> 3) & 7;
        uint tags = 0;
        for (int physical = 0; physical < 8; physical++)
        {
            uint tag = 3;
            if (((area[TagWord] >> physical) & 1) != 0)
            {
                ReadOnlySpan<byte> register = area.Slice(StackAt + (((physical - top) & 7) * 16), 10);
                ulong significand = BinaryPrimitives.ReadUInt64LittleEndian(register);
                int exponent = BinaryPrimitives.ReadUInt16LittleEndian(register[8..]) & 0x7FFF;
                tag = exponent == 0 && significand == 0 ? 1u : exponent is 0 or 0x7FFF || significand >> 63 == 0 ? 2u : 0u;
            }
            tags |= tag << (physical * 2);
        }
        return tags;
    }
}
