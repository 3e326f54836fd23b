namespace Lodge.Engine.Kvm.Probing;

/// <summary>In what state a program begins.</summary>
internal enum ProbeMode
{
    /// <summary>64-bit ring 0.</summary>
    Long,

    /// <summary>Real mode.</summary>
    Real,
}

/// <summary>A bit of CPUID.</summary>
/// <param name="Leaf">EAX; sub-leaf 0.</param>
/// <param name="Register">The register of the result: b, c or d.</param>
/// <param name="Bit">Its bit.</param>
internal readonly record struct ProbeFeature(uint Leaf, char Register, int Bit);

/// <summary>One thing to try, in a virtual machine of its own.</summary>
/// <param name="Name">What it is, as the user sees it.</param>
/// <param name="Purpose">What kernels need it for.</param>
internal sealed record ProbeProgram(string Name, string Purpose)
{
    /// <summary>Machine code of ring 0, at <see cref="ProbeImage.Code"/>.</summary>
    public required byte[] Code { get; init; }

    /// <summary>Machine code of ring 3, at <see cref="ProbeImage.UserCode"/>.</summary>
    public byte[] UserCode { get; init; } = [];

    /// <summary>Vectors that the program handles itself, and the offset of the handler in its code. Ring 3 may raise them by INT n. All others are reported as failures.</summary>
    public (byte Vector, int Offset)[] Handlers { get; init; } = [];

    /// <summary>What the processor must have for this to be tried; null: all have it.</summary>
    public ProbeFeature? Feature { get; init; }

    /// <summary>The processor's vendor for which this is meant: I for Intel and those like it, A for AMD and those like it; null: all.</summary>
    public char? Vendor { get; init; }

    /// <summary>How it begins.</summary>
    public ProbeMode Mode { get; init; }

    /// <summary>XCR0 at the beginning, with CR4.OSXSAVE; 0: not set.</summary>
    public ulong Xcr0 { get; init; }
}

/// <summary>All that is tried.</summary>
internal static partial class ProbePrograms
{
    /// <summary>In the order in which they are shown.</summary>
    public static IReadOnlyList<ProbeProgram> All => field ??= [.. s_system, .. s_instructions]; // made late: the order of static fields in several files is open
}
