using System.Runtime.ExceptionServices;
using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Network.User;

/// <summary>
/// A card's link to user-mode networking. The stack has a thread of its own; frames pass through two rings, and whoever waits says so in a flag before it looks into its ring once more,
/// so that the other one signals only when it is needed.
/// </summary>
public sealed class UserLink : ILink, IFrameSink
{
    private const int ToGuestSize = 2 << 20, ToStackSize = 1 << 20;
    private const int HighWater = ToGuestSize / 4, LowWater = ToGuestSize / 8;
    private const int SafeMtu = 1500; // what every guest takes
    private const int Ethernet = 14;
    private const int LongestFrame = Ethernet + 40 + ushort.MaxValue;

    private readonly FrameRing _toGuest = new(ToGuestSize), _toStack = new(ToStackSize);
    private readonly UserNetworkOptions _options;
    private readonly HostPoll _poll = new();
    private readonly Thread _thread;
    private readonly Ipv4Reassembly _reassembly = new();
    private readonly Ipv4Fragments.Taker _deliverFragment;
    private Action? _wake;
    private volatile bool _stopping;
    private bool _checksumAccepted;

    // 1 while: the stack's thread sleeps; it waits for the guest to take frames; the card found no frame; the card's frame was refused.
    private int _stackSleeps, _stackFull, _cardEmpty, _cardRefused;
    private long _overflows, _refusedSockets;
    private bool _sentToGuest;      // in this turn of the stack's thread

    internal UserLink(SlirpLibrary library, UserNetworkOptions options)
    {
        _options = options;
        _deliverFragment = Put;
        using ManualResetEventSlim ready = new();
        ExceptionDispatchInfo? failure = null;
        _thread = new Thread(() =>
        {
            SlirpStack? stack = null;
            try
            {
                stack = new SlirpStack(library, options, this);
                Forwards = [.. options.Forwards.Select(stack.Publish)];
            }
            catch (NetworkException e)
            {
                failure = ExceptionDispatchInfo.Capture(e);
            }
            ready.Set();
            using (stack)
            {
                if (failure is null)
                {
                    Run(stack!);
                }
            }
        })
        { IsBackground = true, Name = "user network" };
        _thread.Start();
        ready.Wait();
        if (failure is not null)
        {
            _thread.Join();
            _poll.Dispose();
            failure.Throw();
        }
    }

    /// <summary>The published ports, with the host's ports as they came to be.</summary>
    public IReadOnlyList<PortForward> Forwards { get; private set; } = [];

    /// <summary>What passed; what the guest sent and was too long is counted as dropped.</summary>
    public LinkCounters Counters { get; } = new();

    /// <summary>Frames that were dropped because the guest did not take any.</summary>
    public long DropsToGuest => Volatile.Read(ref _overflows);

    /// <summary>Frames of the guest that were dropped because they might have opened more sockets than it may have.</summary>
    public long RefusedSockets => Volatile.Read(ref _refusedSockets);

    /// <summary>Frames of the guest that the stack found malformed.</summary>
    public long ErrorsFromGuest { get; private set; }

    /// <inheritdoc/>
    /// <remarks>The stack ends the guest's TCP connections and takes segments of any length; nothing is segmented on the way.</remarks>
    public OffloadFeatures SendOffloads => OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn;

    /// <inheritdoc/>
    public int MaximumFrame => _options.Mtu + Ethernet;

    /// <inheritdoc/>
    public bool IsUp => true;

    /// <inheritdoc/>
    public void AcceptOffloads(OffloadFeatures accepted) => _checksumAccepted = (accepted & OffloadFeatures.Checksum) != 0;

    /// <inheritdoc/>
    public void Connect(Action wake)
    {
        Volatile.Write(ref _wake, wake);
        wake();
    }

