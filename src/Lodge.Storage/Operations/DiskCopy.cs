using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Operations;

/// <summary>How the content of a disk is copied to another.</summary>
public sealed record DiskCopyOptions
{
    /// <summary>Pieces in flight at once (qemu-img's <c>-m</c>).</summary>
    public int Parallel { get; init; } = 8;

    /// <summary>Shortest run of zero bytes in data that is made a hole (<c>-S</c>); 0 writes all zeroes, so that the target is fully allocated.</summary>
    public long ZeroRun { get; init; } = 4096;

    /// <summary>Whether the target reads as zeroes where nothing is written: a new image, or the user says so (<c>--target-is-zero</c>).</summary>
    public bool TargetIsZero { get; init; }

    /// <summary>Whether the target's units are stored compressed (<c>-c</c>).</summary>
    public bool Compress { get; init; }

    /// <summary>Whether only what the source's top layer holds is copied (<c>-B</c>: the target's parent has the same content as the source's).</summary>
    public bool OnlyTopLayer { get; init; }

    /// <summary>Most bytes of the source's data a second, or 0 (<c>-r</c>).</summary>
    public long BytesPerSecond { get; init; }

    /// <summary>Told the fraction that is done.</summary>
    public IProgress<double>? Progress { get; init; }
}

/// <summary>
/// Copies a disk's content: asks what is where, leaves holes out, finds zeroes in data, and keeps several pieces in flight. Compression runs on all cores,
/// also for a target that takes its units only in order.
/// </summary>
public sealed class DiskCopy
{
    private const int PieceLength = 1 << 20;
    private const int CachedLength = 256 * 1024;
    private const int LargestGranularity = 4 << 20;
    private const int SmallestGranularity = 4096;
    private const long LongestZero = 1L << 30;

    private readonly IDisk _source;
    private readonly IDisk _target;
    private readonly DiskCopyOptions _options;
    private readonly ICompressedWrite? _compressed;
    private readonly ISplitCompression? _split;
    private readonly int _granularity;
    private readonly int _pieceLength;
    private readonly int _transferLength;
    private readonly int _writeLength;
    private readonly RateLimit? _rate;
    private readonly Fraction _fraction;
    private readonly SemaphoreSlim _cursor = new(1, 1);
    private long _offset;
    private long _extentEnd;
    private Content _extentContent;
    private Task _lastTurn = Task.CompletedTask;

    /// <summary>Prepares a copy of all of <paramref name="source"/> to the same offsets of <paramref name="target"/>.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.OutOfRange"/>: the target is shorter; <see cref="DiskError.Unsupported"/>: it cannot be written compressed.</exception>
    public DiskCopy(IDisk source, IDisk target, DiskCopyOptions options)
    {
        if (target.Length < source.Length)
        {
            throw new DiskException(DiskError.OutOfRange, $"the target of {target.Length} bytes is shorter than the source of {source.Length} bytes");
        }

        var information = (target as IImage)?.Describe();
        _source = source;
        _target = target;
        _options = options;
        _compressed = target as ICompressedWrite;
        if (options.Compress && _compressed is null)
        {
            throw new DiskException(DiskError.Unsupported, "the target's format has no compression; leave out -c");
        }

        // A stream that stores compressed anyway (VMDK streamOptimized) is only writable so.
        if (!options.Compress && !(information is { Compressed: true } && _compressed is { InOrder: true }))
        {
            _compressed = null;
        }

        _split = _compressed as ISplitCompression;
        // A part of a block that was written does not cost a copy of the rest, unlike a part of a qcow2 cluster.
        var unit = _compressed?.CompressionUnit ?? (target is BlockImage ? null : information?.ClusterSize) ?? SmallestGranularity;
        _granularity = _compressed is not null ? unit : unit is < SmallestGranularity or > LargestGranularity ? SmallestGranularity : unit;
        _pieceLength = Math.Max(PieceLength / _granularity, 1) * _granularity;

        // Between files in the host's page cache, short transfers run on one thread and find their buffer in the processor's cache; all others are better off long.
        var cached = IsCached(target) && _compressed is null;
        _writeLength = cached ? Math.Max(CachedLength / _granularity, 1) * _granularity : _pieceLength;
        _transferLength = cached && IsCached(source) ? _writeLength : _pieceLength;
        _rate = options.BytesPerSecond > 0 ? new RateLimit(options.BytesPerSecond) : null;
        _fraction = new Fraction(options.Progress, source.Length);
    }

    private enum Content
    {
        Data,
        Zero,
        Parent,
    }

    private bool KeepZeroes => _options.ZeroRun == 0 && _compressed is null;

