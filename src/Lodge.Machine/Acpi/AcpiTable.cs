using System.Buffers.Binary;
using System.Text;

namespace Lodge.Machine.Acpi;

/// <summary>Builds a system description table: the 36-byte header (ACPI 6.5, 5.2.6), fields appended in order, then length and checksum.</summary>
internal sealed class AcpiTable
{
    /// <summary>Bytes of the header.</summary>
    public const int HeaderLength = 36;

    private const int LengthOffset = 4;
    private const int ChecksumOffset = 9;
    private readonly List<byte> _bytes = [];

    /// <summary>Begins a table.</summary>
    /// <param name="signature">Four characters.</param>
    /// <param name="revision">Revision of the table's layout.</param>
    public AcpiTable(string signature, byte revision)
    {
        Text(signature);
        UInt32(0); // length
        UInt8(revision);
        UInt8(0); // checksum
        Text("LODGE ");
        Text("LODGEPC ");
        UInt32(1); // OEM revision
        Text("LDGE");
        UInt32(1); // creator revision
    }

    /// <summary>Appends a byte.</summary>
    public AcpiTable UInt8(int value)
    {
        _bytes.Add((byte)value);
        return this;
    }

    /// <summary>Appends 16 bits.</summary>
    public AcpiTable UInt16(int value) => UInt8(value).UInt8(value >> 8);

    /// <summary>Appends 32 bits.</summary>
    public AcpiTable UInt32(uint value) => UInt16((ushort)value).UInt16((ushort)(value >> 16));

    /// <summary>Appends 64 bits.</summary>
    public AcpiTable UInt64(ulong value) => UInt32((uint)value).UInt32((uint)(value >> 32));

    /// <summary>Appends bytes.</summary>
    public AcpiTable Bytes(ReadOnlySpan<byte> value)
    {
        _bytes.AddRange(value);
        return this;
    }

    /// <summary>Appends a generic address structure for ports (5.2.3.2).</summary>
    /// <param name="port">First port, 0 for none.</param>
    /// <param name="bits">Width of the register in bits.</param>
    /// <param name="access">Access size: 1 byte, 2 word, 3 doubleword.</param>
    public AcpiTable PortAddress(int port, int bits, int access) =>
        port == 0 ? UInt32(0).UInt64(0) : UInt8(1).UInt8(bits).UInt8(0).UInt8(access).UInt64((ulong)port);

    /// <summary>The finished table.</summary>
    public byte[] ToArray()
    {
        byte[] table = [.. _bytes];
        BinaryPrimitives.WriteInt32LittleEndian(table.AsSpan(LengthOffset), table.Length);
        table[ChecksumOffset] = Checksum(table);
        return table;
    }

    /// <summary>The byte that makes the sum of all bytes zero when that byte is zero now.</summary>
    public static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte value in bytes)
        {
            sum += value;
        }
        return (byte)-sum;
    }

    private void Text(string value) => _bytes.AddRange(Encoding.ASCII.GetBytes(value));
}