    /// <inheritdoc/>
    public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (frame.Length is < Ethernet or > LongestFrame)
        {
            Counters.SentDrop();
            return true;
        }
        Span<byte> place = _toStack.Reserve(frame.Length);
        if (place.IsEmpty)
        {
            Interlocked.Exchange(ref _cardRefused, 1);
            place = _toStack.Reserve(frame.Length);
            if (place.IsEmpty)
            {
                return false;
            }
        }
        frame.CopyTo(place);
        GuestFrame.Complete(place, offload);
        _toStack.Commit(frame.Length);
        Counters.Sent(frame.Length);
        Signal(ref _stackSleeps);
        return true;
    }

    /// <inheritdoc/>
    public int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        offload = new FrameOffload { ChecksumValid = _checksumAccepted };
        for (; ; )
        {
            Span<byte> frame = _toGuest.Peek();
            if (frame.IsEmpty)
            {
                Interlocked.Exchange(ref _cardEmpty, 1);
                frame = _toGuest.Peek();
                if (frame.IsEmpty)
                {
                    return 0;
                }
            }
            int length = frame.Length;
            bool fits = length <= buffer.Length;
            if (fits)
            {
                frame.CopyTo(buffer);
            }
            _toGuest.Release();
            if (_toGuest.Used <= LowWater)
            {
                Signal(ref _stackFull);
            }
            if (fits)
            {
                Counters.Received(length);
                return length;
            }
            Counters.ReceivedDrop();
        }
    }

    /// <summary>Ends the thread and all connections. The card does not use the link any more.</summary>
    public void Dispose()
    {
        if (!_stopping)
        {
            _stopping = true;
            _poll.Signal();
            _thread.Join();
            _poll.Dispose();
        }
    }

    /// <summary>The stack's, on its thread.</summary>
    void IFrameSink.Deliver(ReadOnlySpan<byte> frame)
    {
        if (_options.Mtu > SafeMtu && Ipv4Fragments.IsNeeded(frame, SafeMtu))
        {
            Ipv4Fragments.Split(frame, SafeMtu, _deliverFragment);
        }
        else
        {
            Put(frame);
        }
    }

    private void Put(ReadOnlySpan<byte> frame)
    {
        Span<byte> place = _toGuest.Reserve(frame.Length);
        if (place.IsEmpty)
        {
            Volatile.Write(ref _overflows, _overflows + 1);
            return;
        }
        frame.CopyTo(place);
        _toGuest.Commit(frame.Length);
        _sentToGuest = true;
        WakeCard(ref _cardEmpty);
    }

    private void Run(SlirpStack stack)
    {
        while (!_stopping)
        {
            bool full = _toGuest.Used > HighWater;
            long limit = stack.Fill(_poll.Event, reading: !full);
            if (full)
            {
                Interlocked.Exchange(ref _stackFull, 1);
            }
            Interlocked.Exchange(ref _stackSleeps, 1);
            // The stack sends one frame of a flow at a time and says nothing of those behind it, for example the other fragments.
            if (_sentToGuest || !_toStack.Peek().IsEmpty || _stopping || (full && _toGuest.Used <= LowWater))
            {
                limit = 0;
            }
            if (stack.Wait(limit))
            {
                _poll.Reset();
            }
            Volatile.Write(ref _stackSleeps, 0);
            Volatile.Write(ref _stackFull, 0);
            _sentToGuest = false;
            TakeFromGuest(stack); // before the rest, which also sends what waited for the guest's answer
            stack.Act();
            ErrorsFromGuest = stack.GuestErrors;
        }
    }

    /// <summary>At most what the ring held at first, so that the host's side has its turn.</summary>
    private void TakeFromGuest(SlirpStack stack)
    {
        for (int left = _toStack.Used; left > 0;)
        {
            Span<byte> frame = _toStack.Peek();
            if (frame.IsEmpty)
            {
                break;
            }
            left -= frame.Length;
            if (stack.Sockets > _options.MaximumSockets && GuestFrame.MayOpenSocket(frame))
            {
                Volatile.Write(ref _refusedSockets, _refusedSockets + 1);
            }
            else if (!Ipv4Reassembly.IsFragment(frame))
            {
                stack.Input(frame);
            }
            else if (_reassembly.Add(frame) is { IsEmpty: false } whole)
            {
                stack.Input(whole);
            }
            _toStack.Release();
            if (_toStack.Used <= ToStackSize / 2)
            {
                WakeCard(ref _cardRefused);
            }
        }
    }

    /// <summary>Wakes the card when its flag is up. The barrier: what was changed before is seen by whoever raises the flag after this looked.</summary>
    private void WakeCard(ref int waiting)
    {
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref waiting) != 0 && Interlocked.Exchange(ref waiting, 0) != 0)
        {
            Volatile.Read(ref _wake)?.Invoke();
        }
    }

    /// <summary>As <see cref="WakeCard"/>, for the stack's thread.</summary>
    private void Signal(ref int waiting)
    {
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref waiting) != 0 && Interlocked.Exchange(ref waiting, 0) != 0)
        {
            _poll.Signal();
        }
    }
}
