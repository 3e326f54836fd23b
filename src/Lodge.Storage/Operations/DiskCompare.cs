using Lodge.Storage.Disks;

namespace Lodge.Storage.Operations;

/// <summary>The verdict of a comparison.</summary>
public enum DiskDifference
{
    /// <summary>The same content.</summary>
    None,

    /// <summary>A byte differs.</summary>
    Content,

    /// <summary>The sizes differ (strict only; else what one has more must be zero).</summary>
    Size,

    /// <summary>What is allocated differs (strict only).</summary>
    Status,
}

/// <summary>What a comparison found.</summary>
/// <param name="Difference">The verdict.</param>
/// <param name="Offset">The first place, in bytes, of a difference of content or status: of the unit of 512 bytes with the differing byte.</param>
/// <param name="SizesDiffer">Whether the sizes differ, in either mode.</param>
public sealed record DiskComparison(DiskDifference Difference, long Offset, bool SizesDiffer);

/// <summary>Compares the content of two disks; ranges that both know to be zero are not read.</summary>
public sealed class DiskCompare(IDisk first, IDisk second, bool strict = false, int parallel = 8)
{
    private const int PieceLength = 1 << 20;
    private const int Sector = 512;
    private readonly SemaphoreSlim _cursor = new(1, 1);
    private readonly long _length = Math.Max(first.Length, second.Length);
    private readonly Lock _gate = new();
    private long _offset;
    private DiskComparison? _found;
    private Fraction? _fraction;

    /// <summary>Compares.</summary>
    /// <exception cref="DiskException">A disk could not be read.</exception>
    public async Task<DiskComparison> RunAsync(IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        var sizesDiffer = first.Length != second.Length;
        if (strict && sizesDiffer)
        {
            return new DiskComparison(DiskDifference.Size, Math.Min(first.Length, second.Length), true);
        }

        _fraction = new Fraction(progress, _length);
        await Workers.RunAsync(Math.Clamp(parallel, 1, 64), WorkAsync, cancellation).ConfigureAwait(false);
        return _found ?? new DiskComparison(DiskDifference.None, 0, sizesDiffer);
    }

    private static bool IsZero(BlockExtent extent) => (extent.State & BlockState.Zero) != 0 || (extent.State & BlockState.Data) == 0;

    private static ValueTask<BlockExtent> StatusAsync(IDisk disk, long offset, long length, CancellationToken cancellation) => offset >= disk.Length
        ? ValueTask.FromResult(new BlockExtent(length, BlockState.None))
        : disk.StatusAsync(offset, Math.Min(length, disk.Length - offset), cancellation);

    private async Task WorkAsync(CancellationToken cancellation)
    {
        var one = AlignedMemory.Allocate(PieceLength);
        var other = AlignedMemory.Allocate(PieceLength);
        while (await ClaimAsync(cancellation).ConfigureAwait(false) is { Length: > 0 } piece)
        {
            if (!piece.FirstZero || !piece.SecondZero)
            {
                var length = (int)piece.Length;
                if (!piece.FirstZero)
                {
                    await first.ReadAsync(piece.Offset, one[..length], cancellation).ConfigureAwait(false);
                }

                if (!piece.SecondZero)
                {
                    await second.ReadAsync(piece.Offset, other[..length], cancellation).ConfigureAwait(false);
                }

                var same = piece.FirstZero ? Zeroes(other.Span[..length]) : piece.SecondZero ? Zeroes(one.Span[..length]) : one.Span[..length].CommonPrefixLength(other.Span[..length]);
                if (same < length)
                {
                    Report(DiskDifference.Content, (piece.Offset + same) / Sector * Sector);
                    return;
                }
            }

            _fraction!.Add(piece.Length);
        }
    }

    private static int Zeroes(ReadOnlySpan<byte> bytes) => bytes.IndexOfAnyExcept((byte)0) is >= 0 and var index ? index : bytes.Length;

    /// <summary>The next range; none after a difference was found, because what is claimed already lies before all that is left.</summary>
    private async ValueTask<Piece> ClaimAsync(CancellationToken cancellation)
    {
        await _cursor.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            cancellation.ThrowIfCancellationRequested();
            var left = _length - _offset;
            if (left == 0 || Volatile.Read(ref _found) is not null)
            {
                return default;
            }

            var one = await StatusAsync(first, _offset, left, cancellation).ConfigureAwait(false);
            var other = await StatusAsync(second, _offset, left, cancellation).ConfigureAwait(false);
            const BlockState compared = BlockState.Data | BlockState.Zero;
            if (strict && (one.State & compared) != (other.State & compared))
            {
                Report(DiskDifference.Status, _offset);
                return default;
            }

            var (zeroOne, zeroOther) = (IsZero(one), IsZero(other));
            var length = Math.Min(one.Length, other.Length);
            if (!zeroOne || !zeroOther)
            {
                length = Math.Min(length, PieceLength);
            }

            var piece = new Piece(_offset, length, zeroOne, zeroOther);
            _offset += length;
            return piece;
        }
        finally
        {
            _cursor.Release();
        }
    }

    private void Report(DiskDifference difference, long offset)
    {
        lock (_gate)
        {
            if (_found is null || offset < _found.Offset)
            {
                Volatile.Write(ref _found, new DiskComparison(difference, offset, first.Length != second.Length));
            }
        }
    }

    private readonly record struct Piece(long Offset, long Length, bool FirstZero, bool SecondZero);
}
