using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>Reads, writes, zeroes, discards and block status, cut to what the server takes.</summary>
public sealed partial class NbdDisk
{
    private const long LongestEffect = 1L << 30; // of requests without payload; within 32 bits and a multiple of every block size

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        var session = _connection.Session;
        return destination.Length == 0 ? ValueTask.CompletedTask
            : !Aligned(offset, destination.Length, session) ? ReadUnalignedAsync(offset, destination, cancellation)
            : destination.Length <= session.MaximumPayload ? RunAsync(NbdCommand.Read, NbdCommandFlags.None, offset, destination.Length, destination, default, cancellation)
            : InPiecesAsync(NbdCommand.Read, NbdCommandFlags.None, offset, destination, cancellation);
    }

    /// <inheritdoc/>
    public async ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        await GrowAsync(offset, source.Length, cancellation).ConfigureAwait(false);
        this.CheckWrite(offset, source.Length);
        var session = _connection.Session;
        var durable = (options & WriteOptions.ForceUnitAccess) != 0;
        var flags = durable && session.Has(NbdTransmissionFlags.SendFua) ? NbdCommandFlags.Fua : NbdCommandFlags.None;
        if (source.Length > 0)
        {
            await (Aligned(offset, source.Length, session) ? InPiecesAsync(NbdCommand.Write, flags, offset, source, cancellation) : WriteUnalignedAsync(flags, offset, source, cancellation)).ConfigureAwait(false);
        }

        if (durable && flags == 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        await GrowAsync(offset, length, cancellation).ConfigureAwait(false);
        this.CheckWrite(offset, length);
        var session = _connection.Session;
        var fast = (options & ZeroOptions.Fast) != 0;
        var durable = (options & ZeroOptions.ForceUnitAccess) != 0;
        if (!session.Has(NbdTransmissionFlags.SendWriteZeroes) || !Aligned(offset, length, session))
        {
            await WrittenZeroesAsync(offset, length, fast, durable, cancellation).ConfigureAwait(false);
            return;
        }

        if (fast && !session.Has(NbdTransmissionFlags.SendFastZero))
        {
            throw new DiskException(DiskError.Unsupported, $"{Name}: the server does not tell whether zeroes are fast");
        }

        var fua = durable && session.Has(NbdTransmissionFlags.SendFua);
        var flags = (options & ZeroOptions.MayUnmap) == 0 ? NbdCommandFlags.NoHole : NbdCommandFlags.None;
        flags |= (fast ? NbdCommandFlags.FastZero : 0) | (fua ? NbdCommandFlags.Fua : 0);
        await EffectAsync(NbdCommand.WriteZeroes, flags, offset, length, cancellation).ConfigureAwait(false);
        if (durable && !fua)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        var session = _connection.Session;
        var start = (offset + session.MinimumBlock - 1) & -session.MinimumBlock;
        var end = (offset + length) & -session.MinimumBlock;
        return session.Has(NbdTransmissionFlags.SendTrim) && start < end
            ? EffectAsync(NbdCommand.Trim, NbdCommandFlags.None, start, end - start, cancellation)
            : ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        return await AskAsync(NbdProtocol.BaseAllocation, offset, length, cancellation).ConfigureAwait(false) is { } found
            ? new BlockExtent(found.Length, NbdAllocation.State((NbdState)(uint)found.Flags))
            : new BlockExtent(length, BlockState.Data | BlockState.Allocated);
    }

    /// <inheritdoc/>
    public async ValueTask<(bool Dirty, long Length)> GetDirtyAsync(string name, long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        return await AskAsync(NbdProtocol.QemuDirtyBitmap + name, offset, length, cancellation).ConfigureAwait(false) is { } found
            ? ((found.Flags & 1) != 0, found.Length)
            : throw new DiskException(DiskError.NotFound, $"{Name}: the server has no dirty bitmap '{name}'");
    }

    private static bool Aligned(long offset, long length, NbdClientSession session) => ((offset | length) & (session.MinimumBlock - 1)) == 0;

    /// <summary>The extent at an offset in one metadata context, or null if the server has no such context.</summary>
    private async ValueTask<(long Length, ulong Flags)?> AskAsync(string context, long offset, long length, CancellationToken cancellation)
    {
        var connection = await AliveAsync(cancellation).ConfigureAwait(false);
        if (!connection.Session.Contexts.Values.Contains(context))
        {
            return null;
        }

        var block = connection.Session.MinimumBlock;
        var start = offset & -block;
        var end = Math.Min((offset + length + block - 1) & -block, start + LongestEffect);
        end = Math.Min(end, Length & -block);
        if (end <= offset)
        {
            return null; // behind the last whole block
        }

        foreach (var (id, found, flags) in await connection.StatusAsync(start, end - start, cancellation).ConfigureAwait(false))
        {
            if (connection.Session.Contexts.TryGetValue(id, out var name) && name == context && found > offset - start)
            {
                return (Math.Min(found - (offset - start), length), flags);
            }
        }

        throw new DiskException(DiskError.Connection, $"{Name}: the server broke the protocol: it left out the block status of {context}");
    }

    private async ValueTask EffectAsync(NbdCommand command, NbdCommandFlags flags, long offset, long length, CancellationToken cancellation)
    {
        while (length > 0)
        {
            var part = Math.Min(length, LongestEffect);
            await RunAsync(command, flags, offset, part, default, default, cancellation).ConfigureAwait(false);
            offset += part;
            length -= part;
        }
    }

    private async ValueTask InPiecesAsync(NbdCommand command, NbdCommandFlags flags, long offset, IoVector memory, CancellationToken cancellation)
    {
        var most = _connection.Session.MaximumPayload;
        for (long done = 0; done < memory.Length;)
        {
            var part = Math.Min(memory.Length - done, most);
            var piece = memory.Slice(done, part);
            await RunAsync(command, flags, offset + done, part, command == NbdCommand.Read ? piece : default, command == NbdCommand.Read ? default : piece, cancellation).ConfigureAwait(false);
            done += part;
        }
    }

    /// <summary>A file grows when it is written behind its end; an export only if the server lets it.</summary>
    private async ValueTask GrowAsync(long offset, long length, CancellationToken cancellation)
    {
        if (IsReadOnly || length <= 0 || offset < 0 || offset <= Length - length || length > long.MaxValue - offset)
        {
            return;
        }

        if (!_connection.Session.Has(NbdTransmissionFlags.SendResize))
        {
            throw new DiskException(DiskError.NoSpace, $"{Name} has {Length} bytes and cannot grow");
        }

        await _connecting.WaitAsync(cancellation).ConfigureAwait(false); // two that grow at once must not shrink
        try
        {
            if (offset + length > Length)
            {
                await _connection.RunAsync(NbdCommand.Resize, NbdCommandFlags.None, offset + length, 0, default, default, cancellation).ConfigureAwait(false);
                Volatile.Write(ref _length, offset + length);
            }
        }
        finally
        {
            _connecting.Release();
        }
    }

    private async ValueTask WrittenZeroesAsync(long offset, long length, bool fast, bool durable, CancellationToken cancellation)
    {
        if (fast)
        {
            throw new DiskException(DiskError.Unsupported, $"{Name}: the server has no fast zeroes");
        }

        var zeroes = new byte[Math.Min(length, 1 << 20)];
        for (long done = 0; done < length; done += zeroes.Length)
        {
            await WriteAsync(offset + done, zeroes.AsMemory(0, (int)Math.Min(zeroes.Length, length - done)), WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        if (durable)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>A server with a minimum block size: whole blocks are read, and the part is taken.</summary>
    private async ValueTask ReadUnalignedAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        var session = _connection.Session;
        var block = session.MinimumBlock;
        for (long done = 0; done < destination.Length;)
        {
            var start = (offset + done) & -block;
            var skip = offset + done - start;
            var part = Math.Min(destination.Length - done, Math.Min(session.MaximumPayload, 1 << 20) - skip);
            var whole = new byte[(skip + part + block - 1) & -block];
            await RunAsync(NbdCommand.Read, NbdCommandFlags.None, start, whole.Length, whole, default, cancellation).ConfigureAwait(false);
            destination.Slice(done, part).CopyFrom(whole.AsSpan((int)skip, (int)part));
            done += part;
        }
    }

    /// <summary>A server with a minimum block size: the blocks are read, changed and written; other such writes to them wait.</summary>
    private async ValueTask WriteUnalignedAsync(NbdCommandFlags flags, long offset, IoVector source, CancellationToken cancellation)
    {
        var session = _connection.Session;
        var block = session.MinimumBlock;
        var held = await _partial.AcquireAsync(offset & -block, (offset + source.Length + block - 1) & -block, exclusive: true, cancellation).ConfigureAwait(false);
        try
        {
            for (long done = 0; done < source.Length;)
            {
                var start = (offset + done) & -block;
                var skip = (int)(offset + done - start);
                var part = Math.Min(source.Length - done, Math.Min(session.MaximumPayload, 1 << 20) - skip);
                var whole = new byte[(skip + part + block - 1) & -block];
                await RunAsync(NbdCommand.Read, NbdCommandFlags.None, start, whole.Length, whole, default, cancellation).ConfigureAwait(false);
                source.Slice(done, part).CopyTo(whole.AsSpan(skip));
                await RunAsync(NbdCommand.Write, flags, start, whole.Length, default, whole, cancellation).ConfigureAwait(false);
                done += part;
            }
        }
        finally
        {
            _partial.Release(held);
        }
    }
}
