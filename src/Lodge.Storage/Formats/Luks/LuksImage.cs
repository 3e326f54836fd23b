using System.Buffers;
using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Luks;

/// <summary>A disk in a LUKS container: sectors are encrypted on their way to the file and decrypted on their way back.</summary>
internal sealed class LuksImage(IStorageFile file, LuksHeader header, LuksVolume? volume) : IImage, IResize
{
    private const int Sector = SectorCipher.SectorLength;
    private const int Chunk = 1 << 20;

    private readonly RangeLock _ranges = new();

    public string FormatName => "luks";

    public IStorageFile File => file;

    public long Length => Math.Max(0, file.Length - header.PayloadOffset) / Sector * Sector;

    public int RequestAlignment => Math.Max(Sector, file.RequestAlignment);

    public bool IsReadOnly => file.IsReadOnly;

    private LuksVolume Volume => volume ?? throw new DiskException(DiskError.Secret, $"{file.Name} is encrypted; give its passphrase");

    public ImageInformation Describe() => new()
    {
        VirtualSize = Length,
        Encrypted = true,
        FormatSpecific =
        [
            .. DescribeCipher(header),
            KeyValuePair.Create("payload-offset", header.PayloadOffset.ToString()),
            KeyValuePair.Create("master-key-iters", header.MasterKeyIterations.ToString()),
            .. header.KeySlots.SelectMany((slot, index) => DescribeSlot(slot, $"slots.{index}.")),
        ],
    };

