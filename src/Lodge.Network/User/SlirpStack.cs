using System.ComponentModel;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;

namespace Lodge.Network.User;

/// <summary>
/// One instance of libslirp, and what it asks of its user: descriptors to poll, timers, the clock. It belongs to one thread, which makes, uses and frees it.
/// </summary>
internal sealed unsafe partial class SlirpStack : IDisposable
{
    private const int PollIn = 1, PollOut = 2, PollPriority = 4, PollError = 8, PollHangUp = 16; // SLIRP_POLL_*
    private const int ForwardUdp = 1, ForwardIpv6Only = 2; // SLIRP_HOSTFWD_*
    private const int FramingReserve = 1; // libslirp's if_mtu is at most 65521
    private const long ClockSpan = 1L << 32, ClockGap = 300_000; // milliseconds; the gap is more than the longest life of a UDP socket, 240 s

    private readonly SlirpLibrary _library;
    private readonly IFrameSink _sink;
    private readonly UserNetworkOptions _options;
    private readonly List<nint> _memory = [];
    private readonly Timer[] _timers = new Timer[8];
    private GCHandle _self;
    private nint _slirp;
    private PollDescriptor[] _descriptors = new PollDescriptor[64];
    private int _descriptorCount;
    private bool _reading = true;

    /// <summary>Makes the stack.</summary>
    /// <exception cref="NetworkException">It cannot be made.</exception>
    public SlirpStack(SlirpLibrary library, UserNetworkOptions options, IFrameSink sink)
    {
        _library = library;
        _sink = sink;
        _options = options;
        _self = GCHandle.Alloc(this);
        SlirpConfiguration configuration = new()
        {
            Version = 4,
            Restricted = options.Restricted ? 1 : 0,
            InEnabled = 1,
            Network = Word(options.Network.BaseAddress),
            NetworkMask = BitConverter.IsLittleEndian ? System.Buffers.Binary.BinaryPrimitives.ReverseEndianness(uint.MaxValue << (32 - options.Network.PrefixLength)) : 0,
            Host = Word(options.Host),
            DhcpStart = Word(options.Guest),
            NameServer = Word(options.NameServer),
            HostName = Text(options.HostName),
            InterfaceMtu = (nuint)options.Mtu,
            InterfaceMru = (nuint)UserNetworkOptions.MaximumMtu + FramingReserve,
            DisableHostLoopback = (byte)(options.HostLoopback ? 0 : 1),
            EnableEmu = 0,
        };
        if (options.Network6 is { } six)
        {
            configuration.In6Enabled = 1;
            configuration.PrefixLength6 = (byte)six.PrefixLength;
            six.BaseAddress.TryWriteBytes(new Span<byte>(configuration.Prefix6, 16), out _);
            options.Host6!.TryWriteBytes(new Span<byte>(configuration.Host6, 16), out _);
            options.NameServer6!.TryWriteBytes(new Span<byte>(configuration.NameServer6, 16), out _);
        }
        // The library keeps the pointer.
        SlirpCallbackTable* callbacks = (SlirpCallbackTable*)NativeMemory.AllocZeroed((nuint)sizeof(SlirpCallbackTable));
        _memory.Add((nint)callbacks);
        *callbacks = Callbacks;
        _slirp = library.New(&configuration, callbacks, GCHandle.ToIntPtr(_self));
        if (_slirp == 0)
        {
            Dispose();
            throw new NetworkException("libslirp refuses the configuration of the user network");
        }
        // The library's clock is a variable that is 0 until some stack polls: a UDP socket that the guest opens before that has expired as soon as one does.
        library.Poll(_slirp, 1, &GetReturned, GCHandle.ToIntPtr(_self));
    }

    /// <summary>Sockets of the last <see cref="Fill"/>.</summary>
    public int Sockets => _descriptorCount;

    /// <summary>Frames that the stack found malformed, since it was made.</summary>
    public long GuestErrors { get; private set; }

    /// <summary>Takes a frame from the guest; what it leads to may reach the sink before this returns.</summary>
    public void Input(ReadOnlySpan<byte> frame)
    {
        fixed (byte* bytes = frame)
        {
            _library.Input(_slirp, bytes, frame.Length);
        }
    }

    /// <summary>Publishes a port; returns it with the host's port as it came to be.</summary>
    /// <exception cref="NetworkException">The host refuses; the message names the address.</exception>
    public PortForward Publish(PortForward forward)
    {
        bool udp = forward.Protocol == ProtocolType.Udp, six = forward.Host.AddressFamily == AddressFamily.InterNetworkV6;
        HashSet<int> before = forward.HostPort == 0 ? [.. Descriptors()] : [];
        Span<byte> host = stackalloc byte[SocketAddressBytes.MaximumLength], guest = stackalloc byte[SocketAddressBytes.MaximumLength];
        int hostLength = SocketAddressBytes.Write(new IPEndPoint(forward.Host, forward.HostPort), host);
        int guestLength = SocketAddressBytes.Write(new IPEndPoint(six ? _options.Guest6! : _options.Guest, forward.GuestPort), guest);
        fixed (byte* hostBytes = host, guestBytes = guest)
        {
            // An IPv6 socket that took IPv4 as well would connect it to the guest's IPv6 address.
            int flags = (udp ? ForwardUdp : 0) | (six ? ForwardIpv6Only : 0);
            if (_library.AddForward(_slirp, hostBytes, (uint)hostLength, guestBytes, (uint)guestLength, flags) != 0)
            {
                throw Refused(forward, Marshal.GetLastSystemError());
            }
        }
        if (forward.HostPort != 0)
        {
            return forward;
        }
        foreach (int descriptor in Descriptors())
        {
            if (!before.Contains(descriptor) && HostPoll.IsStream(descriptor) != udp && HostPoll.LocalAddress(descriptor) is { Port: not 0 } address)
            {
                return forward with { HostPort = (ushort)address.Port };
            }
        }
        throw new NetworkException($"{forward} was published, but its port cannot be found out; give one");
    }

