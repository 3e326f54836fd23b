using System.Buffers.Binary;

namespace Lodge.Engine.State;

/// <summary>Reads the numbered fields that <see cref="StateWriter"/> wrote. The input is untrusted: every access is bounds-checked.</summary>
public sealed class StateReader
{
    private const int MaximumFields = 1 << 20;
    private readonly Dictionary<int, List<(byte Kind, ReadOnlyMemory<byte> Value)>> _fields = [];

    /// <summary>Parses the whole of <paramref name="data"/>.</summary>
    /// <exception cref="SavedStateException">The data is truncated or malformed.</exception>
    public StateReader(ReadOnlyMemory<byte> data)
    {
        int count = 0;
        while (!data.IsEmpty)
        {
            if (data.Length < 7 || ++count > MaximumFields)
            {
                throw new SavedStateException("saved state is truncated");
            }
            ReadOnlySpan<byte> head = data.Span;
            int field = BinaryPrimitives.ReadUInt16LittleEndian(head);
            byte kind = head[2];
            long length = kind == 0 ? 8 : BinaryPrimitives.ReadUInt32LittleEndian(head[3..]);
            int skip = kind == 0 ? 3 : 7;
            if (kind > 2 || length > data.Length - skip)
            {
                throw new SavedStateException($"saved state field {field} is malformed");
            }
            if (!_fields.TryGetValue(field, out var list))
            {
                _fields[field] = list = [];
            }
            list.Add((kind, data.Slice(skip, (int)length)));
            data = data[(skip + (int)length)..];
        }
    }

    /// <summary>Version that the writer stored with a nested state (field 0).</summary>
    public int Version => Int32(0, 1);

    /// <summary>Whether the field is present.</summary>
    public bool Has(int field) => _fields.ContainsKey(field);

    /// <summary>An unsigned integer no greater than <paramref name="maximum"/>.</summary>
    public ulong UInt64(int field, ulong defaultValue = 0, ulong maximum = ulong.MaxValue)
    {
        if (!TryGet(field, 0, out ReadOnlyMemory<byte> value))
        {
            return defaultValue;
        }
        ulong result = BinaryPrimitives.ReadUInt64LittleEndian(value.Span);
        return result <= maximum ? result : throw new SavedStateException($"saved state field {field} is {result}, above {maximum}");
    }

    /// <summary>A 32-bit unsigned integer.</summary>
    public uint UInt32(int field, uint defaultValue = 0, uint maximum = uint.MaxValue) => (uint)UInt64(field, defaultValue, maximum);

    /// <summary>A 16-bit unsigned integer.</summary>
    public ushort UInt16(int field, ushort defaultValue = 0, ushort maximum = ushort.MaxValue) => (ushort)UInt64(field, defaultValue, maximum);

    /// <summary>An 8-bit unsigned integer.</summary>
    public byte UInt8(int field, byte defaultValue = 0, byte maximum = byte.MaxValue) => (byte)UInt64(field, defaultValue, maximum);

    /// <summary>A non-negative 32-bit integer.</summary>
    public int Int32(int field, int defaultValue = 0, int maximum = int.MaxValue) => (int)UInt64(field, (ulong)defaultValue, (ulong)maximum);

    /// <summary>A signed 64-bit integer.</summary>
    public long Int64(int field, long defaultValue = 0) => unchecked((long)UInt64(field, unchecked((ulong)defaultValue)));

    /// <summary>A boolean.</summary>
    public bool Bool(int field, bool defaultValue = false) => UInt64(field, defaultValue ? 1UL : 0UL, 1) != 0;

    /// <summary>Bytes, at most <paramref name="maximumLength"/>; empty when missing.</summary>
    public byte[] Bytes(int field, int maximumLength)
    {
        if (!TryGet(field, 1, out ReadOnlyMemory<byte> value))
        {
            return [];
        }
        return value.Length <= maximumLength ? value.ToArray() : throw new SavedStateException($"saved state field {field} has {value.Length} bytes, above {maximumLength}");
    }

    /// <summary>A UTF-8 string of at most <paramref name="maximumLength"/> bytes.</summary>
    public string Text(int field, int maximumLength) => System.Text.Encoding.UTF8.GetString(Bytes(field, maximumLength));

    /// <summary>An array of unsigned integers that must have exactly <paramref name="count"/> elements when present; zeros when missing.</summary>
    public ulong[] UInt64Array(int field, int count)
    {
        ulong[] result = new ulong[count];
        if (!TryGet(field, 1, out ReadOnlyMemory<byte> value))
        {
            return result;
        }
        if (value.Length != count * 8)
        {
            throw new SavedStateException($"saved state field {field} has {value.Length / 8} values, expected {count}");
        }
        for (int i = 0; i < count; i++)
        {
            result[i] = BinaryPrimitives.ReadUInt64LittleEndian(value.Span[(i * 8)..]);
        }
        return result;
    }

    /// <summary>A nested state, or <paramref name="defaultValue"/> when missing.</summary>
    public T Nested<T>(int field, T defaultValue) where T : ISavedState<T> =>
        TryGet(field, 2, out ReadOnlyMemory<byte> value) ? ReadNested<T>(value) : defaultValue;

    /// <summary>All nested states under one number, at most <paramref name="maximumCount"/>.</summary>
    public IReadOnlyList<T> NestedList<T>(int field, int maximumCount) where T : ISavedState<T>
    {
        var result = new List<T>();
        if (_fields.TryGetValue(field, out var list))
        {
            if (list.Count > maximumCount)
            {
                throw new SavedStateException($"saved state field {field} has {list.Count} entries, above {maximumCount}");
            }
            foreach ((byte kind, ReadOnlyMemory<byte> value) in list)
            {
                if (kind != 2)
                {
                    throw new SavedStateException($"saved state field {field} is not a nested state");
                }
                result.Add(ReadNested<T>(value));
            }
        }
        return result;
    }

    private static T ReadNested<T>(ReadOnlyMemory<byte> value) where T : ISavedState<T>
    {
        var reader = new StateReader(value);
        return reader.Version <= T.Version
            ? T.Read(reader)
            : throw new SavedStateException($"{typeof(T).Name} has version {reader.Version}; this Lodge knows versions up to {T.Version}");
    }

    private bool TryGet(int field, byte kind, out ReadOnlyMemory<byte> value)
    {
        value = default;
        if (!_fields.TryGetValue(field, out var list))
        {
            return false;
        }
        (byte actual, value) = list[^1];
        return actual == kind ? true : throw new SavedStateException($"saved state field {field} has the wrong kind");
    }
}
