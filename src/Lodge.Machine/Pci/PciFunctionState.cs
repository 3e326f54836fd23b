using Lodge.Engine.State;

namespace Lodge.Machine.Pci;

/// <summary>Saved state of a function's configuration space and MSI-X.</summary>
/// <param name="Configuration">The 256 bytes; only bits that the guest may write are taken on restore.</param>
/// <param name="Msix">MSI-X table and pending bits, if the function has them.</param>
public sealed record PciFunctionState(byte[] Configuration, MsixState? Msix) : ISavedState<PciFunctionState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <summary>Nothing saved.</summary>
    public static PciFunctionState PowerOn { get; } = new([], null);

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Bytes(1, Configuration);
        if (Msix is { } msix)
        {
            writer.Nested(2, msix);
        }
    }

    /// <inheritdoc/>
    public static PciFunctionState Read(StateReader reader) =>
        new(reader.Bytes(1, PciConfigurationSpace.Length), reader.Has(2) ? reader.Nested(2, MsixState.Empty) : null);
}

/// <summary>Saved state of MSI-X.</summary>
/// <param name="Table">Table as the guest sees it, 16 bytes for each vector.</param>
/// <param name="Pending">Pending bits, 64 to a word.</param>
public sealed record MsixState(byte[] Table, byte[] Pending) : ISavedState<MsixState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <summary>Nothing saved.</summary>
    public static MsixState Empty { get; } = new([], []);

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Bytes(1, Table);
        writer.Bytes(2, Pending);
    }

    /// <inheritdoc/>
    public static MsixState Read(StateReader reader) =>
        new(reader.Bytes(1, MsixCapability.MaximumVectors * MsixCapability.EntrySize), reader.Bytes(2, MsixCapability.MaximumVectors / 8));
}
