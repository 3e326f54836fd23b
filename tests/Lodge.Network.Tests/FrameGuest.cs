using System.Buffers.Binary;
using System.Net;
using Lodge.Network.Packets;
using Lodge.Network.User;
using Xunit;

namespace Lodge.Network.Tests;

/// <summary>A guest of a few lines: it answers ARP and asks for an address by DHCP.</summary>
internal sealed class FrameGuest
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(20); // far beyond any success
    private readonly AutoResetEvent _awake = new(false);
    private readonly byte[] _buffer = new byte[65562];
    private string? _last;

    public FrameGuest(UserLink link)
    {
        Link = link;
        link.Connect(() => _awake.Set());
        Send(Announcement(), default);
    }

    public static MacAddress Mac { get; } = new(0x5254_0012_3456);

    public UserLink Link { get; }

    public static IPAddress Address { get; } = IPAddress.Parse("10.0.2.15");

    /// <summary>Sends a frame, waiting while the link takes none.</summary>
    public void Send(byte[] frame, in FrameOffload offload)
    {
        DateTime end = DateTime.UtcNow + Limit;
        while (!Link.TrySend(frame, offload))
        {
            Assert.True(DateTime.UtcNow < end, "the link takes no frames");
            _awake.WaitOne(Limit);
        }
    }

    /// <summary>Says whose address it is, as systems do (RFC 5227): the stack drops what waits longer than a second for that.</summary>
    public static byte[] Announcement() => ArpRequest(Address);

    /// <summary>Takes all frames that are there.</summary>
    public void Drain()
    {
        while (Link.TryReceive(_buffer, out _) > 0)
        {
        }
    }

    /// <summary>Asks by DHCP; the reply to the request, from its op field on.</summary>
    public byte[] Dhcp()
    {
        IPAddress any = IPAddress.Any, all = IPAddress.Broadcast;
        Send(Udp(any, all, 68, 67, DhcpMessage(1, null), false), default);
        byte[] offer = WaitForIpv4(17, p => BinaryPrimitives.ReadUInt16BigEndian(p.AsSpan(22)) == 68)[28..];
        Assert.Equal(2, DhcpOptions(offer)[53][0]);
        Send(Udp(any, all, 68, 67, DhcpMessage(3, offer[16..20]), false), default);
        byte[] reply = WaitForIpv4(17, p => BinaryPrimitives.ReadUInt16BigEndian(p.AsSpan(22)) == 68)[28..];
        Assert.Equal(5, DhcpOptions(reply)[53][0]);
        return reply;
    }

    public static Dictionary<byte, byte[]> DhcpOptions(byte[] message)
    {
        Dictionary<byte, byte[]> options = [];
        for (int at = 240; message[at] != 255; at += 2 + message[at + 1])
        {
            options[message[at]] = message[(at + 2)..(at + 2 + message[at + 1])];
        }
        return options;
    }

    public void SendUdp(IPAddress to, ushort fromPort, ushort toPort, ReadOnlySpan<byte> data) => Send(UdpFrame(to, fromPort, toPort, data, false), default);

    public static byte[] UdpFrame(IPAddress to, ushort fromPort, ushort toPort, ReadOnlySpan<byte> data, bool partialChecksum) => Udp(Address, to, fromPort, toPort, data, partialChecksum);

    public static byte[] ArpRequest(IPAddress target)
    {
        byte[] frame = new byte[42];
        frame.AsSpan(0, 6).Fill(0xFF);
        Mac.Write(frame.AsSpan(6));
        new byte[] { 8, 6, 0, 1, 8, 0, 6, 4, 0, 1 }.CopyTo(frame, 12);
        Mac.Write(frame.AsSpan(22));
        Address.TryWriteBytes(frame.AsSpan(28), out _);
        target.TryWriteBytes(frame.AsSpan(38), out _);
        return frame;
    }

    /// <summary>Asks for the IPv6 network (RFC 4861, 4.1), from the unspecified address.</summary>
    public static byte[] RouterSolicitation()
    {
        byte[] frame = new byte[62];
        Convert.FromHexString("333300000002").CopyTo(frame, 0);
        Mac.Write(frame.AsSpan(6));
        Convert.FromHexString("86DD6000000000083AFF").CopyTo(frame, 12);
        IPAddress.Parse("ff02::2").TryWriteBytes(frame.AsSpan(38), out _);
        frame[54] = 133;
        uint sum = (uint)(Sum(frame.AsSpan(22, 32)) + 8 + 58 + Sum(frame.AsSpan(54)));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(56), (ushort)~((sum & 0xFFFF) + (sum >> 16)));
        return frame;
    }

    /// <summary>Begins a connection to the host's discard port; the checksum is missing.</summary>
    public static byte[] TcpSyn()
    {
        byte[] frame = new byte[58];
        Convert.FromHexString("52550A000202").CopyTo(frame, 0);
        Mac.Write(frame.AsSpan(6));
        Convert.FromHexString("08004500002C00000000400600000A00020F0A000202").CopyTo(frame, 12);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(24), (ushort)~Sum(frame.AsSpan(14, 20)));
        Convert.FromHexString("0FA000090000000100000000600210000000000002040218").CopyTo(frame, 34);
        return frame;
    }

    /// <summary>A segment in answer to a connection's first one; lengths and checksum are missing.</summary>
    public byte[] TcpReply(byte[] syn, uint acknowledge, uint sequence, byte flags)
    {
        byte[] frame = new byte[54];
        TcpSyn().AsSpan(0, 34).CopyTo(frame);
        Address.TryWriteBytes(frame.AsSpan(26), out _);
        syn.AsSpan(12, 4).CopyTo(frame.AsSpan(30));
        syn.AsSpan(22, 2).CopyTo(frame.AsSpan(34));
        syn.AsSpan(20, 2).CopyTo(frame.AsSpan(36));
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(38), sequence);
        BinaryPrimitives.WriteUInt32BigEndian(frame.AsSpan(42), BinaryPrimitives.ReadUInt32BigEndian(syn.AsSpan(24)) + acknowledge);
        frame[46] = 0x50;
        frame[47] = flags;
        frame[48] = 0xFF;
        return frame;
    }

    /// <summary>The next IPv4 packet of a protocol; ARP requests for the guest are answered meanwhile.</summary>
    public byte[] WaitForIpv4(byte protocol, Func<byte[], bool>? wanted = null) =>
        Wait(f => BinaryPrimitives.ReadUInt16BigEndian(f.AsSpan(12)) == 0x0800 && f[23] == protocol && wanted?.Invoke(f[14..]) != false);

    /// <summary>The next ICMPv6 message of a type.</summary>
    public byte[] WaitForIpv6(byte protocol, byte type) =>
        Wait(f => BinaryPrimitives.ReadUInt16BigEndian(f.AsSpan(12)) == 0x86DD && f[20] == protocol && f[54] == type);

    public static ushort Sum(ReadOnlySpan<byte> bytes)
    {
        uint sum = 0;
        for (int i = 0; i < bytes.Length; i++)
        {
            sum += (uint)bytes[i] << ((i & 1) == 0 ? 8 : 0);
        }
        sum = (sum & 0xFFFF) + (sum >> 16);
        return (ushort)((sum & 0xFFFF) + (sum >> 16));
    }

    private byte[] Wait(Func<byte[], bool> wanted)
    {
        DateTime end = DateTime.UtcNow + Limit;
        for (; ; )
        {
            int length = Link.TryReceive(_buffer, out _);
            if (length == 0)
            {
                if (!_awake.WaitOne(Limit) || DateTime.UtcNow >= end)
                {
                    Assert.Fail(NoFrame());
                }
                continue;
            }
            byte[] frame = _buffer[..length];
            _last = $"{length} bytes of type {frame[12]:x2}{frame[13]:x2}";
            if (frame[12] == 8 && frame[13] == 6 && frame[21] == 1 && frame.AsSpan(38, 4).SequenceEqual(Address.GetAddressBytes()))
            {
                byte[] reply = ArpRequest(new IPAddress(frame.AsSpan(28, 4)));
                reply[21] = 2;
                frame.AsSpan(22, 6).CopyTo(reply.AsSpan(32));
                Send(reply, default);
            }
            if (wanted(frame))
            {
                return frame[14..];
            }
        }
    }

    private string NoFrame() =>
        $"no such frame came: {Link.Counters.ReceivedFrames} did, the last of {_last ?? "no bytes"}; dropped {Link.DropsToGuest} to the guest, {Link.RefusedSockets} for its sockets; sent {Link.Counters.SentFrames}, malformed {Link.ErrorsFromGuest}";

    private static byte[] DhcpMessage(byte type, byte[]? requested)
    {
        byte[] message = new byte[300];
        message[0] = message[1] = 1;
        message[2] = 6;
        message[4] = 0x39;
        Mac.Write(message.AsSpan(28));
        byte[] options = [0x63, 0x82, 0x53, 0x63, 53, 1, type, .. requested is null ? [] : (byte[])[50, 4, .. requested], 255];
        options.CopyTo(message, 236);
        return message;
    }

    private static byte[] Udp(IPAddress from, IPAddress to, ushort fromPort, ushort toPort, ReadOnlySpan<byte> data, bool partialChecksum)
    {
        byte[] frame = new byte[42 + data.Length];
        Span<byte> ip = frame.AsSpan(14), udp = frame.AsSpan(34);
        new byte[] { 0x52, 0x55 }.CopyTo(frame, 0); // the router's address is 52:55 and its IPv4 address
        (to.Equals(IPAddress.Broadcast) ? [255, 255, 255, 255] : (byte[])[10, 0, 2, 2]).CopyTo(frame, 2);
        Mac.Write(frame.AsSpan(6));
        frame[12] = 8;
        ip[0] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)(28 + data.Length));
        ip[8] = 64;
        ip[9] = 17;
        from.TryWriteBytes(ip[12..], out _);
        to.TryWriteBytes(ip[16..], out _);
        BinaryPrimitives.WriteUInt16BigEndian(ip[10..], (ushort)~Sum(ip[..20]));
        BinaryPrimitives.WriteUInt16BigEndian(udp, fromPort);
        BinaryPrimitives.WriteUInt16BigEndian(udp[2..], toPort);
        BinaryPrimitives.WriteUInt16BigEndian(udp[4..], (ushort)(8 + data.Length));
        data.CopyTo(udp[8..]);
        uint pseudo = (uint)(Sum(ip[12..20]) + 17 + 8 + data.Length);
        pseudo = (pseudo & 0xFFFF) + (pseudo >> 16);
        if (partialChecksum)
        {
            BinaryPrimitives.WriteUInt16BigEndian(udp[6..], (ushort)pseudo);
        }
        else
        {
            uint sum = pseudo + Sum(udp);
            BinaryPrimitives.WriteUInt16BigEndian(udp[6..], (ushort)~((sum & 0xFFFF) + (sum >> 16)));
        }
        return frame;
    }
}
