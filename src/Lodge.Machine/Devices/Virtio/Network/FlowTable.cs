using System.Buffers.Binary;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>
/// Remembers for flows which transmit queue they last used, so that what comes back goes to the receive queue of the same pair (virtio 1.2, 5.1.6.5.6.1).
/// A flow is known by a hash that is the same for both directions; flows that share an entry share a queue, which costs speed at most.
/// </summary>
internal sealed class FlowTable
{
    private const int Entries = 1024;
    private const ushort TypeIPv4 = 0x0800;
    private const ushort TypeIPv6 = 0x86DD;
    private const ushort TypeVlan = 0x8100;
    private const ushort TypeServiceVlan = 0x88A8;
    private const byte Tcp = 6;
    private const byte Udp = 17;
    private readonly byte[] _pairs = new byte[Entries];     // queue pair and 1; 0: not known

    public void Clear() => Array.Clear(_pairs);

    /// <summary>The flow of a frame was seen on a pair's transmit queue.</summary>
    public void Learn(ReadOnlySpan<byte> frame, int pair) => _pairs[Hash(frame) % Entries] = (byte)(pair + 1);

    /// <summary>The pair whose receive queue a frame belongs to.</summary>
    public int Find(ReadOnlySpan<byte> frame, int pairs)
    {
        uint hash = Hash(frame);
        int known = _pairs[hash % Entries];
        return known != 0 && known <= pairs ? known - 1 : (int)(hash / Entries % (uint)pairs);
    }

    private static uint Hash(ReadOnlySpan<byte> frame)
    {
        if (frame.Length < VirtioNetworkRegisters.EthernetHeader)
        {
            return 0;
        }
        int at = 12;
        ushort type = BinaryPrimitives.ReadUInt16BigEndian(frame[at..]);
        for (int tags = 0; tags < 2 && type is TypeVlan or TypeServiceVlan && frame.Length >= at + 6; tags++)
        {
            at += 4;
            type = BinaryPrimitives.ReadUInt16BigEndian(frame[at..]);
        }
        ReadOnlySpan<byte> packet = frame[(at + 2)..];
        if (type == TypeIPv4 && packet.Length >= 20)
        {
            int header = (packet[0] & 15) * 4;
            bool fragment = (BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & 0x3FFF) != 0;
            (uint from, uint to) = Ports(packet, fragment ? int.MaxValue : header, packet[9]);
            return Combine(
                BinaryPrimitives.ReadUInt32LittleEndian(packet[12..]), from, BinaryPrimitives.ReadUInt32LittleEndian(packet[16..]), to, packet[9]);
        }
        if (type == TypeIPv6 && packet.Length >= 40)
        {
            (uint from, uint to) = Ports(packet, 40, packet[6]);
            return Combine(
                BinaryPrimitives.ReadUInt64LittleEndian(packet[8..]) ^ (BinaryPrimitives.ReadUInt64LittleEndian(packet[16..]) * 3), from,
                BinaryPrimitives.ReadUInt64LittleEndian(packet[24..]) ^ (BinaryPrimitives.ReadUInt64LittleEndian(packet[32..]) * 3), to, packet[6]);
        }
        return Combine(
            BinaryPrimitives.ReadUInt32LittleEndian(frame[2..]), 0, BinaryPrimitives.ReadUInt32LittleEndian(frame[8..]), 0, 0);
    }

    private static (uint From, uint To) Ports(ReadOnlySpan<byte> packet, int at, byte protocol) =>
        protocol is Tcp or Udp && at <= packet.Length - 4
            ? (BinaryPrimitives.ReadUInt16LittleEndian(packet[at..]), BinaryPrimitives.ReadUInt16LittleEndian(packet[(at + 2)..]))
            : (0u, 0u);

    /// <summary>The sum of both ends does not depend on the direction.</summary>
    private static uint Combine(ulong from, uint fromPort, ulong to, uint toPort, byte protocol)
    {
        ulong sum = Mix(from + ((ulong)fromPort << 40)) + Mix(to + ((ulong)toPort << 40)) + protocol;
        return (uint)(Mix(sum) >> 32);
    }

    /// <summary>A multiplication by the golden ratio spreads low bits upwards, the shift back down.</summary>
    private static ulong Mix(ulong value)
    {
        value = (value ^ (value >> 31)) * 0x9E37_79B9_7F4A_7C15;
        return value ^ (value >> 29);
    }
}
