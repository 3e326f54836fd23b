using System.Buffers.Binary;
using System.Text;

namespace Lodge.Machine.Acpi;

/// <summary>
/// Encodes ACPI machine language (ACPI 6.5, chapter 20): each member returns the bytes of one term, and terms nest by being passed on. Names are
/// written as in ASL, with four-character segments padded here (<c>\_SB</c>, <c>PCI0</c>).
/// </summary>
internal static class Aml
{
    /// <summary>Method argument 0 to 6.</summary>
    public static byte[] Argument(int number) => [(byte)(0x68 + number)];

    /// <summary>An integer in its shortest form.</summary>
    public static byte[] Integer(ulong value)
    {
        byte[] bytes = new byte[9];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(1), value);
        (bytes[0], int length) = value switch
        {
            0 => ((byte)0x00, 1),
            1 => ((byte)0x01, 1),
            <= byte.MaxValue => ((byte)0x0A, 2),
            <= ushort.MaxValue => ((byte)0x0B, 3),
            <= uint.MaxValue => ((byte)0x0C, 5),
            _ => ((byte)0x0E, 9),
        };
        return bytes[..length];
    }

    /// <summary>An ASCII string.</summary>
    public static byte[] Text(string value) => [0x0D, .. Encoding.ASCII.GetBytes(value), 0];

    /// <summary>A compressed EISA identifier such as PNP0A08 (19.6.36).</summary>
    public static byte[] EisaId(string id)
    {
        uint value = 0;
        for (int i = 0; i < 3; i++)
        {
            value = (value << 5) | (uint)(id[i] - 0x40);
        }
        value = (value << 16) | Convert.ToUInt16(id[3..], 16);
        byte[] bytes = new byte[5];
        bytes[0] = 0x0C;
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(1), value);
        return bytes;
    }

    /// <summary>A buffer with the given contents.</summary>
    public static byte[] Buffer(byte[] contents) => [0x11, .. WithLength([.. Integer((ulong)contents.Length), .. contents])];

    /// <summary>A UUID as a buffer (19.6.142, ToUUID: the first three fields little endian).</summary>
    public static byte[] Uuid(string value) => Buffer(Guid.Parse(value).ToByteArray());

    /// <summary>A package of at most 255 elements.</summary>
    public static byte[] Package(params IReadOnlyCollection<byte[]> elements) => [0x12, .. WithLength([checked((byte)elements.Count), .. Join(elements)])];

    /// <summary>A name string: root and parent prefixes, then one or more segments.</summary>
    public static byte[] Path(string path)
    {
        var bytes = new List<byte>();
        int at = 0;
        while (at < path.Length && path[at] is '\\' or '^')
        {
            bytes.Add((byte)path[at++]);
        }
        string[] segments = path[at..].Split('.', StringSplitOptions.RemoveEmptyEntries);
        if (segments.Length == 0)
        {
            bytes.Add(0x00);
        }
        else if (segments.Length == 2)
        {
            bytes.Add(0x2E);
        }
        else if (segments.Length > 2)
        {
            bytes.Add(0x2F);
            bytes.Add((byte)segments.Length);
        }
        foreach (string segment in segments)
        {
            bytes.AddRange(Encoding.ASCII.GetBytes(segment.PadRight(4, '_')));
        }
        return [.. bytes];
    }

    /// <summary><c>Name (name, value)</c>.</summary>
    public static byte[] Name(string name, byte[] value) => [0x08, .. Path(name), .. value];

    /// <summary><c>Scope (path) { ... }</c>.</summary>
    public static byte[] Scope(string path, params IReadOnlyCollection<byte[]> terms) => [0x10, .. WithLength([.. Path(path), .. Join(terms)])];

    /// <summary><c>Device (name) { ... }</c>.</summary>
    public static byte[] Device(string name, params IReadOnlyCollection<byte[]> terms) => [0x5B, 0x82, .. WithLength([.. Path(name), .. Join(terms)])];

    /// <summary><c>Method (name, arguments, Serialized) { ... }</c>.</summary>
    public static byte[] Method(string name, int arguments, params IReadOnlyCollection<byte[]> terms) =>
        [0x14, .. WithLength([.. Path(name), (byte)(arguments | 8), .. Join(terms)])];

    /// <summary><c>If (condition) { ... }</c>.</summary>
    public static byte[] If(byte[] condition, params IReadOnlyCollection<byte[]> terms) => [0xA0, .. WithLength([.. condition, .. Join(terms)])];

    /// <summary><c>Else { ... }</c>.</summary>
    public static byte[] Else(params IReadOnlyCollection<byte[]> terms) => [0xA1, .. WithLength(Join(terms))];

    /// <summary><c>left == right</c>.</summary>
    public static byte[] Equal(byte[] left, byte[] right) => [0x93, .. left, .. right];

    /// <summary><c>left | right</c> into <paramref name="target"/>.</summary>
    public static byte[] Or(byte[] left, byte[] right, byte[] target) => [0x7D, .. left, .. right, .. target];

    /// <summary><c>CreateDWordField (buffer, byte index, name)</c>.</summary>
    public static byte[] CreateDWordField(byte[] buffer, int index, string name) => [0x8A, .. buffer, .. Integer((ulong)index), .. Path(name)];

    /// <summary><c>Local</c> 0 to 7.</summary>
    public static byte[] Local(int number) => [(byte)(0x60 + number)];

    /// <summary><c>target = value</c>.</summary>
    public static byte[] Store(byte[] value, byte[] target) => [0x70, .. value, .. target];

    /// <summary><c>buffer [index]</c>, as a target.</summary>
    public static byte[] Element(byte[] buffer, int index) => [0x88, .. buffer, .. Integer((ulong)index), 0x00];

    /// <summary><c>Notify (device, value)</c>.</summary>
    public static byte[] Notify(string device, int value) => [0x86, .. Path(device), .. Integer((ulong)value)];

    /// <summary><c>OperationRegion (name, SystemIO, first, length)</c>.</summary>
    public static byte[] PortRegion(string name, int first, int length) => [0x5B, 0x80, .. Path(name), 0x01, .. Integer((ulong)first), .. Integer((ulong)length)];

    /// <summary>
    /// <c>Field (region, ByteAcc, NoLock, WriteAsZeros)</c> with fields of one bit, of which each is the next: what is written to one leaves zeros to the
    /// others in its byte. Null skips a bit.
    /// </summary>
    public static byte[] BitFields(string region, params IReadOnlyCollection<string?> bits)
    {
        const byte ByteAccessWritingZeros = 0x41;
        var elements = new List<byte[]>();
        foreach (string? name in bits)
        {
            elements.Add(name is null ? [0x00, 1] : [.. Path(name), 1]);
        }
        return [0x5B, 0x81, .. WithLength([.. Path(region), ByteAccessWritingZeros, .. Join(elements)])];
    }

    /// <summary><c>Return (value)</c>.</summary>
    public static byte[] Return(byte[] value) => [0xA4, .. value];

    private static byte[] Join(IReadOnlyCollection<byte[]> terms)
    {
        byte[] all = new byte[terms.Sum(static term => term.Length)];
        int at = 0;
        foreach (byte[] term in terms)
        {
            term.CopyTo(all, at);
            at += term.Length;
        }
        return all;
    }

    /// <summary>Prefixes contents with their package length, which counts itself (20.2.4).</summary>
    private static byte[] WithLength(byte[] contents)
    {
        for (int width = 1; width <= 4; width++)
        {
            int total = contents.Length + width;
            if (width == 1 && total < 0x40)
            {
                return [(byte)total, .. contents];
            }
            if (width > 1 && total < 1 << (4 + (8 * (width - 1))))
            {
                byte[] result = new byte[total];
                result[0] = (byte)(((width - 1) << 6) | (total & 0x0F));
                for (int i = 1; i < width; i++)
                {
                    result[i] = (byte)(total >> (4 + (8 * (i - 1))));
                }
                contents.CopyTo(result, width);
                return result;
            }
        }
        throw new ArgumentException($"AML term of {contents.Length} bytes is too long", nameof(contents));
    }
}
