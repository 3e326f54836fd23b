using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Tests.Harness;

/// <summary>
/// A file in memory that remembers each change since the last flush, so that a test can cut the power: <see cref="AfterPowerCut"/> gives what a medium might
/// hold that kept some of the unflushed changes, in any choice, and tore one.
/// </summary>
public sealed class MemoryFile(string name = "memory") : IStorageFile
{
    private readonly Lock _gate = new();
    private readonly List<Change> _unflushed = [];
    private byte[] _bytes = [];
    private byte[] _durable = [];
    private int _length;
    private int _durableLength;

    public string Name => name;

    public long Length
    {
        get
        {
            lock (_gate)
            {
                return _length;
            }
        }
    }

    public int RequestAlignment => 1;

    public bool IsReadOnly { get; init; }

    public long AllocatedLength => Length;

    public int DiscardGranularity => 1;

    /// <summary>Changes so far; a test compares it to see that an operation wrote nothing.</summary>
    public int Writes { get; private set; }

    /// <summary>After so many more changes, all further ones fail with NoSpace; negative means never.</summary>
    public int FailAfter { get; set; } = -1;

    /// <summary>The present content.</summary>
    public byte[] Content
    {
        get
        {
            lock (_gate)
            {
                return _bytes.AsSpan(0, _length).ToArray();
            }
        }

        set
        {
            _bytes = value.ToArray();
            _durable = value.ToArray();
            _length = _durableLength = value.Length;
            _unflushed.Clear();
        }
    }

    /// <summary>What a medium may hold after the power went now.</summary>
    public MemoryFile AfterPowerCut(Random random)
    {
        lock (_gate)
        {
            var image = new MemoryFile(name) { _bytes = _durable.ToArray(), _length = _durableLength };
            foreach (var change in _unflushed)
            {
                switch (random.Next(4))
                {
                    case 0:
                        break;
                    case 1 when change.Bytes is { Length: > 512 } bytes:
                        image.Apply(change with { Bytes = bytes[..(random.Next(1, bytes.Length / 512) * 512)] });
                        break;
                    default:
                        image.Apply(change);
                        break;
                }
            }

            image._durable = image._bytes.ToArray();
            image._durableLength = image._length;
            return image;
        }
    }

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        lock (_gate)
        {
            destination.CopyFrom(_bytes.AsSpan((int)offset, (int)destination.Length));
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        var bytes = new byte[source.Length];
        source.CopyTo(bytes);
        Change(new Change(offset, bytes, 0));
        return (options & WriteOptions.ForceUnitAccess) != 0 ? FlushAsync(cancellation) : ValueTask.CompletedTask;
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        lock (_gate)
        {
            if (_unflushed.Count != 0)
            {
                _durable = _bytes.AsSpan(0, _length).ToArray();
                _durableLength = _length;
                _unflushed.Clear();
            }
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        Change(new Change(0, null, length));
        return ValueTask.CompletedTask;
    }

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) =>
        WriteAsync(offset, new byte[length], WriteOptions.None, cancellation);

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) =>
        offset >= Length ? ValueTask.CompletedTask : WriteAsync(offset, new byte[Math.Min(length, Length - offset)], WriteOptions.None, cancellation);

    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default) =>
        ValueTask.FromResult(new BlockExtent(length, BlockState.Data | BlockState.Allocated, 0, offset));

    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) =>
        Length >= offset + length ? ValueTask.CompletedTask : ResizeAsync(offset + length, cancellation);

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private void Change(Change change)
    {
        if (IsReadOnly)
        {
            throw new DiskException(DiskError.ReadOnly, $"{name} is read-only");
        }

        lock (_gate)
        {
            if (FailAfter == 0)
            {
                throw new DiskException(DiskError.NoSpace, $"{name}: no space left");
            }

            FailAfter -= FailAfter > 0 ? 1 : 0;
            Writes++;
            _unflushed.Add(change);
            Apply(change);
        }
    }

    private void Apply(Change change)
    {
        var end = change.Bytes is null ? change.Length : change.Offset + change.Bytes.Length;
        if (end > 1 << 30)
        {
            throw new DiskException(DiskError.NoSpace, $"{name}: {end} bytes are too many for a file in memory");
        }

        if (_bytes.Length < end)
        {
            Array.Resize(ref _bytes, (int)Math.Max(end, Math.Min(2L * _bytes.Length, 1 << 30)));
        }

        if (change.Bytes is null)
        {
            if (end < _length)
            {
                _bytes.AsSpan((int)end, _length - (int)end).Clear();
            }

            _length = (int)end;
        }
        else
        {
            change.Bytes.CopyTo(_bytes, change.Offset);
            _length = Math.Max(_length, (int)end);
        }
    }
}

/// <summary>A write, or with no bytes a change of length.</summary>
internal sealed record Change(long Offset, byte[]? Bytes, long Length);
