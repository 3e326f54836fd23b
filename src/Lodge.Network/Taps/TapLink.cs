using System.Buffers.Binary;
using System.Text;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Network.Taps;

/// <summary>
/// A card's end of a Linux tap interface (Documentation/networking/tuntap.rst). The kernel takes and gives frames with offloads. A tap that Lodge makes
/// exists as long as the link is open: it is gone when the process dies, however that happens.
/// </summary>
public sealed unsafe class TapLink : ILink
{
    private const int AddressBytes = 2 * MacAddress.Length, TagBytes = 4, EthernetHeader = 14;
    private const ushort TagProtocol = 0x8100; // IEEE 802.1Q

    private readonly SafeFileHandle _tap, _interfaces;
    private readonly SafeFileHandle? _linkEvents;
    private readonly long _watch, _linkWatch;
    private readonly uint _tag;
    private readonly int _tagLength;
    private readonly bool _knowsUdp;
    private OffloadFeatures _accepted;
    private volatile Action? _wake;
    private volatile bool _up;
    private volatile int _armed; // 0 not, 1 for frames, 2 also for room
    private int _disposed;

    private TapLink(SafeFileHandle tap, SafeFileHandle interfaces, SafeFileHandle? linkEvents, string name, int vlan)
    {
        _tap = tap;
        _interfaces = interfaces;
        _linkEvents = linkEvents; // without it the link state is that of the last failure
        Vlan = vlan;
        Name = name;
        _tag = vlan == 0 ? 0 : BinaryPrimitives.ReverseEndianness(((uint)TagProtocol << 16) | (uint)vlan);
        _tagLength = vlan == 0 ? 0 : TagBytes;
        _ = TapSystemCalls.ControlNumber(tap, TapSystemCalls.SetVnetHeaderSize, VnetHeader.Length);
        _knowsUdp = TapSystemCalls.Control(tap, TapSystemCalls.SetOffload, (nint)(TapSystemCalls.OffloadChecksum | TapSystemCalls.OffloadUdpV4 | TapSystemCalls.OffloadUdpV6)) == 0;
        AcceptOffloads(OffloadFeatures.None);
        Mtu = Ask(TapSystemCalls.GetMtu, out TapSystemCalls.InterfaceRequest request) ? request.Number : 1500;
        _up = ReadUp();
        _watch = TapWatcher.Shared.Add(tap, Ready);
        if (_linkEvents is not null)
        {
            _linkWatch = TapWatcher.Shared.Add(_linkEvents, LinksChanged);
            TapWatcher.Shared.Arm(_linkEvents, _linkWatch, writable: false);
        }
    }

    /// <summary>The interface's name.</summary>
    public string Name { get; }

    /// <summary>802.1Q tag that frames have on the tap; 0: none.</summary>
    public int Vlan { get; }

    /// <summary>
    /// What <see cref="Adopt"/> makes the link of in another process: the tap, a socket by which the interface is asked about, and, where the host has it, one that tells when links change. This link is then
    /// closed here; the tap stays as long as anybody has it open.
    /// </summary>
    public IReadOnlyList<SafeFileHandle> Handles => _linkEvents is null ? [_tap, _interfaces] : [_tap, _interfaces, _linkEvents];

    /// <summary>The interface's MTU when it was opened.</summary>
    public int Mtu { get; private set; }

    /// <summary>What passed.</summary>
    public LinkCounters Counters { get; } = new();

    /// <inheritdoc/>
    public OffloadFeatures SendOffloads =>
        OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | (_knowsUdp ? OffloadFeatures.UdpSegmentation : 0);

    /// <inheritdoc/>
    public int MaximumFrame => Mtu + EthernetHeader;

    /// <inheritdoc/>
    public bool IsUp => _up;

    /// <summary>Opens a tap that exists, for example one that <c>ip tuntap add dev NAME mode tap user USER</c> made for an ordinary user.</summary>
    /// <param name="name">The interface.</param>
    /// <param name="vlan">802.1Q tag (1 to 4094) that frames have on the tap and the card does not see; frames with others are not received. 0: frames as they are.</param>
    /// <exception cref="NetworkException">There is none, it is in use, not the user's, or no tap.</exception>
    public static TapLink Open(string name, int vlan = 0)
    {
        using SafeFileHandle probe = InterfaceSocket();
        if (!IsName(name) || !Ask(probe, name, TapSystemCalls.GetIndex, out _))
        {
            throw new NetworkException($"there is no interface '{name}'; make it with: ip tuntap add dev {(IsName(name) ? name : "NAME")} mode tap user {Environment.UserName}");
        }
        return Attach(name, vlan, made: false);
    }

