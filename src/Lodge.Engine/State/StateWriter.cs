using System.Buffers.Binary;

namespace Lodge.Engine.State;

/// <summary>Something that has a saved form: a versioned type of numbered fields (see <see cref="StateWriter"/>).</summary>
/// <typeparam name="TSelf">The implementing type itself.</typeparam>
public interface ISavedState<TSelf> where TSelf : ISavedState<TSelf>
{
    /// <summary>Version of the newest layout that this code writes. Fields are only ever added.</summary>
    static abstract int Version { get; }

    /// <summary>Writes every field under its number.</summary>
    void Write(StateWriter writer);

    /// <summary>Reads a saved form; missing fields take defaults, values out of range throw <see cref="SavedStateException"/>.</summary>
    static abstract TSelf Read(StateReader reader);
}

/// <summary>A saved state that cannot be restored: truncated, out of bounds or from an incompatible version.</summary>
public sealed class SavedStateException(string message) : Exception(message);

/// <summary>
/// Writes a saved state as numbered fields. The form of a field is: number (u16), kind (u8: 0 integer, 1 bytes, 2 nested),
/// then 8 bytes of value or a u32 length and that many bytes. All little endian.
/// </summary>
public sealed class StateWriter
{
    private readonly MemoryStream _stream = new();

    /// <summary>Writes an unsigned integer (also used for booleans and smaller integers).</summary>
    public void UInt64(int field, ulong value)
    {
        Span<byte> buffer = stackalloc byte[11];
        Head(buffer, field, 0);
        BinaryPrimitives.WriteUInt64LittleEndian(buffer[3..], value);
        _stream.Write(buffer);
    }

    /// <summary>Writes a boolean as 0 or 1.</summary>
    public void Bool(int field, bool value) => UInt64(field, value ? 1UL : 0UL);

    /// <summary>Writes a signed integer.</summary>
    public void Int64(int field, long value) => UInt64(field, unchecked((ulong)value));

    /// <summary>Writes raw bytes.</summary>
    public void Bytes(int field, ReadOnlySpan<byte> value) => Block(field, 1, value);

    /// <summary>Writes a UTF-8 string.</summary>
    public void Text(int field, string value) => Bytes(field, System.Text.Encoding.UTF8.GetBytes(value));

    /// <summary>Writes an array of unsigned integers.</summary>
    public void UInt64Array(int field, ReadOnlySpan<ulong> values)
    {
        byte[] bytes = new byte[checked(values.Length * 8)];
        for (int i = 0; i < values.Length; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(i * 8), values[i]);
        }
        Block(field, 1, bytes);
    }

    /// <summary>Writes another saved state inside this one. May be repeated under one number to form a list.</summary>
    public void Nested<T>(int field, T state) where T : ISavedState<T>
    {
        var inner = new StateWriter();
        inner.UInt64(0, (ulong)T.Version);
        state.Write(inner);
        Block(field, 2, inner.ToArray());
    }

    /// <summary>The bytes written so far.</summary>
    public byte[] ToArray() => _stream.ToArray();

    private void Block(int field, byte kind, ReadOnlySpan<byte> value)
    {
        Span<byte> buffer = stackalloc byte[7];
        Head(buffer, field, kind);
        BinaryPrimitives.WriteInt32LittleEndian(buffer[3..], value.Length);
        _stream.Write(buffer);
        _stream.Write(value);
    }

    private static void Head(Span<byte> buffer, int field, byte kind)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(buffer, checked((ushort)field));
        buffer[2] = kind;
    }
}
