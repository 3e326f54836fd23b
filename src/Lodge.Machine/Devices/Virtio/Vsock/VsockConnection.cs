using Lodge.Network.Vsock;

namespace Lodge.Machine.Devices.Virtio.Vsock;

/// <summary>What a connection has to tell the guest.</summary>
[Flags]
internal enum VsockPending
{
    /// <summary>Nothing but data, if any.</summary>
    None = 0,

    /// <summary>That the host wants a stream.</summary>
    Request = 1,

    /// <summary>That its stream is there.</summary>
    Response = 2,

    /// <summary>How much it may send.</summary>
    Credit = 4,

    /// <summary>That the host sends no more, when all data was given.</summary>
    Shutdown = 8,

    /// <summary>That the stream is gone; the last of all.</summary>
    Reset = 16,
}

/// <summary>A stream between a port of the guest and one of the host, with the credit of both sides (virtio 1.2, 5.10.6.3). For the device's worker only.</summary>
internal sealed class VsockConnection(uint hostPort, uint guestPort, IVsockStream stream)
{
    private int _signalled;

    /// <summary>The host's port.</summary>
    public uint HostPort { get; } = hostPort;

    /// <summary>The guest's port.</summary>
    public uint GuestPort { get; } = guestPort;

    /// <summary>The host's end.</summary>
    public IVsockStream Stream { get; } = stream;

    /// <summary>What there is to tell.</summary>
    public VsockPending Pending { get; set; }

    /// <summary>Data may pass: both ends have agreed.</summary>
    public bool Open { get; set; }

    /// <summary>The guest takes no more.</summary>
    public bool GuestReceiveEnded { get; set; }

    /// <summary>The guest sends no more.</summary>
    public bool GuestSendEnded { get; set; }

    /// <summary>The guest was told that the host sends no more.</summary>
    public bool ShutdownSent { get; set; }

    /// <summary>It is no longer the device's.</summary>
    public bool Dropped { get; set; }

    /// <summary>It waits in the device's list for room in the receive queue.</summary>
    public bool Listed { get; set; }

    /// <summary>The guest's buf_alloc.</summary>
    public uint PeerBuffer { get; set; }

    /// <summary>The guest's fwd_cnt.</summary>
    public uint PeerForwarded { get; set; }

    /// <summary>Bytes sent to the guest, modulo 2^32.</summary>
    public uint Sent { get; set; }

    /// <summary>fwd_cnt as the guest was last told.</summary>
    public uint ToldForwarded { get; set; }

    /// <summary>Bytes that the guest can take now.</summary>
    public uint Credit
    {
        get
        {
            uint unread = Sent - PeerForwarded;     // a hostile fwd_cnt makes it huge, which is no credit
            return unread >= PeerBuffer ? 0 : PeerBuffer - unread;
        }
    }

    /// <summary>There is data to give and the guest can take some.</summary>
    public bool HasData => Open && !GuestReceiveEnded && Credit != 0 && !Stream.Input.IsEmpty;

    /// <summary>There is something to give to the guest.</summary>
    public bool HasPacket => !Dropped && (Pending != VsockPending.None || HasData);

    /// <summary>Marks it as signalled by its stream. Any thread; true when it was not before.</summary>
    public bool Signal() => Interlocked.Exchange(ref _signalled, 1) == 0;

    /// <summary>Its signal is being looked at.</summary>
    public void TakeSignal() => Volatile.Write(ref _signalled, 0);
}
