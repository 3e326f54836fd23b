using System.Diagnostics.CodeAnalysis;

namespace Lodge.Engine.Translation.Processor;

/// <summary>Exception vectors (Intel SDM vol. 3, table 6-1).</summary>
internal enum Vector : byte
{
    DivideError = 0,
    Debug = 1,
    Nmi = 2,
    Breakpoint = 3,
    Overflow = 4,
    BoundRange = 5,
    InvalidOpcode = 6,
    DeviceNotAvailable = 7,
    DoubleFault = 8,
    InvalidTss = 10,
    SegmentNotPresent = 11,
    StackFault = 12,
    GeneralProtection = 13,
    PageFault = 14,
    X87FloatingPoint = 16,
    AlignmentCheck = 17,
    MachineCheck = 18,
    SimdFloatingPoint = 19,
}

/// <summary>
/// A guest exception raised while C# executes an instruction: the instruction has had no effect, RIP still points at it. Caught by the run loop,
/// which delivers it. Hot paths (page faults of translated code) do not throw; they deliver directly.
/// </summary>
internal sealed class GuestFault(Vector vector, uint? errorCode, ulong address) : Exception
{
    /// <summary>Vector.</summary>
    public Vector Vector { get; } = vector;

    /// <summary>Error code, for vectors that push one.</summary>
    public uint? ErrorCode { get; } = errorCode;

    /// <summary>Linear address for CR2 of a page fault; pending DR6 bits of a #DB.</summary>
    public ulong Address { get; } = address;

    /// <summary>#UD.</summary>
    [DoesNotReturn]
    public static void InvalidOpcode() => throw new GuestFault(Vector.InvalidOpcode, null, 0);

    /// <summary>#GP with an error code.</summary>
    [DoesNotReturn]
    public static void GeneralProtection(uint errorCode = 0) => throw new GuestFault(Vector.GeneralProtection, errorCode, 0);

    /// <summary>Any other exception.</summary>
    [DoesNotReturn]
    public static void Raise(Vector vector, uint? errorCode = null, ulong address = 0) => throw new GuestFault(vector, errorCode, address);
}
