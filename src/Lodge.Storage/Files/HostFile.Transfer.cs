using System.Collections.Concurrent;
using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>Reading and writing.</summary>
public sealed partial class HostFile
{
    /// <summary>Up to this many bytes are copied from or to the page cache on the calling thread. Longer copies run side by side.</summary>
    private const int InlineLength = 256 * 1024;

    private const int BounceLength = 256 * 1024;
    private const int Page = 4096;
    private static readonly ConcurrentBag<Memory<byte>> BounceBuffers = [];

    private readonly RangeLock _ranges = new();
    private readonly int _directAlignment;
    private readonly int _memoryAlignment;
    private SafeFileHandle? _buffered;
    private volatile bool _cannotNoWait;
    private volatile bool _cannotDataSync;

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        if (offset < 0 || offset > Length - destination.Length)
        {
            return ValueTask.FromException(OutOfRange(offset, destination.Length));
        }

        if (destination.Length == 0)
        {
            return ValueTask.CompletedTask;
        }

        if (_direct)
        {
            return Dispatch(HostFileWork.DirectRead, offset, 0, destination, 0, cancellation);
        }

        try
        {
            while (!_cannotNoWait && destination.Length <= InlineLength)
            {
                var count = HostSystemCalls.Transfer(_handle, write: false, offset, destination, HostSystemCalls.NoWait);
                if (count == destination.Length)
                {
                    return ValueTask.CompletedTask;
                }

                if (count <= 0)
                {
                    // Not in the page cache, or an error that the I/O thread meets again and reports.
                    _cannotNoWait = -count is HostErrors.NotSupported or HostErrors.Invalid;
                    break;
                }

                offset += count;
                destination = destination.Slice(count, destination.Length - count);
            }
        }
        catch (ObjectDisposedException)
        {
            return ValueTask.FromException(new DiskException(DiskError.InputOutput, $"{Name} is closed"));
        }

