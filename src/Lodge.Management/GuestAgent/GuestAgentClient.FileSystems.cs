namespace Lodge.Management.GuestAgent;

/// <summary>File systems: freezing (<c>guest-fsfreeze-*</c>) and files (<c>guest-file-*</c>).</summary>
public sealed partial class GuestAgentClient
{
    /// <summary>Most bytes of one read or write of a file.</summary>
    public const int LargestTransfer = 1 << 20;

    private const int TransferAnswer = 2 << 20;

    // Scripts run in the guest before, and what is dirty is written.
    private static readonly TimeSpan FreezeTime = TimeSpan.FromMinutes(2);

    /// <summary>Stops the guest's writes with a consistent state on its disks (<c>guest-fsfreeze-freeze</c>); returns the number of file systems. They must be thawed soon.</summary>
    public Task<long> FreezeAsync(CancellationToken cancellation = default) => NumberAsync("guest-fsfreeze-freeze", FreezeTime, cancellation);

    /// <summary>Lets the writes go on (<c>guest-fsfreeze-thaw</c>); returns the number of file systems.</summary>
    public Task<long> ThawAsync(CancellationToken cancellation = default) => NumberAsync("guest-fsfreeze-thaw", FreezeTime, cancellation);

    /// <summary>Whether the file systems are frozen (<c>guest-fsfreeze-status</c>).</summary>
    public async Task<GuestFreezeState> FreezeStateAsync(CancellationToken cancellation = default)
    {
        const string Name = "guest-fsfreeze-status";
        return await _channel.AskAsync(Bare(Name), Json.GuestAgentRequestGuestNothing, Json.GuestAgentReplyString, SmallAnswer, _time, cancellation).ConfigureAwait(false) switch
        {
            "thawed" => GuestFreezeState.Thawed,
            "frozen" => GuestFreezeState.Frozen,
            _ => throw NoValue(Name),
        };
    }

    /// <summary>Opens a file of the guest (<c>guest-file-open</c>); returns its handle, which must be closed.</summary>
    /// <param name="path">Path in the guest.</param>
    /// <param name="mode">As of fopen(3): <c>r</c>, <c>w</c>, <c>a</c>, <c>r+</c> and so on.</param>
    /// <param name="cancellation">Gives up.</param>
    public async Task<long> OpenFileAsync(string path, string mode, CancellationToken cancellation = default) => Required(
        await _channel.AskAsync(new("guest-file-open", new(path, mode)), Json.GuestAgentRequestGuestOpenArguments, Json.GuestAgentReplyNullableInt64, SmallAnswer, _time, cancellation)
            .ConfigureAwait(false),
        "guest-file-open");

    /// <summary>Closes a file (<c>guest-file-close</c>).</summary>
    public Task CloseFileAsync(long handle, CancellationToken cancellation = default) =>
        _channel.AskAsync(new("guest-file-close", new(handle)), Json.GuestAgentRequestGuestHandleArguments, Json.GuestAgentReplyGuestNothing, SmallAnswer, _time, cancellation);

    /// <summary>Reads on in a file (<c>guest-file-read</c>); nothing at its end.</summary>
    /// <param name="handle">The file.</param>
    /// <param name="count">Most bytes, up to <see cref="LargestTransfer"/>.</param>
    /// <param name="cancellation">Gives up.</param>
    public async Task<byte[]> ReadFileAsync(long handle, int count, CancellationToken cancellation = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, LargestTransfer);
        const string Name = "guest-file-read";
        GuestRead read = Required(
            await _channel.AskAsync(new(Name, new(handle, count)), Json.GuestAgentRequestGuestReadArguments, Json.GuestAgentReplyGuestRead, TransferAnswer, _time, cancellation).ConfigureAwait(false), Name);
        byte[] data = read.Data ?? [];
        return data.Length == read.Count && data.Length <= count && (data.Length != 0 || read.Eof) ? data : throw NoValue(Name);
    }

    /// <summary>Writes on in a file (<c>guest-file-write</c>), all of it.</summary>
    /// <param name="handle">The file.</param>
    /// <param name="data">At most <see cref="LargestTransfer"/> bytes.</param>
    /// <param name="cancellation">Gives up.</param>
    public async Task WriteFileAsync(long handle, ReadOnlyMemory<byte> data, CancellationToken cancellation = default)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(data.Length, LargestTransfer);
        const string Name = "guest-file-write";
        while (!data.IsEmpty)
        {
            GuestWritten written = Required(
                await _channel.AskAsync(new(Name, new(handle, data.ToArray())), Json.GuestAgentRequestGuestWriteArguments, Json.GuestAgentReplyGuestWritten, SmallAnswer, _time, cancellation)
                    .ConfigureAwait(false),
                Name);
            data = written.Count > 0 && written.Count <= data.Length ? data[(int)written.Count..] : throw NoValue(Name);
        }
    }
}
