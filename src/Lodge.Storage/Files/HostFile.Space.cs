using Lodge.Storage.Disks;

namespace Lodge.Storage.Files;

/// <summary>What a host file holds where, and changes of that.</summary>
public sealed partial class HostFile
{
    private const int SectorLength = 512;
    private static readonly byte[] Zeroes = GC.AllocateArray<byte>(1 << 20, pinned: true);

    private readonly Lock _extentGate = new();

    // What the file system has refused once and is not asked again; a stale value costs one more call.
    private bool _cannotPunch;
    private bool _cannotZeroRange;
    private bool _cannotAllocate;
    private bool _cannotSeek;

    // The extent that was found last, true as long as nothing changed since.
    private long _extentChanges = -1;
    private long _extentStart;
    private long _extentEnd;
    private bool _extentIsData;

    /// <inheritdoc/>
    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) =>
        RefuseWrite(offset, length) is { } failure ? ValueTask.FromException(failure)
        : length == 0 ? ValueTask.CompletedTask
        : DispatchChange(HostFileWork.WriteZeroes, offset, length, offset + length, (int)options, cancellation);

    /// <inheritdoc/>
    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        if (RefuseWrite(offset, length) is { } failure)
        {
            return ValueTask.FromException(failure);
        }

        // Only whole units, and nothing beyond the end.
        var start = RoundUp(offset, DiscardGranularity);
        var end = offset + length >= Length ? Length : RoundDown(offset + length, DiscardGranularity);
        return start >= end || _cannotPunch ? ValueTask.CompletedTask : DispatchChange(HostFileWork.Discard, start, end - start, end, 0, cancellation);
    }

    /// <inheritdoc/>
    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) =>
        RefuseWrite(offset, length) is { } failure ? ValueTask.FromException(failure)
        : length == 0 || _device ? ValueTask.CompletedTask
        : DispatchChange(HostFileWork.Allocate, offset, length, offset + length, 0, cancellation);

    /// <inheritdoc/>
    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        if (length < 0 || IsReadOnly)
        {
            return ValueTask.FromException(RefuseWrite(0, length)!);
        }

        // Growing writes nothing, so that it is done before another thread would have woken up.
        if (!_device && !_direct && length >= Length)
        {
            try
            {
                ResizeBlocking(length);
                return ValueTask.CompletedTask;
            }
            catch (DiskException failure)
            {
                return ValueTask.FromException(failure);
            }
            catch (ObjectDisposedException)
            {
                return ValueTask.FromException(new DiskException(DiskError.InputOutput, $"{Name} is closed"));
            }
        }

        return !_device ? DispatchChange(HostFileWork.Resize, Math.Min(length, Length), length, long.MaxValue, 0, cancellation)
            : length == Length ? ValueTask.CompletedTask
            : ValueTask.FromException(new DiskException(DiskError.Unsupported, $"{Name} is a block device of {Length} bytes; its size cannot change"));
    }

    /// <inheritdoc/>
    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        if (offset < 0 || length <= 0 || offset > Length - length)
        {
            return ValueTask.FromException<BlockExtent>(OutOfRange(offset, length));
        }

        try
        {
            var (end, isData) = FindExtent(offset);
            var state = (isData ? BlockState.Data : BlockState.Zero) | BlockState.Allocated;
            return ValueTask.FromResult(new BlockExtent(Math.Min(length, end - offset), state, 0, offset));
        }
        catch (DiskException failure)
        {
            return ValueTask.FromException<BlockExtent>(failure);
        }
    }

    /// <summary>Dispatches a change that is no plain write; with direct I/O it waits for unaligned writes, which would write back what they read before.</summary>
    private ValueTask DispatchChange(HostFileWork work, long offset, long length, long end, int flags, CancellationToken cancellation)
    {
        return _direct ? LockedAsync() : Dispatch(work, offset, length, default, flags, cancellation);

        async ValueTask LockedAsync()
        {
            var held = await _ranges.AcquireAsync(RoundDown(offset, Page), RoundUp(end, Page), exclusive: true, cancellation).ConfigureAwait(false);
            try
            {
                await Dispatch(work, offset, length, default, flags, cancellation).ConfigureAwait(false);
            }
            finally
            {
                _ranges.Release(held);
            }
        }
    }

    /// <summary>Whether there is data at <paramref name="offset"/> or a hole, and where that ends.</summary>
    private (long End, bool IsData) FindExtent(long offset)
    {
        if (_device || _cannotSeek)
        {
            return (Length, true);
        }

        var changes = Volatile.Read(ref _changes);
        lock (_extentGate)
        {
            if (_extentChanges == changes && offset >= _extentStart && offset < _extentEnd)
            {
                return (_extentEnd, _extentIsData);
            }
        }

        var data = HostSystemCalls.Seek(_handle, offset, HostSystemCalls.SeekData);
        var isData = data == offset;
        var end = isData ? HostSystemCalls.Seek(_handle, offset, HostSystemCalls.SeekHole) : data;
        if (end == -HostErrors.NoDeviceOrAddress)
        {
            // No data from here to the end.
            end = Length;
        }
        else if (end == -HostErrors.Invalid || end == -HostErrors.NotSupported)
        {
            _cannotSeek = true;
            return (Length, true);
        }
        else if (end < 0)
        {
            throw HostErrors.From(Name, (int)-end, $"looking for holes at {offset}");
        }

        // The file may have been changed between the two calls, by us or by others: at least one byte, and what cannot be told is data.
        if (end <= offset)
        {
            return (offset + 1, true);
        }

        lock (_extentGate)
        {
            (_extentChanges, _extentStart, _extentEnd, _extentIsData) = (changes, offset, end, isData);
        }

        return (end, isData);
    }

    private void WriteZeroesBlocking(long offset, long length, ZeroOptions options)
    {
        try
        {
            if (_device)
            {
                ZeroDevice(offset, length, options);
            }
            else if (!(((options & ZeroOptions.MayUnmap) != 0 && TryPunch(offset, length)) || TryZeroRange(offset, length)))
            {
                WriteZeroBytes(offset, length, options);
            }

            GrowTo(offset + length);
        }
        finally
        {
            CountChange();
        }

        if ((options & ZeroOptions.ForceUnitAccess) != 0 && !_unsafe)
        {
            FlushBlocking();
        }
    }

    private bool TryPunch(long offset, long length)
    {
        if (_cannotPunch)
        {
            return false;
        }

        // Growing by allocation of the last byte, which the hole then swallows: ftruncate would cut off what others write beyond at the same time.
        if (offset + length > Length && !TryAllocate(offset + length - 1, 1))
        {
            return false;
        }

        return Check(HostSystemCalls.Allocate(_handle, HostSystemCalls.FallocatePunchHole | HostSystemCalls.FallocateKeepSize, offset, length), ref _cannotPunch, "zeroing", offset, length);
    }

    private bool TryZeroRange(long offset, long length)
    {
        if (!_cannotZeroRange
            && Check(HostSystemCalls.Allocate(_handle, HostSystemCalls.FallocateZeroRange, offset, length), ref _cannotZeroRange, "zeroing", offset, length))
        {
            return true;
        }

        return TryPunch(offset, length) && TryAllocate(offset, length);
    }

    private bool TryAllocate(long offset, long length) =>
        !_cannotAllocate && Check(HostSystemCalls.Allocate(_handle, 0, offset, length), ref _cannotAllocate, "allocating", offset, length);

    /// <summary>True for success; false, remembered, where the file system cannot do it.</summary>
    private bool Check(int result, ref bool cannot, string doing, long offset, long length)
    {
        if (result >= 0)
        {
            return true;
        }

        if (-result is HostErrors.NotSupported or HostErrors.NoSystemCall)
        {
            cannot = true;
            return false;
        }

        throw HostErrors.From(Name, -result, $"{doing} {length} bytes at {offset}");
    }

    private void ZeroDevice(long offset, long length, ZeroOptions options)
    {
        var start = RoundUp(offset, SectorLength);
        var end = RoundDown(offset + length, SectorLength);
        if (start >= end || _cannotZeroRange
            || !Check(HostSystemCalls.DeviceRange(_handle, HostSystemCalls.BlockZeroOut, start, end - start), ref _cannotZeroRange, "zeroing", start, end - start))
        {
            WriteZeroBytes(offset, length, options);
            return;
        }

        WriteZeroBytes(offset, start - offset, ZeroOptions.None);
        WriteZeroBytes(end, offset + length - end, ZeroOptions.None);
    }

    private void WriteZeroBytes(long offset, long length, ZeroOptions options)
    {
        if ((options & ZeroOptions.Fast) != 0 && length > 0)
        {
            throw new DiskException(DiskError.Unsupported, $"{Name}: its file system cannot make a range zero without writing it");
        }

        while (length > 0)
        {
            var part = Zeroes.AsMemory(0, (int)Math.Min(length, Zeroes.Length));
            if (_direct)
            {
                WriteDirect(offset, part, 0);
            }
            else
            {
                TransferAll(_handle, write: true, offset, part, 0);
                GrowTo(offset + part.Length);
            }

            offset += part.Length;
            length -= part.Length;
        }
    }

    private void DiscardBlocking(long offset, long length)
    {
        try
        {
            var result = _device
                ? HostSystemCalls.DeviceRange(_handle, HostSystemCalls.BlockDiscard, offset, RoundDown(length, SectorLength))
                : HostSystemCalls.Allocate(_handle, HostSystemCalls.FallocatePunchHole | HostSystemCalls.FallocateKeepSize, offset, length);
            Check(result, ref _cannotPunch, "discarding", offset, length);
        }
        finally
        {
            CountChange();
        }
    }

    private void AllocateBlocking(long offset, long length)
    {
        try
        {
            if (!TryAllocate(offset, length))
            {
                throw new DiskException(DiskError.Unsupported, $"{Name}: its file system cannot reserve room; use preallocation=off or full");
            }

            GrowTo(offset + length);
        }
        finally
        {
            CountChange();
        }
    }

    private void ResizeBlocking(long length)
    {
        var result = HostSystemCalls.Truncate(_handle, length);
        if (result < 0)
        {
            throw HostErrors.From(Name, -result, $"changing its length to {length}");
        }

        Volatile.Write(ref _length, length);
        CountChange();
    }
}
