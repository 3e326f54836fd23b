using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>A part of a VMDK disk with a file of its own; offsets are in bytes from its beginning and lie inside.</summary>
internal abstract class VmdkExtent : IAsyncDisposable
{
    /// <summary>Where it begins in the disk, in bytes.</summary>
    public long Start { get; init; }

    /// <summary>Bytes of the disk that it holds.</summary>
    public required long Length { get; init; }

    /// <summary>What the descriptor says of it; empty in an image of one file.</summary>
    public string Type { get; init; } = "";

    /// <summary>Its name in messages and in <c>info</c>.</summary>
    public string Name { get; init; } = "";

    /// <summary>Whether it may be written.</summary>
    public bool Writable { get; init; } = true;

    /// <summary>Its file if it has one of its own, which it then owns.</summary>
    public IStorageFile? Part { get; init; }

    /// <summary>Bytes in a grain, or null.</summary>
    public virtual int? GrainLength => null;

    public virtual bool IsCompressed => false;

    public virtual bool HasMetadata => false;

    public abstract ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation);

    public abstract ValueTask WriteAsync(long offset, IoVector source, CancellationToken cancellation);

    public abstract ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation);

    public abstract ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation);

    public abstract ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation);

    public abstract ValueTask FlushAsync(CancellationToken cancellation);

    /// <summary>Whether the extent itself holds a range, and for how long that is so.</summary>
    public virtual ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation) => ValueTask.FromResult((true, length));

    /// <summary>Forgets all that it holds.</summary>
    public virtual ValueTask MakeEmptyAsync(CancellationToken cancellation) =>
        throw new DiskException(DiskError.Unsupported, $"{Name}: an extent of this type has no parent that could show through");

    public virtual ValueTask CheckAsync(VmdkCheck check, CheckRepair repair, CancellationToken cancellation) => ValueTask.CompletedTask;

    /// <summary>Writes what is pending and closes the file.</summary>
    public virtual ValueTask DisposeAsync() => Part?.DisposeAsync() ?? ValueTask.CompletedTask;
}

/// <summary>An extent whose bytes stand in a file as they are.</summary>
internal sealed class FlatExtent(IStorageFile file, long place) : VmdkExtent
{
    public override ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation) => file.ReadAsync(place + offset, destination, cancellation);

    public override ValueTask WriteAsync(long offset, IoVector source, CancellationToken cancellation) => file.WriteAsync(place + offset, source, WriteOptions.None, cancellation);

    public override ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation) =>
        file.WriteZeroesAsync(place + offset, length, options, cancellation);

    public override ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation) => file.WriteZeroesAsync(place + offset, length, ZeroOptions.MayUnmap, cancellation);

    public override async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation)
    {
        var status = await file.GetStatusAsync(place + offset, length, cancellation).ConfigureAwait(false);
        return status with { State = status.State | BlockState.Allocated };
    }

    public override ValueTask FlushAsync(CancellationToken cancellation) => file.FlushAsync(cancellation);
}

/// <summary>An extent of zeroes without a file.</summary>
internal sealed class ZeroExtent : VmdkExtent
{
    public override ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        destination.Clear();
        return ValueTask.CompletedTask;
    }

    public override ValueTask WriteAsync(long offset, IoVector source, CancellationToken cancellation) => source.IsZero()
        ? ValueTask.CompletedTask
        : throw new DiskException(DiskError.ReadOnly, "an extent of type ZERO cannot be written");

    public override ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation) => ValueTask.CompletedTask;

    public override ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation) => ValueTask.CompletedTask;

    public override ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation) =>
        ValueTask.FromResult(new BlockExtent(length, BlockState.Zero | BlockState.Allocated));

    public override ValueTask FlushAsync(CancellationToken cancellation) => ValueTask.CompletedTask;
}
