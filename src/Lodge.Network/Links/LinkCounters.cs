namespace Lodge.Network.Links;

/// <summary>What passed one interface since it was made, seen from the machine: sent is what its card sent. Written by the card's thread, read by any.</summary>
public sealed class LinkCounters
{
    private long _sentFrames, _sentBytes, _sentDrops, _sentErrors, _receivedFrames, _receivedBytes, _receivedDrops, _receivedErrors;

    /// <summary>Frames sent; one that is to be segmented counts as one.</summary>
    public long SentFrames => Interlocked.Read(ref _sentFrames);

    /// <summary>Their bytes.</summary>
    public long SentBytes => Interlocked.Read(ref _sentBytes);

    /// <summary>Frames from the card that went nowhere because they may not or need not: filtered, malformed, other end away.</summary>
    public long SentDrops => Interlocked.Read(ref _sentDrops);

    /// <summary>Frames from the card that the host failed to take.</summary>
    public long SentErrors => Interlocked.Read(ref _sentErrors);

    /// <summary>Frames for the card.</summary>
    public long ReceivedFrames => Interlocked.Read(ref _receivedFrames);

    /// <summary>Their bytes.</summary>
    public long ReceivedBytes => Interlocked.Read(ref _receivedBytes);

    /// <summary>Frames for the card that it did not get: filtered, too long, with an offload that it does not accept.</summary>
    public long ReceivedDrops => Interlocked.Read(ref _receivedDrops);

    /// <summary>Failures of the host at reading.</summary>
    public long ReceivedErrors => Interlocked.Read(ref _receivedErrors);

    /// <summary>Counts a frame that was sent.</summary>
    internal void Sent(int bytes)
    {
        Add(ref _sentFrames, 1);
        Add(ref _sentBytes, bytes);
    }

    /// <summary>Counts a frame that was received.</summary>
    internal void Received(int bytes)
    {
        Add(ref _receivedFrames, 1);
        Add(ref _receivedBytes, bytes);
    }

    internal void SentDrop() => Add(ref _sentDrops, 1);

    internal void SentError() => Add(ref _sentErrors, 1);

    internal void ReceivedDrop() => Add(ref _receivedDrops, 1);

    internal void ReceivedError() => Add(ref _receivedErrors, 1);

    private static void Add(ref long counter, long count) => Volatile.Write(ref counter, counter + count); // one writer: no locked instruction
}
