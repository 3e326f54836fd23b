using System.Buffers.Binary;

namespace Lodge.Storage.Shares;

/// <summary>The header of a request (<c>struct fuse_in_header</c>), and where the rest comes from. Its length field is not needed: the transport knows it.</summary>
internal readonly ref struct FuseRequest(ReadOnlySpan<byte> header, IFuseExchange exchange)
{
    public FuseOperation Operation { get; } = (FuseOperation)BinaryPrimitives.ReadUInt32LittleEndian(header[4..]);

    /// <summary>The client's number of the request.</summary>
    public ulong Unique { get; } = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);

    /// <summary>The file or folder that it is about.</summary>
    public ulong Node { get; } = BinaryPrimitives.ReadUInt64LittleEndian(header[16..]);

    /// <summary>User of the caller.</summary>
    public uint User { get; } = BinaryPrimitives.ReadUInt32LittleEndian(header[24..]);

    /// <summary>Group of the caller.</summary>
    public uint Group { get; } = BinaryPrimitives.ReadUInt32LittleEndian(header[28..]);

    public IFuseExchange Exchange { get; } = exchange;
}

/// <summary>A request after its header: fixed fields, and names behind them. What is beyond its end reads as zero.</summary>
internal readonly ref struct FuseBody(ReadOnlySpan<byte> bytes)
{
    private readonly ReadOnlySpan<byte> _bytes = bytes;

    public int Length => _bytes.Length;

    public uint UInt32(int offset) => offset + 4 <= _bytes.Length ? BinaryPrimitives.ReadUInt32LittleEndian(_bytes[offset..]) : 0;

    public ulong UInt64(int offset) => offset + 8 <= _bytes.Length ? BinaryPrimitives.ReadUInt64LittleEndian(_bytes[offset..]) : 0;

    /// <summary>The bytes from <paramref name="offset"/> on.</summary>
    public ReadOnlySpan<byte> From(int offset) => offset <= _bytes.Length ? _bytes[offset..] : [];

    /// <summary>Text that a zero byte ends, with it.</summary>
    /// <returns>0 or a negated error number.</returns>
    public int Text(int offset, int longest, out ReadOnlySpan<byte> text)
    {
        ReadOnlySpan<byte> rest = From(offset);
        int end = rest.IndexOf((byte)0);
        text = end < 0 ? [] : rest[..(end + 1)];
        return end < 0 ? -ErrorNumber.Invalid : end > longest ? -ErrorNumber.NameTooLong : 0;
    }

    /// <summary>The name of a folder entry: one name, not the folder itself or the one above it. With the zero byte that ends it.</summary>
    /// <returns>0 or a negated error number.</returns>
    public int Name(int offset, out ReadOnlySpan<byte> name)
    {
        int result = Text(offset, FuseProtocol.MaximumName, out name);
        if (result < 0)
        {
            return result;
        }
        ReadOnlySpan<byte> bare = name[..^1];
        return bare.IsEmpty || bare.Contains((byte)'/') || bare.SequenceEqual("."u8) || bare.SequenceEqual(".."u8) ? -ErrorNumber.Invalid : 0;
    }
}
