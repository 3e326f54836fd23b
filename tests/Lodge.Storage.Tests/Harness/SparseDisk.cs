using Lodge.Storage.Disks;

namespace Lodge.Storage.Tests.Harness;

/// <summary>A disk in memory that knows which granules were written and counts what is done to it.</summary>
public class SparseDisk(long length) : IDisk, IBlockStatus, IWriteZeroes
{
    public const int Granule = 4096;

    private readonly Lock _gate = new();
    private readonly bool[] _written = new bool[(length + Granule - 1) / Granule];

    public byte[] Content { get; } = new byte[length];

    public long Length => length;

    public int RequestAlignment => 1;

    public bool IsReadOnly => false;

    public long BytesRead { get; private set; }

    public long BytesWritten { get; private set; }

    public long BytesZeroed { get; private set; }

    public int Flushes { get; private set; }

    /// <summary>Called at each read.</summary>
    public Action? BeforeRead { get; set; }

    /// <summary>Called at each write.</summary>
    public Action? BeforeWrite { get; set; }

    /// <summary>A disk with data, zeroes as data, and holes of all lengths.</summary>
    public static SparseDisk Random(Random random, int length)
    {
        var disk = new SparseDisk(length);
        for (var at = 0; at < length;)
        {
            var run = Math.Min(random.Next(3) == 0 ? random.Next(1, 2_000_000) : random.Next(1, 20_000), length - at);
            if (random.Next(3) != 0)
            {
                var bytes = new byte[run];
                if (random.Next(3) != 0)
                {
                    random.NextBytes(bytes);
                }

                disk.WriteAsync(at, bytes).AsTask().Wait();
            }

            at += run;
        }

        disk.Forget();
        return disk;
    }

    /// <summary>The same content, perhaps with zeroes behind it.</summary>
    public SparseDisk Copy(long? size = null)
    {
        var copy = new SparseDisk(size ?? length);
        Content.CopyTo(copy.Content, 0);
        _written.CopyTo(copy._written, 0);
        return copy;
    }

    /// <summary>Sets all counts to zero.</summary>
    public void Forget() => (BytesRead, BytesWritten, BytesZeroed, Flushes) = (0, 0, 0, 0);

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        BeforeRead?.Invoke();
        lock (_gate)
        {
            BytesRead += destination.Length;
            destination.CopyFrom(Content.AsSpan((int)offset, (int)destination.Length));
        }

        return ValueTask.CompletedTask;
    }

    public async ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, source.Length);
        BeforeWrite?.Invoke();
        await Task.Yield();
        lock (_gate)
        {
            BytesWritten += source.Length;
            source.CopyTo(Content.AsSpan((int)offset));
            Mark(offset, source.Length, true);
        }
    }

    public ValueTask WriteZeroesAsync(long offset, long count, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, count);
        lock (_gate)
        {
            BytesZeroed += count;
            Content.AsSpan((int)offset, (int)count).Clear();
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask<BlockExtent> GetStatusAsync(long offset, long count, CancellationToken cancellation = default)
    {
        lock (_gate)
        {
            var first = (int)(offset / Granule);
            var end = first;
            while (end < _written.Length && _written[end] == _written[first])
            {
                end++;
            }

            var run = Math.Min(Math.Min((long)end * Granule, length) - offset, count);
            return ValueTask.FromResult(_written[first]
                ? new BlockExtent(run, BlockState.Data | BlockState.Allocated, 0, offset)
                : new BlockExtent(run, BlockState.Zero));
        }
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        lock (_gate)
        {
            Flushes++;
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private void Mark(long offset, long count, bool value)
    {
        if (count > 0)
        {
            _written.AsSpan((int)(offset / Granule)..(int)((offset + count + Granule - 1) / Granule)).Fill(value);
        }
    }
}

/// <summary>A disk that takes compressed units and remembers in which order.</summary>
public class UnitStream(long length) : SparseDisk(length), ICompressedWrite
{
    private readonly Lock _gate = new();
    private int _inside;

    public int CompressionUnit => 65536;

    public bool InOrder { get; init; }

    /// <summary>The unit that fails for want of space.</summary>
    public long FailAt { get; init; } = -1;

    public List<long> Offsets { get; } = [];

    public int Units => Offsets.Count;

    /// <summary>Whether a unit came before an earlier one or at the same time as another, on a disk that wants order.</summary>
    public bool OutOfOrder { get; private set; }

    public ValueTask WriteCompressedAsync(long offset, ReadOnlyMemory<byte> unit, CancellationToken cancellation = default) => TakeAsync(offset, unit);

    protected async ValueTask TakeAsync(long offset, ReadOnlyMemory<byte> unit)
    {
        if (offset == FailAt)
        {
            throw new DiskException(DiskError.NoSpace, "full");
        }

        lock (_gate)
        {
            OutOfOrder |= InOrder && (Interlocked.Increment(ref _inside) != 1 || (Offsets.Count != 0 && Offsets[^1] >= offset));
            OutOfOrder |= offset % CompressionUnit != 0 || (unit.Length != CompressionUnit && offset + unit.Length != Length);
            Offsets.Add(offset);
        }

        await WriteAsync(offset, unit.ToArray());
        Interlocked.Decrement(ref _inside);
    }
}

/// <summary>The same with compression apart from storing; "compressed" is the unit's first byte when all are alike.</summary>
public sealed class SplitStream(long length) : UnitStream(length), ISplitCompression
{
    public int CompressedCapacity => 16;

    public int Compress(ReadOnlySpan<byte> unit, Span<byte> destination)
    {
        if (unit.ContainsAnyExcept(unit[0]))
        {
            return 0;
        }

        destination[0] = unit[0];
        return 1;
    }

    public ValueTask StoreCompressedAsync(long offset, ReadOnlyMemory<byte> unit, ReadOnlyMemory<byte> compressed, CancellationToken cancellation = default)
    {
        if (compressed.Length == 1 && compressed.Span[0] != unit.Span[0])
        {
            throw new InvalidOperationException("the compressed bytes are another unit's");
        }

        return TakeAsync(offset, unit);
    }
}
