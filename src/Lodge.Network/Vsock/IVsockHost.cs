namespace Lodge.Network.Vsock;

/// <summary>
/// What the guest's vsock reaches on the host: whoever answers on a port, and whoever on the host wants a port of the guest. Called by one thread at a time
/// (the device's worker); nothing blocks or throws.
/// </summary>
public interface IVsockHost : IDisposable
{
    /// <summary>Connects the device: <paramref name="wake"/> is called, on any thread, when <see cref="Accept"/> has a stream.</summary>
    void Connect(Action wake);

    /// <summary>The guest connects to a port of the host. Null when nobody answers there.</summary>
    IVsockStream? Open(uint port);

    /// <summary>Takes a stream that the host has opened to the guest's <paramref name="guestPort"/>, or null.</summary>
    IVsockStream? Accept(out uint guestPort);
}

/// <summary>
/// The host's end of one stream. Buffers in both directions are bounded. Members are called by one thread at a time; disposing drops the stream at once.
/// </summary>
public interface IVsockStream : IDisposable
{
    /// <summary>Called on any thread when anything below may have changed. Set once, before the first use; a call may come at once.</summary>
    void Connect(Action ready);

    /// <summary>The guest has taken a stream that the host opened; the host's port is <paramref name="hostPort"/>.</summary>
    void Established(uint hostPort);

    /// <summary>Bytes from the host that the guest does not have yet; empty when there are none at present.</summary>
    ReadOnlySpan<byte> Input { get; }

    /// <summary>The first bytes of <see cref="Input"/> were given to the guest.</summary>
    void Consume(int count);

    /// <summary>The host sends no more; <see cref="Input"/> may still hold bytes.</summary>
    bool InputEnded { get; }

    /// <summary>Bytes that <see cref="Write"/> holds at most, which is what the guest is told as its credit.</summary>
    int OutputCapacity { get; }

    /// <summary>Bytes written by the guest since the beginning that have left the buffer.</summary>
    uint OutputDrained { get; }

    /// <summary>All that was written has left the buffer.</summary>
    bool OutputEmpty { get; }

    /// <summary>The host takes no more.</summary>
    bool OutputFailed { get; }

    /// <summary>Takes bytes from the guest. False when they are more than there is room for, which the credit forbids.</summary>
    bool Write(ReadOnlySpan<byte> data);

    /// <summary>The guest sends no more: the host is told when it has all.</summary>
    void EndOutput();
}