    /// <summary>Takes a tap that another process has opened, which may have rights and a network namespace that this one has not.</summary>
    /// <param name="handles">Its <see cref="Handles"/>; they belong to the link, also when this fails.</param>
    /// <param name="name">The interface.</param>
    /// <param name="vlan">As with <see cref="Open"/>.</param>
    /// <exception cref="NetworkException">They are not what they should be.</exception>
    public static TapLink Adopt(IReadOnlyList<SafeFileHandle> handles, string name, int vlan)
    {
        try
        {
            return handles.Count is 2 or 3 && IsName(name) && vlan is >= 0 and <= 4094 && Ask(handles[1], name, TapSystemCalls.GetIndex, out _)
                ? new TapLink(handles[0], handles[1], handles.Count == 3 ? handles[2] : null, name, vlan)
                : throw new NetworkException($"what was handed over is no tap '{name}'");
        }
        catch
        {
            foreach (SafeFileHandle handle in handles)
            {
                handle.Dispose();
            }
            throw;
        }
    }

    /// <summary>Makes a tap that lasts as long as the link.</summary>
    /// <param name="pattern">Its name; the kernel puts the lowest free number for <c>%d</c>.</param>
    /// <param name="mtu">MTU; 0: 1500.</param>
    /// <param name="vlan">As with <see cref="Open"/>.</param>
    /// <exception cref="NetworkException">The host refuses; only root (CAP_NET_ADMIN) may.</exception>
    public static TapLink Create(string pattern, int mtu = 0, int vlan = 0)
    {
        TapLink link = Attach(pattern, vlan, made: true);
        if (mtu != 0)
        {
            TapSystemCalls.InterfaceRequest request = Request(link.Name);
            request.Number = mtu;
            if (TapSystemCalls.Control(link._interfaces, TapSystemCalls.SetMtu, ref request) != 0)
            {
                link.Dispose();
                throw new NetworkException($"the host refuses an MTU of {mtu} for a tap");
            }
            link.Mtu = mtu;
        }
        return link;
    }

    /// <summary>Sets the interface up, as <c>ip link set NAME up</c> does.</summary>
    /// <exception cref="NetworkException">The host refuses.</exception>
    public void SetUp()
    {
        int error = 0;
        if (!Ask(TapSystemCalls.GetFlags, out TapSystemCalls.InterfaceRequest request)
            || (error = TapSystemCalls.Control(_interfaces, TapSystemCalls.SetFlags, ref WithFlag(ref request))) != 0)
        {
            throw new NetworkException($"interface '{Name}' cannot be set up (error {-error})");
        }
        _up = ReadUp();
    }

    /// <inheritdoc/>
    public void AcceptOffloads(OffloadFeatures accepted)
    {
        uint flags = 0;
        if ((accepted & OffloadFeatures.Checksum) != 0) // the others are nothing without it
        {
            flags = TapSystemCalls.OffloadChecksum
                | ((accepted & OffloadFeatures.TcpV4) != 0 ? TapSystemCalls.OffloadTcpV4 : 0)
                | ((accepted & OffloadFeatures.TcpV6) != 0 ? TapSystemCalls.OffloadTcpV6 : 0)
                | ((accepted & OffloadFeatures.TcpEcn) != 0 && (accepted & (OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6)) != 0 ? TapSystemCalls.OffloadTcpEcn : 0)
                | ((accepted & OffloadFeatures.UdpSegmentation) != 0 && _knowsUdp ? TapSystemCalls.OffloadUdpV4 | TapSystemCalls.OffloadUdpV6 : 0);
        }
        else
        {
            accepted = OffloadFeatures.None;
        }
        if (TapSystemCalls.Control(_tap, TapSystemCalls.SetOffload, (nint)flags) != 0)
        {
            accepted = OffloadFeatures.None; // the kernel then completes every frame, as it did
        }
        _accepted = accepted;
    }

    /// <inheritdoc/>
    public void Connect(Action wake)
    {
        _wake = wake;
        Arm(1);
    }

