using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Operations;

namespace Lodge.Storage.Ovf;

/// <summary>
/// Writes disks as an archive (.ova): descriptor, manifest, then the disks as streamOptimized VMDK, in a tar of POSIX.1-1988 (ustar) as DSP0243 wants it. The archive
/// and the compressed disks, which must be complete before the descriptor can be written, have no names until all is done.
/// </summary>
public static class OvaExport
{
    private const int Block = 512;
    private const long MostOctal = (1L << 33) - 1;

    /// <summary>Writes the archive.</summary>
    /// <param name="sources">The disks in order; they stay the caller's.</param>
    /// <param name="path">The archive; an existing one is replaced when the new one is complete.</param>
    /// <param name="machine">What the descriptor says of the machine.</param>
    /// <param name="copy">How the disks are copied.</param>
    /// <param name="cancellation">Ends it; nothing is left behind.</param>
    public static async Task RunAsync(IReadOnlyList<IDisk> sources, string path, OvfMachine machine, DiskCopyOptions copy, CancellationToken cancellation = default)
    {
        if (sources.Count > OvfWriter.MostDisks(machine.Bus))
        {
            throw new DiskException(DiskError.InvalidOption, $"{sources.Count} disks are too many for one controller on the bus {machine.Bus}");
        }

        path = Path.GetFullPath(path);
        var stem = Path.GetFileNameWithoutExtension(path);
        using var folder = HostFolder.Open(Path.GetDirectoryName(path)!);
        List<UnpublishedFile> made = [];
        List<HostFile> packed = [];
        try
        {
            List<OvfDiskFile> files = [];
            var lines = new StringBuilder();
            for (var index = 0; index < sources.Count; index++)
            {
                var name = string.Create(CultureInfo.InvariantCulture, $"{stem}-disk{index + 1}.vmdk");
                CheckName(name);
                var file = await PackAsync(sources[index], folder, name, machine, Share(copy, index, sources.Count), made, cancellation).ConfigureAwait(false);
                packed.Add(file);
                files.Add(new OvfDiskFile(name, file.Length, VmdkLength(sources[index].Length), file.Length));
                lines.Append(OvfManifest.Line(name, await OvfManifest.DigestAsync(file, HashAlgorithmName.SHA256, cancellation).ConfigureAwait(false)));
            }

            var descriptor = OvfWriter.Write(machine, files);
            lines.Insert(0, OvfManifest.Line(stem + ".ovf", SHA256.HashData(descriptor)));
            var archive = UnpublishedFile.Create(folder, Path.GetFileName(path), path, new HostFileOptions(false));
            made.Add(archive);
            var target = archive.File;
            await using (target.ConfigureAwait(false))
            {
                var place = await AddAsync(target, 0, stem + ".ovf", descriptor, cancellation).ConfigureAwait(false);
                place = await AddAsync(target, place, stem + ".mf", Encoding.UTF8.GetBytes(lines.ToString()), cancellation).ConfigureAwait(false);
                for (var index = 0; index < packed.Count; index++)
                {
                    await target.WriteAsync(place, Header(files[index].Name, packed[index].Length), WriteOptions.None, cancellation).ConfigureAwait(false);
                    await packed[index].CopyRangeAsync(0, target, place + Block, packed[index].Length, cancellation).ConfigureAwait(false);
                    place += Block + Padded(packed[index].Length);
                }

                // Two blocks of zeroes end an archive.
                await target.ResizeAsync(place + (2 * Block), cancellation).ConfigureAwait(false);
                await target.FlushAsync(cancellation).ConfigureAwait(false);
            }

            archive.Publish(replace: true);
        }
        finally
        {
            foreach (var file in packed)
            {
                await file.DisposeAsync().ConfigureAwait(false);
            }

            foreach (var file in made)
            {
                file.Dispose();
            }
        }
    }

    private static long VmdkLength(long length) => (length + 511) / 512 * 512;

