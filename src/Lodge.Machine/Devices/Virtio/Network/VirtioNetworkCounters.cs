namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>What a card has passed on since it was made. Written by the device's worker, read from any thread.</summary>
public sealed class VirtioNetworkCounters
{
    private long _sentFrames;
    private long _sentBytes;
    private long _sendDrops;
    private long _sendErrors;
    private long _receivedFrames;
    private long _receivedBytes;
    private long _receiveDrops;
    private long _receiveErrors;
    private long _receiveFiltered;

    /// <summary>Frames that the guest sent and the link took; one that is to be segmented counts once.</summary>
    public long SentFrames => Volatile.Read(ref _sentFrames);

    /// <summary>Bytes of them.</summary>
    public long SentBytes => Volatile.Read(ref _sentBytes);

    /// <summary>Frames of the guest dropped because the cable is unplugged.</summary>
    public long SendDrops => Volatile.Read(ref _sendDrops);

    /// <summary>Frames of the guest dropped because they are too short, too long or ask for what was not negotiated.</summary>
    public long SendErrors => Volatile.Read(ref _sendErrors);

    /// <summary>Frames that the guest received.</summary>
    public long ReceivedFrames => Volatile.Read(ref _receivedFrames);

    /// <summary>Bytes of them.</summary>
    public long ReceivedBytes => Volatile.Read(ref _receivedBytes);

    /// <summary>Frames for the guest dropped because the cable is unplugged, or because the guest's buffers are too small or too few for too long.</summary>
    public long ReceiveDrops => Volatile.Read(ref _receiveDrops);

    /// <summary>Frames for the guest dropped because they are too short, too long or of a form that it does not accept.</summary>
    public long ReceiveErrors => Volatile.Read(ref _receiveErrors);

    /// <summary>Frames that are not for the guest: another's address, or a VLAN or group that its driver did not ask for.</summary>
    public long ReceiveFiltered => Volatile.Read(ref _receiveFiltered);

    internal void Sent(int bytes)
    {
        Add(ref _sentFrames, 1);
        Add(ref _sentBytes, bytes);
    }

    internal void SendDropped() => Add(ref _sendDrops, 1);

    internal void SendFailed() => Add(ref _sendErrors, 1);

    internal void Received(int bytes)
    {
        Add(ref _receivedFrames, 1);
        Add(ref _receivedBytes, bytes);
    }

    internal void ReceiveDropped() => Add(ref _receiveDrops, 1);

    internal void ReceiveFailed() => Add(ref _receiveErrors, 1);

    internal void Filtered() => Add(ref _receiveFiltered, 1);

    /// <summary>There is one writer, so nothing is lost.</summary>
    private static void Add(ref long counter, long value) => Volatile.Write(ref counter, counter + value);
}
