namespace Lodge.Storage.Nbd;

/// <summary>What a client and a server agreed on, as the client sees it.</summary>
internal sealed record NbdClientSession
{
    /// <summary>Form of requests and replies.</summary>
    public NbdHeaderStyle Style { get; init; }

    /// <summary>Size of the export in bytes.</summary>
    public long Length { get; init; } = -1;

    /// <summary>Transmission flags.</summary>
    public NbdTransmissionFlags Flags { get; init; }

    /// <summary>Minimum block size in bytes, a power of two.</summary>
    public int MinimumBlock { get; init; } = 1;

    /// <summary>Preferred block size in bytes, a power of two.</summary>
    public int PreferredBlock { get; init; } = 4096;

    /// <summary>Longest payload in bytes, a multiple of the minimum block size.</summary>
    public int MaximumPayload { get; init; } = NbdProtocol.MaximumPayload;

    /// <summary>Selected metadata contexts: names by id.</summary>
    public IReadOnlyDictionary<uint, string> Contexts { get; init; } = new Dictionary<uint, string>();

    /// <summary>Whether a transmission flag is set.</summary>
    public bool Has(NbdTransmissionFlags flag) => (Flags & flag) != 0;
}
