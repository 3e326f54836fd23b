using System.Runtime.CompilerServices;

namespace Lodge.Storage.Operations;

/// <summary>Buffers for transfers: pinned, and at an address that direct host I/O takes without a copy.</summary>
internal static unsafe class AlignedMemory
{
    private const int Alignment = 4096;

    /// <summary>Zeroed memory at a multiple of 4096.</summary>
    public static Memory<byte> Allocate(int length)
    {
        var array = GC.AllocateArray<byte>(length + Alignment, pinned: true);
        var address = (nuint)Unsafe.AsPointer(ref array[0]);
        return array.AsMemory((int)((Alignment - (address % Alignment)) % Alignment), length);
    }
}
