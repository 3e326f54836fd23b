using System.Buffers.Binary;
using System.Text;
using Lodge.Network.Packets;

namespace Lodge.Network.Capture;

/// <summary>Formats of capture files.</summary>
public enum CaptureFormat
{
    /// <summary>The classic format of libpcap with stamps of a nanosecond: no interfaces, no directions.</summary>
    Pcap,

    /// <summary>pcapng (draft-ietf-opsawg-pcapng) with the interfaces' names and the frames' directions.</summary>
    Pcapng,
}

/// <summary>Directions of a captured frame, seen from the machine; the values are those of pcapng's epb_flags.</summary>
public enum CaptureDirection : byte
{
    /// <summary>To the machine.</summary>
    Inbound = 1,

    /// <summary>From the machine.</summary>
    Outbound = 2,
}

/// <summary>Writes records of both formats into memory, least significant byte first; readers detect the order.</summary>
internal static class CaptureRecords
{
    /// <summary>Most bytes of a record beside the frame.</summary>
    public const int MaximumOverhead = 64;

    private const ushort Ethernet = 1;

    public static byte[] PcapHeader(int snapLength)
    {
        byte[] header = new byte[24];
        BinaryPrimitives.WriteUInt32LittleEndian(header, 0xA1B23C4D);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(4), 2);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(6), 4);
        BinaryPrimitives.WriteInt32LittleEndian(header.AsSpan(16), snapLength);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(20), Ethernet);
        return header;
    }

    public static int PcapPacket(Span<byte> destination, long nanoseconds, ReadOnlySpan<byte> captured, int length)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(destination, (uint)(nanoseconds / 1_000_000_000));
        BinaryPrimitives.WriteUInt32LittleEndian(destination[4..], (uint)(nanoseconds % 1_000_000_000));
        BinaryPrimitives.WriteInt32LittleEndian(destination[8..], captured.Length);
        BinaryPrimitives.WriteInt32LittleEndian(destination[12..], length);
        captured.CopyTo(destination[16..]);
        return 16 + captured.Length;
    }

    /// <summary>Section Header Block.</summary>
    public static byte[] SectionHeader()
    {
        const ushort userApplication = 4;
        var content = new List<byte>();
        content.AddRange(Bytes(0x1A2B3C4D));
        content.AddRange([1, 0, 0, 0]);
        content.AddRange(Enumerable.Repeat((byte)0xFF, 8)); // section length: not said
        AddOption(content, userApplication, "Lodge"u8);
        return Block(0x0A0D0D0A, content);
    }

    /// <summary>Interface Description Block.</summary>
    public static byte[] InterfaceDescription(string name, MacAddress? address, int snapLength)
    {
        const ushort interfaceName = 2, macAddress = 6, timeResolution = 9;
        var content = new List<byte>();
        content.AddRange(Bytes(Ethernet));
        content.AddRange(Bytes((uint)snapLength));
        AddOption(content, interfaceName, Encoding.UTF8.GetBytes(name));
        if (address is { } mac)
        {
            byte[] bytes = new byte[MacAddress.Length];
            mac.Write(bytes);
            AddOption(content, macAddress, bytes);
        }
        AddOption(content, timeResolution, [9]);
        return Block(1, content);
    }

    /// <summary>Interface Statistics Block.</summary>
    public static byte[] InterfaceStatistics(uint number, long nanoseconds, long frames, long drops)
    {
        const ushort received = 4, dropped = 5;
        var content = new List<byte>();
        content.AddRange(Bytes(number));
        content.AddRange(Bytes((uint)((ulong)nanoseconds >> 32)));
        content.AddRange(Bytes((uint)nanoseconds));
        AddOption(content, received, BitConverter.GetBytes(frames));
        AddOption(content, dropped, BitConverter.GetBytes(drops));
        return Block(5, content);
    }

    /// <summary>Enhanced Packet Block.</summary>
    public static int EnhancedPacket(Span<byte> destination, uint number, CaptureDirection direction, long nanoseconds, ReadOnlySpan<byte> captured, int length)
    {
        const ushort flags = 2;
        int padded = (captured.Length + 3) & ~3;
        int total = 28 + padded + 8 + 4 + 4;
        BinaryPrimitives.WriteUInt32LittleEndian(destination, 6);
        BinaryPrimitives.WriteInt32LittleEndian(destination[4..], total);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[8..], number);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[12..], (uint)((ulong)nanoseconds >> 32));
        BinaryPrimitives.WriteUInt32LittleEndian(destination[16..], (uint)nanoseconds);
        BinaryPrimitives.WriteInt32LittleEndian(destination[20..], captured.Length);
        BinaryPrimitives.WriteInt32LittleEndian(destination[24..], length);
        captured.CopyTo(destination[28..]);
        destination[(28 + captured.Length)..(28 + padded)].Clear();
        destination = destination[(28 + padded)..];
        BinaryPrimitives.WriteUInt16LittleEndian(destination, flags);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[2..], 4);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[4..], (uint)direction);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[8..], 0); // opt_endofopt
        BinaryPrimitives.WriteInt32LittleEndian(destination[12..], total);
        return total;
    }

    private static byte[] Bytes(uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    private static void AddOption(List<byte> content, ushort code, ReadOnlySpan<byte> value)
    {
        content.AddRange(Bytes(code | ((uint)value.Length << 16)));
        content.AddRange(value);
        content.AddRange(new byte[-value.Length & 3]);
    }

    private static byte[] Block(uint type, List<byte> content)
    {
        byte[] total = Bytes((uint)(content.Count + 16));
        return [.. Bytes(type), .. total, .. content, 0, 0, 0, 0, .. total];
    }
}