    /// <inheritdoc/>
    public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (frame.Length < EthernetHeader)
        {
            Counters.SentDrop();
            return true;
        }
        byte* header = stackalloc byte[VnetHeader.Length];
        VnetHeader.Write(new Span<byte>(header, VnetHeader.Length), offload, _tagLength);
        uint tag = _tag;
        int done;
        fixed (byte* bytes = frame)
        {
            TapSystemCalls.Piece* pieces = stackalloc TapSystemCalls.Piece[4];
            int count = Describe(pieces, header, bytes, frame.Length, &tag);
            do
            {
                done = TapSystemCalls.Write(_tap, pieces, count);
            }
            while (done == -TapSystemCalls.Interrupted);
        }
        switch (done)
        {
            case >= 0:
                Counters.Sent(frame.Length);
                return true;
            case -TapSystemCalls.TryAgain:
                Arm(2);
                return false;
            case -TapSystemCalls.Invalid or -TapSystemCalls.InputOutput: // offsets that lead out of the frame; the interface is down
                Counters.SentDrop();
                return true;
            default:
                Counters.SentError();
                return true;
        }
    }

    /// <inheritdoc/>
    public int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        byte* header = stackalloc byte[VnetHeader.Length];
        TapSystemCalls.Piece* pieces = stackalloc TapSystemCalls.Piece[4];
        offload = default;
        fixed (byte* bytes = buffer)
        {
            uint tag = 0;
            int count = Describe(pieces, header, bytes, buffer.Length, &tag);
            while (true)
            {
                int got = TapSystemCalls.Read(_tap, pieces, count);
                if (got < 0)
                {
                    if (got == -TapSystemCalls.Interrupted)
                    {
                        continue;
                    }
                    if (got is not (-TapSystemCalls.TryAgain or -TapSystemCalls.BadDescriptorState))
                    {
                        Counters.ReceivedError();
                    }
                    if (got == -TapSystemCalls.TryAgain)
                    {
                        Arm(1);
                    }
                    return 0;
                }
                int length = got - VnetHeader.Length - _tagLength;
                if (length < EthernetHeader || length > buffer.Length || tag != _tag
                    || !VnetHeader.TryRead(new ReadOnlySpan<byte>(header, VnetHeader.Length), _tagLength, out offload) || (VnetHeader.Needs(offload) & ~_accepted) != 0)
                {
                    // Also a frame that the kernel queued before the guest took its acceptance back, or one of another VLAN.
                    offload = default;
                    Counters.ReceivedDrop();
                    continue;
                }
                Counters.Received(length);
                return length;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }
        _wake = null;
        TapWatcher.Shared.Remove(_tap, _watch);
        if (_linkEvents is not null)
        {
            TapWatcher.Shared.Remove(_linkEvents, _linkWatch);
            _linkEvents.Dispose();
        }
        _interfaces.Dispose();
        _tap.Dispose();
    }

    private static TapLink Attach(string name, int vlan, bool made)
    {
        if (vlan is < 0 or > 4094)
        {
            throw new NetworkException($"VLAN {vlan} is not possible; it is 1 to 4094");
        }
        SafeFileHandle interfaces = InterfaceSocket();
        SafeFileHandle? tap = TapSystemCalls.OpenTun(out int error);
        try
        {
            if (tap is null)
            {
                throw new NetworkException(error switch
                {
                    TapSystemCalls.NoEntry or TapSystemCalls.NoDevice or TapSystemCalls.NoDeviceOrAddress => "the host has no taps (/dev/net/tun); load the kernel module: modprobe tun",
                    TapSystemCalls.NotPermitted or TapSystemCalls.Denied => "/dev/net/tun may not be opened by this user; run as root, or use user-mode networking (--net user)",
                    _ => $"/dev/net/tun cannot be opened (error {error})",
                });
            }
            TapSystemCalls.InterfaceRequest request = Request(name);
            request.Flags = TapSystemCalls.FlagTap | TapSystemCalls.FlagNoPacketInformation | TapSystemCalls.FlagVnetHeader;
            error = -TapSystemCalls.Control(tap, TapSystemCalls.SetInterface, ref request);
            if (error == TapSystemCalls.Invalid && !made)
            {
                request = Request(name); // made with several queues: it is opened only with that flag
                request.Flags = TapSystemCalls.FlagTap | TapSystemCalls.FlagNoPacketInformation | TapSystemCalls.FlagVnetHeader | TapSystemCalls.FlagMultiQueue;
                error = -TapSystemCalls.Control(tap, TapSystemCalls.SetInterface, ref request);
            }
            if (error != 0)
            {
                throw new NetworkException(error switch
                {
                    TapSystemCalls.Busy => $"tap '{name}' is in use by another process",
                    TapSystemCalls.NotPermitted when made => "only root may make a tap; an ordinary user opens one that root made: ip tuntap add dev NAME mode tap user USER",
                    TapSystemCalls.NotPermitted => $"tap '{name}' belongs to another user; make it with: ip tuntap add dev {name} mode tap user {Environment.UserName}",
                    TapSystemCalls.Invalid => $"interface '{name}' is not a tap",
                    _ => $"tap '{name}' cannot be opened (error {error})",
                });
            }
            return new TapLink(tap, interfaces, TapSystemCalls.OpenLinkEvents(out _), Text(request), vlan);
        }
        catch
        {
            tap?.Dispose();
            interfaces.Dispose();
            throw;
        }
    }

    private static SafeFileHandle InterfaceSocket() =>
        TapSystemCalls.OpenInterfaceSocket(out int error) ?? throw new NetworkException($"the host has no socket left (error {error})");

    /// <summary>The pieces of a packet: header, addresses, tag and the rest; without a tag header and frame.</summary>
    private int Describe(TapSystemCalls.Piece* pieces, byte* header, byte* frame, int length, uint* tag)
    {
        pieces[0] = new() { Base = header, Length = VnetHeader.Length };
        if (_tagLength == 0)
        {
            pieces[1] = new() { Base = frame, Length = (nuint)length };
            return 2;
        }
        pieces[1] = new() { Base = frame, Length = AddressBytes };
        pieces[2] = new() { Base = tag, Length = TagBytes };
        pieces[3] = new() { Base = frame + AddressBytes, Length = (nuint)(length - AddressBytes) };
        return 4;
    }

    /// <summary>Asks the watcher for a wake unless it already has that order.</summary>
    private void Arm(int order)
    {
        if (_armed < order)
        {
            _armed = order;
            TapWatcher.Shared.Arm(_tap, _watch, writable: order == 2);
        }
    }

    private void Ready()
    {
        _armed = 0;
        _wake?.Invoke();
    }

    private void LinksChanged()
    {
        SafeFileHandle events = _linkEvents!;
        bool changed = false;
        try
        {
            TapSystemCalls.Drain(events);
            bool up = ReadUp();
            changed = up != _up;
            _up = up;
            TapWatcher.Shared.Arm(events, _linkWatch, writable: false);
        }
        catch (ObjectDisposedException)
        {
            return; // closed meanwhile
        }
        if (changed)
        {
            _wake?.Invoke();
        }
    }

    private bool ReadUp() => Ask(TapSystemCalls.GetFlags, out TapSystemCalls.InterfaceRequest request) && (request.Flags & TapSystemCalls.InterfaceUp) != 0;

    private bool Ask(ulong what, out TapSystemCalls.InterfaceRequest request) => Ask(_interfaces, Name, what, out request);

    private static bool Ask(SafeFileHandle socket, string name, ulong what, out TapSystemCalls.InterfaceRequest request)
    {
        request = Request(name);
        return TapSystemCalls.Control(socket, what, ref request) == 0;
    }

    private static ref TapSystemCalls.InterfaceRequest WithFlag(ref TapSystemCalls.InterfaceRequest request)
    {
        request.Flags |= TapSystemCalls.InterfaceUp;
        return ref request;
    }

    private static bool IsName(string name) => name.Length is > 0 and < 16 && name.All(c => c is > ' ' and < (char)127 and not '/' and not '%');

    private static TapSystemCalls.InterfaceRequest Request(string name)
    {
        TapSystemCalls.InterfaceRequest request = default;
        Encoding.ASCII.GetBytes(name.AsSpan(0, Math.Min(name.Length, 15)), new Span<byte>(request.Name, 16));
        return request;
    }

    private static string Text(TapSystemCalls.InterfaceRequest request) => Encoding.ASCII.GetString(new ReadOnlySpan<byte>(request.Name, 16)).TrimEnd('\0');
}