        return Dispatch(HostFileWork.Read, offset, 0, destination, 0, cancellation);
    }

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        if (RefuseWrite(offset, source.Length) is { } failure)
        {
            return ValueTask.FromException(failure);
        }

        if (source.Length == 0)
        {
            return ValueTask.CompletedTask;
        }

        var flags = (options & WriteOptions.ForceUnitAccess) != 0 && !_unsafe ? HostSystemCalls.DataSync : 0;
        if (_direct)
        {
            return WriteDirectAsync(offset, source, flags, cancellation);
        }

        if (source.Length > InlineLength || flags != 0 || _synchronous)
        {
            return Dispatch(HostFileWork.Write, offset, 0, source, flags, cancellation);
        }

        try
        {
            WriteBlocking(offset, source, 0);
            return ValueTask.CompletedTask;
        }
        catch (DiskException failed)
        {
            return ValueTask.FromException(failed);
        }
        catch (ObjectDisposedException)
        {
            return ValueTask.FromException(new DiskException(DiskError.InputOutput, $"{Name} is closed"));
        }
    }

    private static long RoundDown(long value, long unit) => value / unit * unit;

    private static long RoundUp(long value, long unit) => value > long.MaxValue - unit ? long.MaxValue : (value + unit - 1) / unit * unit;

    /// <summary>Transfers all bytes, waiting as long as it takes.</summary>
    private void TransferAll(SafeFileHandle handle, bool write, long offset, IoVector vector, int flags)
    {
        while (vector.Length > 0)
        {
            var count = HostSystemCalls.Transfer(handle, write, offset, vector, flags);
            if (count < 0)
            {
                throw HostErrors.From(Name, (int)-count, $"{(write ? "writing" : "reading")} {vector.Length} bytes at {offset}");
            }

            if (count == 0)
            {
                throw new DiskException(
                    DiskError.InputOutput,
                    write ? $"{Name}: the host wrote nothing of {vector.Length} bytes at {offset}" : $"{Name} ends before {offset}: another process has cut it");
            }

            offset += count;
            vector = vector.Slice(count, vector.Length - count);
        }
    }

    private void WriteBlocking(long offset, in IoVector source, int flags)
    {
        try
        {
            WriteDurably(_handle, offset, source, flags);
            GrowTo(offset + source.Length);
        }
        finally
        {
            CountChange();
        }
    }

    /// <summary>Writes with RWF_DSYNC if flags say so, or with a flush where the file system does not know it.</summary>
    private void WriteDurably(SafeFileHandle handle, long offset, in IoVector source, int flags)
    {
        if (flags == 0 || _synchronous)
        {
            TransferAll(handle, write: true, offset, source, 0);
            return;
        }

        if (!_cannotDataSync)
        {
            try
            {
                TransferAll(handle, write: true, offset, source, flags);
                return;
            }
            catch (DiskException failure) when (failure.Error == DiskError.Unsupported)
            {
                _cannotDataSync = true;
            }
        }

        TransferAll(handle, write: true, offset, source, 0);
        var result = HostSystemCalls.SynchronizeData(handle);
        if (result < 0)
        {
            throw RememberFlushFailure(-result);
        }
    }

    /// <summary>Alignment of offsets and lengths, and of memory, for direct I/O: as statx says (STATX_DIOALIGN), else what a read accepts.</summary>
    private (int Offset, int Memory) FindAlignment(in FileStatus status)
    {
        const uint DirectAlignment = 0x2000;
        if ((status.Mask & DirectAlignment) != 0 && status.DirectOffsetAlignment is > 0 and <= Page)
        {
            return ((int)status.DirectOffsetAlignment, (int)Math.Clamp(status.DirectMemoryAlignment, 1, Page));
        }

        var probe = HostSystemCalls.AllocateAligned(Page);
        for (var alignment = 512; alignment < Page; alignment *= 2)
        {
            if (HostSystemCalls.Transfer(_handle, write: false, alignment, probe[..alignment], 0) != -HostErrors.Invalid)
            {
                return (alignment, alignment);
            }
        }

        return (Page, Page);
    }

    /// <summary>Transfers without a copy, if all is aligned.</summary>
    private bool TryAligned(bool write, long offset, in IoVector vector, int flags)
    {
        if (offset % _directAlignment != 0 || !HostSystemCalls.IsAligned(vector, _memoryAlignment, _directAlignment))
        {
            return false;
        }

        try
        {
            if (write)
            {
                WriteDurably(_handle, offset, vector, flags);
            }
            else
            {
                TransferAll(_handle, write: false, offset, vector, 0);
            }

            return true;
        }
        catch (DiskException failure) when (failure.Error == DiskError.InvalidOption)
        {
            // The collector has moved the memory, or the device wants more than it said.
            return false;
        }
    }

    private void ReadDirect(long offset, in IoVector destination)
    {
        if (TryAligned(write: false, offset, destination, 0))
        {
            return;
        }

        var bounce = RentBounce();
        for (long done = 0; done < destination.Length;)
        {
            var start = RoundDown(offset + done, _directAlignment);
            var skip = (int)(offset + done - start);
            var part = (int)Math.Min(bounce.Length - skip, destination.Length - done);
            LoadDirect(start, bounce[..(int)RoundUp(skip + part, _directAlignment)], skip + part);
            destination.Slice(done, part).CopyFrom(bounce.Span[skip..]);
            done += part;
        }

        BounceBuffers.Add(bounce);
    }

    /// <summary>Reads aligned blocks; the last may lie across the end of the file and is filled with zeroes there.</summary>
    private void LoadDirect(long start, Memory<byte> blocks, int needed)
    {
        var have = 0;
        while (have < needed)
        {
            var count = HostSystemCalls.Transfer(_handle, write: false, start + have, blocks[have..], 0);
            if (count < 0)
            {
                throw HostErrors.From(Name, (int)-count, $"reading {blocks.Length} bytes at {start}");
            }

            have += (int)count;
            if (count == 0 || have % _directAlignment != 0)
            {
                break;
            }
        }

        if (have < needed && start + have < Length)
        {
            throw new DiskException(DiskError.InputOutput, $"{Name} ends before {start + have}: another process has cut it");
        }

        blocks.Span[have..].Clear();
    }

    private async ValueTask WriteDirectAsync(long offset, IoVector source, int flags, CancellationToken cancellation)
    {
        // Writes of whole blocks run side by side; one that must read a block first excludes every other write of it, or it would undo them. Pages, not
        // blocks, because an unaligned end of the file goes through the page cache.
        var aligned = (offset | source.Length) % _directAlignment == 0;
        var held = await _ranges.AcquireAsync(RoundDown(offset, Page), RoundUp(offset + source.Length, Page), !aligned, cancellation).ConfigureAwait(false);
        try
        {
            await Dispatch(HostFileWork.DirectWrite, offset, 0, source, flags, cancellation).ConfigureAwait(false);
        }
        finally
        {
            _ranges.Release(held);
        }
    }

    private void WriteDirect(long offset, in IoVector source, int flags)
    {
        try
        {
            if (!TryAligned(write: true, offset, source, flags))
            {
                BounceWrite(offset, source, flags);
            }

            GrowTo(offset + source.Length);
        }
        finally
        {
            CountChange();
        }
    }

    private void BounceWrite(long offset, in IoVector source, int flags)
    {
        var bounce = RentBounce();
        for (long done = 0; done < source.Length;)
        {
            var at = offset + done;
            var start = RoundDown(at, _directAlignment);
            var skip = (int)(at - start);
            var part = (int)Math.Min(bounce.Length - skip, source.Length - done);
            var blocks = bounce[..(int)RoundUp(skip + part, _directAlignment)];
            if (skip + part < blocks.Length && start + blocks.Length > Length)
            {
                // Whole blocks would make the file longer than it shall be.
                WriteEnd(at, source.Slice(done, part));
                done += part;
                continue;
            }

            if (skip != 0)
            {
                LoadDirect(start, blocks[.._directAlignment], _directAlignment);
            }

            if (skip + part < blocks.Length && (skip == 0 || blocks.Length > _directAlignment))
            {
                LoadDirect(start + blocks.Length - _directAlignment, blocks[^_directAlignment..], _directAlignment);
            }

            source.Slice(done, part).CopyTo(blocks.Span[skip..]);
            WriteDurably(_handle, start, blocks, flags);
            done += part;
        }

        BounceBuffers.Add(bounce);
    }

    /// <summary>Writes across the end of a file whose length is no multiple of a block: through the page cache, and from there to the medium before it returns.</summary>
    private void WriteEnd(long offset, in IoVector source)
    {
        var buffered = Volatile.Read(ref _buffered);
        if (buffered is null)
        {
            buffered = HostSystemCalls.Open(null, HostSystemCalls.PathOf(_handle), HostSystemCalls.OpenReadWrite, 0, out var error) ?? throw HostErrors.From(Name, error);
            if (Interlocked.CompareExchange(ref _buffered, buffered, null) is { } other)
            {
                buffered.Dispose();
                buffered = other;
            }
        }

        TransferAll(buffered, write: true, offset, source, 0);
        var result = HostSystemCalls.SynchronizeData(buffered);
        if (result < 0)
        {
            throw RememberFlushFailure(-result);
        }
    }

    private static Memory<byte> RentBounce() => BounceBuffers.TryTake(out var bounce) ? bounce : HostSystemCalls.AllocateAligned(BounceLength);
}
