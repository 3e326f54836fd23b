using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Tests.Harness;

/// <summary>An image in memory that may have a parent and keeps 4 KiB units of its own, copied from the parent when they are written in part.</summary>
public sealed class LayerImage(long length, IDisk? backing = null) : IBackedImage, IWriteZeroes, IResize
{
    private const int Unit = 4096;
    private readonly Lock _gate = new();
    private readonly SortedDictionary<long, byte[]> _own = [];
    private long _length = length;

    public string FormatName => "layer";

    public IStorageFile File { get; } = new MemoryFile();

    public long Length => _length;

    public int RequestAlignment => 1;

    public bool IsReadOnly { get; init; }

    public IDisk? Backing { get; private set; } = backing;

    public string? BackingName { get; private set; }

    /// <summary>Units that it holds.</summary>
    public int OwnUnits
    {
        get
        {
            lock (_gate)
            {
                return _own.Count;
            }
        }
    }

    /// <summary>After so many more writes, all fail; negative means never.</summary>
    public int FailAfter { get; set; } = -1;

    public ImageInformation Describe() => new() { VirtualSize = Length, ClusterSize = Unit, BackingName = BackingName };

    /// <summary>The same image opened with another parent, or none.</summary>
    public LayerImage Over(IDisk? parent)
    {
        var copy = new LayerImage(_length, parent);
        foreach (var (unit, bytes) in _own)
        {
            copy._own[unit] = bytes.ToArray();
        }

        return copy;
    }

    public async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        for (long done = 0; done < destination.Length;)
        {
            var (unit, skip) = Math.DivRem(offset + done, Unit);
            var part = Math.Min(Unit - skip, destination.Length - done);
            var bytes = await UnitAsync(unit);
            destination.Slice(done, part).CopyFrom(bytes.AsSpan((int)skip, (int)part));
            done += part;
        }
    }

    public async ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        if (FailAfter == 0)
        {
            throw new DiskException(DiskError.NoSpace, "full");
        }

        FailAfter -= FailAfter > 0 ? 1 : 0;
        var flat = new byte[source.Length];
        source.CopyTo(flat);
        for (long done = 0; done < flat.Length;)
        {
            var (unit, skip) = Math.DivRem(offset + done, Unit);
            var part = Math.Min(Unit - skip, flat.Length - done);
            var bytes = (await UnitAsync(unit)).ToArray();
            flat.AsSpan((int)done, (int)part).CopyTo(bytes.AsSpan((int)skip));
            lock (_gate)
            {
                _own[unit] = bytes;
            }

            done += part;
        }
    }

    public ValueTask WriteZeroesAsync(long offset, long count, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) => WriteAsync(offset, new byte[count], WriteOptions.None, cancellation);

    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    public ValueTask ResizeAsync(long size, CancellationToken cancellation = default)
    {
        _length = size;
        return ValueTask.CompletedTask;
    }

    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long count, CancellationToken cancellation = default)
    {
        var unit = offset / Unit;
        var run = Math.Min(((unit + 1) * Unit) - offset, count);
        lock (_gate)
        {
            if (_own.TryGetValue(unit, out var bytes))
            {
                return new BlockExtent(run, (bytes.AsSpan().ContainsAnyExcept((byte)0) ? BlockState.Data : BlockState.Zero) | BlockState.Allocated);
            }
        }

        if (Backing is null || offset >= Backing.Length)
        {
            return new BlockExtent(run, BlockState.Zero);
        }

        var below = await Backing.StatusAsync(offset, Math.Min(run, Backing.Length - offset), cancellation);
        return below with { Depth = below.Depth + 1, State = below.State & ~BlockState.Allocated };
    }

    public ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long count, CancellationToken cancellation = default)
    {
        lock (_gate)
        {
            var unit = offset / Unit;
            return ValueTask.FromResult((_own.ContainsKey(unit), Math.Min(((unit + 1) * Unit) - offset, count)));
        }
    }

    public ValueTask SetBackingAsync(string? name, string? format, CancellationToken cancellation = default)
    {
        BackingName = name;
        return ValueTask.CompletedTask;
    }

    public ValueTask MakeEmptyAsync(CancellationToken cancellation = default)
    {
        lock (_gate)
        {
            _own.Clear();
        }

        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private async ValueTask<byte[]> UnitAsync(long unit)
    {
        lock (_gate)
        {
            if (_own.TryGetValue(unit, out var bytes))
            {
                return bytes;
            }
        }

        var below = new byte[Unit];
        var inside = Backing is null ? 0 : (int)Math.Clamp(Backing.Length - (unit * Unit), 0, Unit);
        if (inside > 0)
        {
            await Backing!.ReadAsync(unit * Unit, below.AsMemory(0, inside));
        }

        return below;
    }
}
