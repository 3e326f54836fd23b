using Lodge.Storage.Disks;

namespace Lodge.Storage.Shares;

/// <summary>
/// One request of a FUSE client with the room for its reply, as the transport brings it. Used by one thread at a time, from
/// <see cref="FuseServer.Submit"/> until <see cref="Finished"/>.
/// </summary>
public interface IFuseExchange
{
    /// <summary>Bytes of the request not yet read.</summary>
    uint Unread { get; }

    /// <summary>Bytes that the reply may have in all; 0 when none is expected.</summary>
    uint ReplyCapacity { get; }

    /// <summary>Copies the next bytes of the request; returns how many (fewer than asked only at the end).</summary>
    int Read(Span<byte> destination);

    /// <summary>Lends the next unread bytes of the request without copying, until the exchange is finished. False when they are not there.</summary>
    bool TryLendUnread(uint length, out IoVector data);

    /// <summary>Lends a part of the reply's room; what is put there counts after <see cref="Filled"/>.</summary>
    bool TryLendReply(uint offset, uint length, out IoVector data);

    /// <summary>Appends to the reply; it fits.</summary>
    void Reply(ReadOnlySpan<byte> bytes);

    /// <summary>The next bytes of the reply were put into lent memory.</summary>
    void Filled(uint count);

    /// <summary>The request is served: nothing lent is touched any more. On the thread that served it.</summary>
    void Finished();
}