    /// <summary>Copies; the target is not flushed.</summary>
    public Task RunAsync(CancellationToken cancellation = default)
    {
        var count = Math.Clamp(_compressed is null ? _options.Parallel : Math.Max(_options.Parallel, Environment.ProcessorCount + 1), 1, 64);
        return Workers.RunAsync(count, WorkAsync, cancellation);
    }

    private async Task WorkAsync(CancellationToken cancellation)
    {
        var buffer = AlignedMemory.Allocate(_transferLength);
        var packed = _split is null ? Memory<byte>.Empty : new byte[_pieceLength / _granularity * _split.CompressedCapacity];
        while (await ClaimAsync(cancellation).ConfigureAwait(false) is { Length: > 0 } piece)
        {
            var memory = buffer[..(int)Math.Min(piece.Length, buffer.Length)];
            if (piece.Content == Content.Zero)
            {
                await WriteZeroesAsync(piece.Offset, piece.Length, buffer, cancellation).ConfigureAwait(false);
            }
            else if (piece.Content == Content.Data)
            {
                if (_rate is not null)
                {
                    await _rate.WaitAsync(piece.Length, cancellation).ConfigureAwait(false);
                }

                if (_compressed is null)
                {
                    await CopyDataAsync(piece, buffer, cancellation).ConfigureAwait(false);
                }
                else
                {
                    await _source.ReadAsync(piece.Offset, memory, cancellation).ConfigureAwait(false);
                    await WriteUnitsAsync(piece, memory, packed, cancellation).ConfigureAwait(false);
                }
            }

            _fraction.Add(piece.Length);
        }
    }

