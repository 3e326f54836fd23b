namespace Lodge.Storage.Disks;

/// <summary>
/// Memory that a disk request transfers to or from: one piece, or several in order. Slicing allocates nothing. The memory belongs to the disk from the
/// call until its task completes.
/// </summary>
public readonly struct IoVector
{
    private readonly Memory<byte> _single;
    private readonly Memory<byte>[]? _segments;
    private readonly int _first;
    private readonly int _skip;

    /// <summary>One piece.</summary>
    public IoVector(Memory<byte> memory)
    {
        _single = memory;
        Length = memory.Length;
    }

    /// <summary>Several pieces in order; the array is not copied and must not change.</summary>
    public IoVector(Memory<byte>[] segments)
    {
        long length = 0;
        foreach (var segment in segments)
        {
            length += segment.Length;
        }

        _segments = segments;
        Length = length;
    }

    private IoVector(Memory<byte>[] segments, int first, int skip, long length)
    {
        _segments = segments;
        _first = first;
        _skip = skip;
        Length = length;
    }

    /// <summary>Bytes in all.</summary>
    public long Length { get; }

    /// <summary>One piece of memory as a vector.</summary>
    public static implicit operator IoVector(Memory<byte> memory) => new(memory);

    /// <summary>An array as a vector.</summary>
    public static implicit operator IoVector(byte[] memory) => new(memory.AsMemory());

    /// <summary>The bytes from <paramref name="offset"/>, <paramref name="length"/> of them.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is not inside.</exception>
    public IoVector Slice(long offset, long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length - offset);
        if (_segments is null)
        {
            return new IoVector(_single.Slice((int)offset, (int)length));
        }

        var first = _first;
        var skip = _skip + offset;
        while (first < _segments.Length && skip >= _segments[first].Length)
        {
            skip -= _segments[first].Length;
            first++;
        }

        return first < _segments.Length && length <= _segments[first].Length - skip
            ? new IoVector(_segments[first].Slice((int)skip, (int)length))
            : new IoVector(_segments, first, (int)skip, length);
    }

    /// <summary>The whole as one piece, where it is one.</summary>
    public bool TryGetSingle(out Memory<byte> memory)
    {
        if (_segments is null)
        {
            memory = _single;
            return true;
        }

        memory = default;
        if (Length == 0)
        {
            return true;
        }

        var slice = Slice(0, Length);
        memory = slice._single;
        return slice._segments is null;
    }

    /// <summary>The pieces in order, none of them empty.</summary>
    public Enumerator GetEnumerator() => new(this);

    /// <summary>Copies all bytes into <paramref name="destination"/>, which is at least as long.</summary>
    public void CopyTo(Span<byte> destination)
    {
        foreach (var segment in this)
        {
            segment.Span.CopyTo(destination);
            destination = destination[segment.Length..];
        }
    }

    /// <summary>Fills the vector from <paramref name="source"/>, which is at least as long.</summary>
    public void CopyFrom(ReadOnlySpan<byte> source)
    {
        foreach (var segment in this)
        {
            source[..segment.Length].CopyTo(segment.Span);
            source = source[segment.Length..];
        }
    }

    /// <summary>Makes all bytes zero.</summary>
    public void Clear()
    {
        foreach (var segment in this)
        {
            segment.Span.Clear();
        }
    }

    /// <summary>Whether all bytes are zero.</summary>
    public bool IsZero()
    {
        foreach (var segment in this)
        {
            if (segment.Span.ContainsAnyExcept((byte)0))
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Goes through the pieces of a vector.</summary>
    public struct Enumerator
    {
        private readonly IoVector _vector;
        private int _next;
        private long _left;

        internal Enumerator(IoVector vector)
        {
            _vector = vector;
            _next = vector._first;
            _left = vector.Length;
            Current = default;
        }

        /// <summary>The present piece.</summary>
        public Memory<byte> Current { get; private set; }

        /// <summary>Goes to the next piece.</summary>
        public bool MoveNext()
        {
            while (_left > 0)
            {
                var segment = _vector._segments is { } segments ? segments[_next] : _vector._single;
                if (_vector._segments is not null && _next == _vector._first)
                {
                    segment = segment[_vector._skip..];
                }

                _next++;
                if (segment.Length == 0)
                {
                    continue;
                }

                Current = segment.Length > _left ? segment[..(int)_left] : segment;
                _left -= Current.Length;
                return true;
            }

            return false;
        }
    }
}