    /// <summary>Asks which descriptors are to be polled; returns how long at most, in nanoseconds, or -1 for no limit.</summary>
    /// <param name="waker">A descriptor that is polled with them.</param>
    /// <param name="reading">Whether to read from the host: false when the guest does not take what has been read.</param>
    public long Fill(int waker, bool reading)
    {
        _descriptors[0] = new PollDescriptor { Descriptor = waker, Events = HostPoll.In };
        _descriptorCount = 1;
        _reading = reading;
        uint milliseconds = uint.MaxValue;
        _library.FillPoll(_slirp, &milliseconds, &AddPoll, GCHandle.ToIntPtr(_self));
        long limit = milliseconds == uint.MaxValue ? -1 : milliseconds * 1_000_000L;
        foreach (ref Timer timer in _timers.AsSpan())
        {
            if (timer is { Used: true, Expires: not long.MaxValue })
            {
                long left = Math.Max(0, (timer.Expires * 1_000_000) - Now());
                limit = limit < 0 ? left : Math.Min(limit, left);
            }
        }
        return limit;
    }

    /// <summary>Waits as <see cref="Fill"/> asked, at most <paramref name="nanoseconds"/> (-1: no limit). Returns whether the waker was signalled.</summary>
    public bool Wait(long nanoseconds)
    {
        _failed = !HostPoll.Wait(_descriptors.AsSpan(0, _descriptorCount), nanoseconds);
        return _descriptors[0].Returned != 0;
    }

    /// <summary>Lets the stack act on what became ready, and on timers that have expired.</summary>
    public void Act()
    {
        _library.Poll(_slirp, _failed ? 1 : 0, &GetReturned, GCHandle.ToIntPtr(_self));
        for (int i = 0; i < _timers.Length; i++)
        {
            if (_timers[i] is { Used: true } timer && timer.Expires * 1_000_000 <= Now())
            {
                _timers[i].Expires = long.MaxValue;
                _library.HandleTimer(_slirp, timer.Id, timer.Opaque);
            }
        }
    }

    /// <summary>Closes all connections and frees the stack.</summary>
    public void Dispose()
    {
        if (_slirp != 0)
        {
            _library.Cleanup(_slirp);
            _slirp = 0;
        }
        foreach (nint memory in _memory)
        {
            NativeMemory.Free((void*)memory);
        }
        _memory.Clear();
        if (_self.IsAllocated)
        {
            _self.Free();
        }
    }

    /// <summary>
    /// The clock of all stacks, in nanoseconds: the host's, without the last minutes of each span of 2^32 ms. The library compares the time with a UDP socket's end as unsigned words of 32 bits, so that
    /// in those minutes it would take each socket, whose end is in the next span, as expired.
    /// </summary>
    /// <param name="elapsed">The host's clock, in nanoseconds.</param>
    internal static long Clock(long elapsed) => elapsed + (elapsed / ((ClockSpan - ClockGap) * 1_000_000) * (ClockGap * 1_000_000));

    private static long Now() => Clock((long)(System.Diagnostics.Stopwatch.GetTimestamp() * (1e9 / System.Diagnostics.Stopwatch.Frequency)));

    private static uint Word(IPAddress address)
    {
        uint word = 0;
        address.TryWriteBytes(new Span<byte>(&word, sizeof(uint)), out _);
        return word;
    }

    private static NetworkException Refused(PortForward forward, int error)
    {
        const int PermissionDenied = 13, InUse = 98, NotAvailable = 99;
        IPEndPoint address = new(forward.Host, forward.HostPort);
        string protocol = forward.Protocol == ProtocolType.Udp ? "UDP" : "TCP";
        return new NetworkException(error switch
        {
            InUse => $"{protocol} port {address} of the host is in use: publish another one, for example 0:{forward.GuestPort} for any that is free",
            PermissionDenied => $"{protocol} port {address} of the host needs privileges (net.ipv4.ip_unprivileged_port_start): publish a higher one",
            NotAvailable => $"{protocol} port {address} cannot be published: this host has no such address",
            _ => $"{protocol} port {address} of the host cannot be published: {new Win32Exception(error).Message}",
        });
    }

    private List<int> Descriptors()
    {
        Fill(-1, reading: true);
        List<int> all = [];
        for (int i = 1; i < _descriptorCount; i++)
        {
            all.Add(_descriptors[i].Descriptor);
        }
        return all;
    }

    /// <summary>Zero-terminated UTF-8 that lives as long as the stack.</summary>
    private byte* Text(string? text)
    {
        if (text is null)
        {
            return null;
        }
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        byte* memory = (byte*)NativeMemory.AllocZeroed((nuint)bytes.Length + 1);
        _memory.Add((nint)memory);
        bytes.CopyTo(new Span<byte>(memory, bytes.Length));
        return memory;
    }

    private struct Timer
    {
        public bool Used;
        public int Id;
        public nint Opaque;
        public long Expires; // milliseconds of the clock; long.MaxValue: does not run
    }
}