    /// <summary>The next piece, on the target's granularity so that no two pieces meet in one of its units; of length 0 at the end.</summary>
    private async ValueTask<Piece> ClaimAsync(CancellationToken cancellation)
    {
        await _cursor.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            cancellation.ThrowIfCancellationRequested();
            var left = _source.Length - _offset;
            if (left == 0)
            {
                return default;
            }

            if (_offset >= _extentEnd)
            {
                await NextExtentAsync(cancellation).ConfigureAwait(false);
            }

            var length = Math.Min(_extentEnd - _offset, left);
            var content = _extentContent;
            if (content == Content.Data || KeepZeroes)
            {
                length = Math.Min(length, _pieceLength);
            }

            var piece = new Piece(_offset, length, content, null, null);
            _offset += length;
            if (_compressed is { InOrder: true } && content == Content.Data)
            {
                var done = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                piece = piece with { Before = _lastTurn, Done = done };
                _lastTurn = done.Task;
            }

            return piece;
        }
        finally
        {
            _cursor.Release();
        }
    }

    /// <summary>Finds what is at the cursor: a run of holes rounded down to whole units, or data rounded up.</summary>
    private async ValueTask NextExtentAsync(CancellationToken cancellation)
    {
        var end = _offset;
        Content? content = null;
        while (end < _source.Length && end - _offset < LongestZero)
        {
            var extent = await _source.StatusAsync(end, Math.Min(_source.Length - end, LongestZero), cancellation).ConfigureAwait(false);
            var found = Classify(extent);
            if (extent.Length <= 0)
            {
                throw new DiskException(DiskError.InputOutput, $"the source does not know what is at {end}");
            }

            // Of data, one extent is enough: what is copied first is then known first.
            if (content is not null && found != content)
            {
                break;
            }

            content = found;
            end += extent.Length;
            if (found == Content.Data)
            {
                break;
            }
        }

        var holes = end == _source.Length ? end : end / _granularity * _granularity;
        if (content == Content.Data || holes <= _offset)
        {
            content = Content.Data;
            holes = Math.Min((end + _granularity - 1) / _granularity * _granularity, _source.Length);
        }

        _extentEnd = holes;
        _extentContent = content!.Value;
    }

    private Content Classify(BlockExtent extent)
    {
        if (_options.OnlyTopLayer && (extent.Depth > 0 || (extent.State & BlockState.Allocated) == 0))
        {
            return Content.Parent;
        }

        return (extent.State & BlockState.Zero) != 0 || (extent.State & BlockState.Data) == 0 ? Content.Zero : Content.Data;
    }

    private static bool IsCached(IDisk disk) => disk switch
    {
        IBackedImage { Backing: { } parent } when !IsCached(parent) => false,
        IImage image => image.File is HostFile { RequestAlignment: 1 },
        JoinedDisk joined => joined.Disks.All(IsCached),
        DiskRange range => IsCached(range.Disk),
        _ => disk is ZeroDisk,
    };

    private async ValueTask CopyDataAsync(Piece piece, Memory<byte> buffer, CancellationToken cancellation)
    {
        for (long done = 0; done < piece.Length;)
        {
            var memory = buffer[..(int)Math.Min(piece.Length - done, buffer.Length)];
            await _source.ReadAsync(piece.Offset + done, memory, cancellation).ConfigureAwait(false);
            await WriteDataAsync(piece.Offset + done, memory, cancellation).ConfigureAwait(false);
            done += memory.Length;
        }
    }

    private async ValueTask WriteZeroesAsync(long offset, long length, Memory<byte> buffer, CancellationToken cancellation)
    {
        if (KeepZeroes)
        {
            buffer.Span.Clear();
            for (long done = 0; done < length;)
            {
                var memory = buffer[..(int)Math.Min(length - done, buffer.Length)];
                await _target.WriteAsync(offset + done, memory, WriteOptions.None, cancellation).ConfigureAwait(false);
                done += memory.Length;
            }
        }
        else if (!_options.TargetIsZero)
        {
            await _target.ZeroAsync(offset, length, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Writes a piece, its runs of zeroes as holes.</summary>
    private async ValueTask WriteDataAsync(long offset, Memory<byte> memory, CancellationToken cancellation)
    {
        var start = 0;
        while (start < memory.Length)
        {
            var (length, zero) = _options.ZeroRun == 0 ? (memory.Length, false) : NextRun(memory.Span[start..]);
            var run = memory.Slice(start, length);
            if (!zero)
            {
                for (var done = 0; done < length; done += _writeLength)
                {
                    await _target.WriteAsync(offset + start + done, run[done..Math.Min(done + _writeLength, length)], WriteOptions.None, cancellation).ConfigureAwait(false);
                }
            }
            else if (!_options.TargetIsZero)
            {
                await _target.ZeroAsync(offset + start, length, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
            }

            start += length;
        }
    }

    private (int Length, bool Zero) NextRun(ReadOnlySpan<byte> bytes)
    {
        var zeroes = ZeroUnits(bytes);
        if (zeroes >= _options.ZeroRun || zeroes == bytes.Length)
        {
            return (zeroes, true);
        }

        var end = zeroes;
        while (end < bytes.Length)
        {
            zeroes = ZeroUnits(bytes[end..]);
            if (zeroes > 0 && (zeroes >= _options.ZeroRun || end + zeroes == bytes.Length))
            {
                break;
            }

            end = Math.Min(end + zeroes + (zeroes == 0 ? _granularity : 0), bytes.Length);
        }

        return (end, false);
    }

    /// <summary>Bytes of whole zero units at the beginning.</summary>
    private int ZeroUnits(ReadOnlySpan<byte> bytes)
    {
        var first = bytes.IndexOfAnyExcept((byte)0);
        return first < 0 ? bytes.Length : first / _granularity * _granularity;
    }

    private async ValueTask WriteUnitsAsync(Piece piece, Memory<byte> memory, Memory<byte> packed, CancellationToken cancellation)
    {
        var units = (memory.Length + _granularity - 1) / _granularity;
        var sizes = _split is null ? [] : new int[units];
        for (var unit = 0; unit < sizes.Length; unit++)
        {
            var bytes = Unit(memory, unit).Span;
            sizes[unit] = bytes.ContainsAnyExcept((byte)0) ? _split!.Compress(bytes, packed.Span.Slice(unit * _split.CompressedCapacity, _split.CompressedCapacity)) : -1;
        }

        if (piece.Before is not null)
        {
            await piece.Before.WaitAsync(cancellation).ConfigureAwait(false);
        }

        for (var unit = 0; unit < units; unit++)
        {
            var bytes = Unit(memory, unit);
            var offset = piece.Offset + ((long)unit * _granularity);
            if (_split is null ? !bytes.Span.ContainsAnyExcept((byte)0) : sizes[unit] < 0)
            {
                await WriteZeroesAsync(offset, bytes.Length, bytes, cancellation).ConfigureAwait(false);
            }
            else if (_split is null)
            {
                await _compressed!.WriteCompressedAsync(offset, bytes, cancellation).ConfigureAwait(false);
            }
            else
            {
                await _split.StoreCompressedAsync(offset, bytes, packed.Slice(unit * _split.CompressedCapacity, sizes[unit]), cancellation).ConfigureAwait(false);
            }
        }

        piece.Done?.SetResult();
    }

    private Memory<byte> Unit(Memory<byte> memory, int unit) => memory.Slice(unit * _granularity, Math.Min(_granularity, memory.Length - (unit * _granularity)));

    /// <summary>What a worker does next; in an ordered target, <paramref name="Before"/> is waited for and <paramref name="Done"/> set.</summary>
    private readonly record struct Piece(long Offset, long Length, Content Content, Task? Before, TaskCompletionSource? Done);
}
