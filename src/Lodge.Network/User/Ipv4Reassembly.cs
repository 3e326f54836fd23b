using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.User;

/// <summary>
/// Puts the guest's fragmented IPv4 packets together (RFC 791, 3.2), so that libslirp sees whole ones only: its own reassembly (4.7) does not stand hostile fragments. Bounded: a few packets at a
/// time, the oldest one goes; a packet whose fragments overlap or contradict each other is dropped.
/// </summary>
internal sealed class Ipv4Reassembly
{
    private const int Ethernet = 14;
    private const int MaximumPackets = 16;
    private const int MoreFragments = 0x2000, OffsetMask = 0x1FFF;

    private readonly List<Packet> _packets = []; // the oldest first

    /// <summary>Whether a frame is a fragment.</summary>
    public static bool IsFragment(ReadOnlySpan<byte> frame) =>
        frame.Length >= Ethernet + 20 && frame[12] == 0x08 && frame[13] == 0x00 && (BinaryPrimitives.ReadUInt16BigEndian(frame[(Ethernet + 6)..]) & (MoreFragments | OffsetMask)) != 0;

    /// <summary>Takes a fragment; returns the whole frame when it was the last one that was missing, else an empty span.</summary>
    public ReadOnlySpan<byte> Add(ReadOnlySpan<byte> frame)
    {
        ReadOnlySpan<byte> ip = frame[Ethernet..];
        int header = (ip[0] & 0xF) * 4;
        int length = BinaryPrimitives.ReadUInt16BigEndian(ip[2..]) - header;
        ushort word = BinaryPrimitives.ReadUInt16BigEndian(ip[6..]);
        int at = (word & OffsetMask) * 8;
        bool more = (word & MoreFragments) != 0;
        if (ip[0] >> 4 != 4 || header < 20 || length <= 0 || header + length > ip.Length || InternetChecksum.Sum(ip[..header]) != 0xFFFF || (more && length % 8 != 0) || at + length > ushort.MaxValue - 60)
        {
            return [];
        }
        UInt128 key = new(BinaryPrimitives.ReadUInt64BigEndian(ip[12..]), ((ulong)BinaryPrimitives.ReadUInt16BigEndian(ip[4..]) << 8) | ip[9]);
        int index = _packets.FindIndex(p => p.Key == key);
        if (index < 0)
        {
            if (_packets.Count == MaximumPackets)
            {
                _packets.RemoveAt(0);
            }
            index = _packets.Count;
            _packets.Add(new Packet(key));
        }
        Packet packet = _packets[index];
        bool contradiction = !packet.Add(ip.Slice(header, length), at, more);
        if (at == 0)
        {
            packet.Header = frame[..(Ethernet + header)].ToArray();
        }
        if (contradiction || packet.IsComplete)
        {
            _packets.RemoveAt(index);
        }
        return contradiction || !packet.IsComplete ? [] : packet.Whole();
    }

    private sealed class Packet(UInt128 key)
    {
        private readonly ulong[] _present = new ulong[8192 / 64]; // a bit for each 8 bytes
        private byte[] _data = [];
        private int _end = -1; // not known until the last fragment came
        private int _units;

        public UInt128 Key => key;

        public byte[]? Header { get; set; }

        public bool IsComplete => Header is not null && _end >= 0 && _units == (_end + 7) / 8;

        /// <summary>False for an overlap or another end.</summary>
        public bool Add(ReadOnlySpan<byte> data, int at, bool more)
        {
            int end = at + data.Length;
            if (_end >= 0 && (end > _end || (!more && end != _end)))
            {
                return false;
            }
            if (!more)
            {
                if (_data.Length > end)
                {
                    return false;
                }
                _end = end;
            }
            for (int unit = at / 8; unit < (end + 7) / 8; unit++)
            {
                ref ulong word = ref _present[unit / 64];
                if ((word & (1UL << (unit % 64))) != 0)
                {
                    return false;
                }
                word |= 1UL << (unit % 64);
                _units++;
            }
            if (_data.Length < end)
            {
                Array.Resize(ref _data, end);
            }
            data.CopyTo(_data.AsSpan(at));
            return true;
        }

        /// <summary>The frame, without fragment fields and options, which belong to the first fragment's way.</summary>
        public byte[] Whole()
        {
            byte[] frame = new byte[Ethernet + 20 + _end];
            Header.AsSpan(0, Ethernet + 20).CopyTo(frame);
            Span<byte> ip = frame.AsSpan(Ethernet);
            ip[0] = 0x45;
            BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)(20 + _end));
            ip[6..8].Clear();
            ip[10..12].Clear();
            BinaryPrimitives.WriteUInt16BigEndian(ip[10..], InternetChecksum.Compute(ip[..20]));
            _data.AsSpan(0, _end).CopyTo(ip[20..]);
            return frame;
        }
    }
}