    private static DiskCopyOptions Share(DiskCopyOptions copy, int index, int count) => copy with
    {
        TargetIsZero = true,
        Progress = copy.Progress is { } progress ? new Part(progress, index, count) : null,
    };

    /// <summary>Compresses a disk into a file without a name.</summary>
    private static async Task<HostFile> PackAsync(
        IDisk source, HostFolder folder, string name, OvfMachine machine, DiskCopyOptions copy, List<UnpublishedFile> made, CancellationToken cancellation)
    {
        var options = new HostFileOptions(false, CacheMode.Unsafe);
        var file = UnpublishedFile.Create(folder, name, name, options);
        made.Add(file);
        var format = DiskFormats.Named("vmdk");
        var context = new ImageContext(false, new OvaFiles(name));
        var owned = (IAsyncDisposable)file.File;
        try
        {
            var adapter = machine.Bus == OvfBus.Ide ? "ide" : "lsilogic";
            await format.CreateAsync(
                file.File, VmdkLength(source.Length), FormatOptions.None.With("subformat", "streamOptimized").With("adapter_type", adapter), context, cancellation).ConfigureAwait(false);
            var image = await format.OpenAsync(file.File, context, cancellation).ConfigureAwait(false);
            owned = image;
            await ImageConvert.RunAsync(source, image, copy, cancellation).ConfigureAwait(false);
        }
        finally
        {
            await owned.DisposeAsync().ConfigureAwait(false);
        }

        return file.Open(new HostFileOptions(true));
    }

    private static async ValueTask<long> AddAsync(IStorageFile target, long place, string name, byte[] content, CancellationToken cancellation)
    {
        CheckName(name);
        await target.WriteAsync(place, Header(name, content.Length), WriteOptions.None, cancellation).ConfigureAwait(false);
        await target.WriteAsync(place + Block, content, WriteOptions.None, cancellation).ConfigureAwait(false);
        return place + Block + Padded(content.Length);
    }

    private static long Padded(long length) => (length + Block - 1) / Block * Block;

    private static void CheckName(string name)
    {
        if (Encoding.UTF8.GetByteCount(name) > 100)
        {
            throw new DiskException(DiskError.InvalidOption, $"the name {name} is longer than the 100 bytes that an OVA takes; give the archive a shorter one");
        }
    }

    /// <summary>A header of ustar (POSIX.1-1988): numbers are octal; a longer file's size is binary as in GNU's tar.</summary>
    private static byte[] Header(string name, long length)
    {
        var header = new byte[Block];
        Encoding.UTF8.GetBytes(name, header);
        Octal(header.AsSpan(100, 8), 0x1A4); // rw-r--r--
        Octal(header.AsSpan(108, 8), 0);
        Octal(header.AsSpan(116, 8), 0);
        if (length <= MostOctal)
        {
            Octal(header.AsSpan(124, 12), length);
        }
        else
        {
            header[124] = 0x80;
            BinaryPrimitives.WriteInt64BigEndian(header.AsSpan(128), length);
        }

        Octal(header.AsSpan(136, 12), DateTimeOffset.UtcNow.ToUnixTimeSeconds());
        header[156] = (byte)'0';
        "ustar\000"u8.CopyTo(header.AsSpan(257));
        header.AsSpan(148, 8).Fill((byte)' ');
        var sum = 0;
        foreach (var value in header)
        {
            sum += value;
        }

        Octal(header.AsSpan(148, 7), sum);
        header[155] = (byte)' ';
        return header;
    }

    private static void Octal(Span<byte> field, long value)
    {
        for (var index = field.Length - 2; index >= 0; index--)
        {
            field[index] = (byte)('0' + (value & 7));
            value >>= 3;
        }

        field[^1] = 0;
    }

    private sealed class Part(IProgress<double> whole, int index, int count) : IProgress<double>
    {
        public void Report(double value) => whole.Report((index + value) / count);
    }
}
