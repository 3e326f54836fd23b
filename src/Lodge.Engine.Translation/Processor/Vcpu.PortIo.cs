using System.Buffers.Binary;
using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Port input and output (Intel SDM vol. 1, chapter 19; vol. 2: IN, OUT).
internal sealed unsafe partial class Vcpu
{
    private bool TryExecutePortIo(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.In:
                int size = instruction.Op0Register.GetSize();
                ushort port = instruction.Op1Kind == OpKind.Register ? (ushort)B->Gpr[2] : instruction.Immediate8;
                CheckPortAccess(port, size);
                WriteRegister(instruction.Op0Register, ReadPort(port, size));
                return true;
            case Mnemonic.Out:
                size = instruction.Op1Register.GetSize();
                port = instruction.Op0Kind == OpKind.Register ? (ushort)B->Gpr[2] : instruction.Immediate8;
                CheckPortAccess(port, size);
                WritePort(port, (uint)ReadRegister(instruction.Op1Register), size);
                return true;
            default:
                return false;
        }
    }

    private uint ReadPort(ushort port, int size)
    {
        Span<byte> data = stackalloc byte[4];
        data.Clear();
        Bus.ReadPort(port, data[..size]);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    private void WritePort(ushort port, uint value, int size)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Bus.WritePort(port, data[..size]);
    }
}