    public async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        var unlocked = Volume;
        var held = await _ranges.AcquireAsync(RoundDown(offset), RoundUp(offset + destination.Length), exclusive: false, cancellation).ConfigureAwait(false);
        try
        {
            if (offset % Sector == 0 && IsWholeSectors(destination))
            {
                await file.ReadAsync(header.PayloadOffset + offset, destination, cancellation).ConfigureAwait(false);
                var sector = (ulong)offset / Sector;
                foreach (var piece in destination)
                {
                    unlocked.Decrypt(piece.Span, sector);
                    sector += (ulong)piece.Length / Sector;
                }

                return;
            }

            var buffer = ArrayPool<byte>.Shared.Rent((int)Math.Min(Chunk, RoundUp(destination.Length) + Sector));
            try
            {
                for (long done = 0; done < destination.Length;)
                {
                    var skip = (int)((offset + done) % Sector);
                    var part = (int)Math.Min(RoundDown(buffer.Length) - skip, destination.Length - done);
                    var whole = buffer.AsMemory(0, (int)RoundUp(skip + part));
                    await LoadAsync(unlocked, offset + done - skip, whole, cancellation).ConfigureAwait(false);
                    destination.Slice(done, part).CopyFrom(whole.Span[skip..]);
                    done += part;
                }
            }
            finally
            {
                ArrayPool<byte>.Shared.Return(buffer);
            }
        }
        finally
        {
            _ranges.Release(held);
        }
    }

    public async ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        if (source.Length == 0)
        {
            return;
        }

        var unlocked = Volume;
        var held = await _ranges.AcquireAsync(RoundDown(offset), RoundUp(offset + source.Length), exclusive: true, cancellation).ConfigureAwait(false);
        var buffer = ArrayPool<byte>.Shared.Rent((int)Math.Min(Chunk, RoundUp(source.Length) + Sector));
        try
        {
            for (long done = 0; done < source.Length;)
            {
                var at = offset + done;
                var skip = (int)(at % Sector);
                var part = (int)Math.Min(RoundDown(buffer.Length) - skip, source.Length - done);
                var whole = buffer.AsMemory(0, (int)RoundUp(skip + part));
                if (skip != 0)
                {
                    await LoadAsync(unlocked, at - skip, whole[..Sector], cancellation).ConfigureAwait(false);
                }

                if ((skip + part) % Sector != 0 && (skip == 0 || whole.Length > Sector))
                {
                    await LoadAsync(unlocked, at - skip + whole.Length - Sector, whole[^Sector..], cancellation).ConfigureAwait(false);
                }

                source.Slice(done, part).CopyTo(whole.Span[skip..]);
                unlocked.Encrypt(whole.Span, (ulong)(at - skip) / Sector);
                await file.WriteAsync(header.PayloadOffset + at - skip, whole, options, cancellation).ConfigureAwait(false);
                done += part;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
            _ranges.Release(held);
        }
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default) => file.FlushAsync(cancellation);

    /// <inheritdoc/>
    /// <remarks>What is added is written, because only encrypted zeroes read as zeroes.</remarks>
    public async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        var before = Length;
        var after = RoundUp(length);
        if (after <= before)
        {
            await file.ResizeAsync(header.PayloadOffset + after, cancellation).ConfigureAwait(false);
            return;
        }

        try
        {
            await WriteZeroesAsync(file, Volume, before, after - before, cancellation).ConfigureAwait(false);
        }
        catch
        {
            await file.ResizeAsync(header.PayloadOffset + before, CancellationToken.None).ConfigureAwait(false);
            throw;
        }
    }

    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        return ValueTask.FromResult(new BlockExtent(length, BlockState.Data | BlockState.Allocated));
    }

    public ValueTask DisposeAsync()
    {
        volume?.Dispose();
        return file.DisposeAsync();
    }

    /// <summary>Writes encrypted zeroes into the payload.</summary>
    internal static async ValueTask WriteZeroesAsync(IStorageFile file, LuksVolume volume, long offset, long length, CancellationToken cancellation)
    {
        var buffer = new byte[(int)Math.Min(Chunk, length)];
        while (length > 0)
        {
            var part = buffer.AsMemory(0, (int)Math.Min(buffer.Length, length));
            part.Span.Clear();
            volume.Encrypt(part.Span, (ulong)offset / Sector);
            await file.WriteAsync(volume.PayloadOffset + offset, part, WriteOptions.None, cancellation).ConfigureAwait(false);
            offset += part.Length;
            length -= part.Length;
        }
    }

    private static IEnumerable<KeyValuePair<string, string>> DescribeCipher(LuksHeader header)
    {
        var mode = header.CipherMode.Split(['-', ':'], 3);
        yield return KeyValuePair.Create("cipher-alg", $"{header.CipherName}-{header.KeyBytes * (mode[0] == "xts" ? 4 : 8)}");
        yield return KeyValuePair.Create("cipher-mode", mode[0]);
        if (mode.Length > 1)
        {
            yield return KeyValuePair.Create("ivgen-alg", mode[1]);
        }

        if (mode.Length > 2)
        {
            yield return KeyValuePair.Create("ivgen-hash-alg", mode[2]);
        }

        yield return KeyValuePair.Create("hash-alg", header.HashSpec);
        yield return KeyValuePair.Create("uuid", header.Uuid);
    }

    private static IEnumerable<KeyValuePair<string, string>> DescribeSlot(LuksKeySlot slot, string prefix)
    {
        yield return KeyValuePair.Create(prefix + "active", slot.Active ? "true" : "false");
        if (slot.Active)
        {
            yield return KeyValuePair.Create(prefix + "iters", slot.Iterations.ToString());
            yield return KeyValuePair.Create(prefix + "stripes", slot.Stripes.ToString());
        }

        yield return KeyValuePair.Create(prefix + "key-offset", slot.MaterialOffset.ToString());
    }

    private static bool IsWholeSectors(IoVector vector)
    {
        foreach (var piece in vector)
        {
            if (piece.Length % Sector != 0)
            {
                return false;
            }
        }

        return true;
    }

    private static long RoundDown(long value) => value / Sector * Sector;

    private static long RoundUp(long value) => (value + Sector - 1) / Sector * Sector;

    private async ValueTask LoadAsync(LuksVolume unlocked, long offset, Memory<byte> sectors, CancellationToken cancellation)
    {
        await file.ReadAsync(header.PayloadOffset + offset, sectors, cancellation).ConfigureAwait(false);
        unlocked.Decrypt(sectors.Span, (ulong)offset / Sector);
    }
}
