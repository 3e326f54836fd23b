using System.Runtime.InteropServices;
using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// RDRAND and RDSEED (Intel SDM vol. 1, 7.3.17), fed by the host kernel's generator.
internal sealed unsafe partial class Vcpu
{
    private readonly byte[] _random = new byte[512];
    private int _randomLeft;

    // CF set, the other arithmetic flags clear, in the form of ProcessorBlock.PackedFlags.
    private const ulong PackedCarryOnly = 0x300, PackedNone = 0x200;

    private void ExecuteRandom(in Instruction instruction)
    {
        Span<byte> bytes = stackalloc byte[8];
        if (TryTakeRandom(bytes))
        {
            WriteRegister(instruction.Op0Register, BitConverter.ToUInt64(bytes));
            B->PackedFlags = PackedCarryOnly;
        }
        else
        {
            WriteRegister(instruction.Op0Register, 0);
            B->PackedFlags = PackedNone;
        }
    }

    private bool TryTakeRandom(Span<byte> destination)
    {
        if (_randomLeft < destination.Length)
        {
            fixed (byte* buffer = _random)
            {
                if (getrandom(buffer, (nuint)_random.Length, 0) != _random.Length)
                {
                    return false;
                }
            }
            _randomLeft = _random.Length;
        }
        Span<byte> taken = _random.AsSpan(_randomLeft - destination.Length, destination.Length);
        taken.CopyTo(destination);
        taken.Clear();
        _randomLeft -= destination.Length;
        return true;
    }

    [LibraryImport("libc")]
    private static partial nint getrandom(void* buffer, nuint length, uint flags);
}
