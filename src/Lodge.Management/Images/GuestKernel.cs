using System.Buffers.Binary;
using Lodge.Management.Host;
using Lodge.Storage.Disks;

namespace Lodge.Management.Images;

/// <summary>The kernel of a disk with an ext4 file system, taken out so that the machine starts it directly.</summary>
/// <param name="Kernel">File with the kernel in the image's folder.</param>
/// <param name="Initrd">File with the initial RAM disk, or null.</param>
/// <param name="Root">Where the root file system is, for the kernel's command line.</param>
internal sealed record GuestKernel(string Kernel, string? Initrd, string Root)
{
    private const int Sector = 512;
    private const int SuperblockOffset = 1024;
    private const ushort ExtMagic = 0xEF53;
    private const int LargestPartitionTable = 128;
    private const int LargestKernelListing = 4096;

    /// <summary>Looks through the partitions; null when none has a kernel, or e2fsprogs' debugfs is not on the host.</summary>
    public static async Task<GuestKernel?> TakeAsync(IDisk disk, string folder)
    {
        if (!HostProgram.Exists("debugfs"))
        {
            return null;
        }
        string? boot = null;
        string? root = null;
        foreach ((long offset, long length, string name) in await PartitionsAsync(disk).ConfigureAwait(false))
        {
            if (!await IsExtAsync(disk, offset, length).ConfigureAwait(false))
            {
                continue;
            }
            // debugfs reads a plain file system: the partition as a sparse file.
            string plain = Path.Combine(folder, ".partition");
            await CopyAsync(disk, offset, length, plain).ConfigureAwait(false);
            try
            {
                root ??= Lists(plain, "/etc").Contains("os-release") || Lists(plain, "/usr/lib").Contains("os-release") ? name : null;
                foreach (string path in (ReadOnlySpan<string>)["/boot", "/"])
                {
                    boot ??= Take(plain, path, folder);
                }
            }
            finally
            {
                File.Delete(plain);
            }
        }
        return boot is not null && root is not null ? new GuestKernel("vmlinuz", File.Exists(Path.Combine(folder, "initrd.img")) ? "initrd.img" : null, root) : null;
    }

    /// <summary>Offset and length in bytes and the kernel's name of each partition of a GUID partition table (UEFI 2.10, section 5.3); the whole disk where there is none.</summary>
    internal static async Task<IReadOnlyList<(long Offset, long Length, string Root)>> PartitionsAsync(IDisk disk)
    {
        byte[] header = await disk.ReadBytesAsync(Sector, Sector).ConfigureAwait(false);
        if (header.Length < Sector || !header.AsSpan().StartsWith("EFI PART"u8))
        {
            return [(0, disk.Length, "{disk}")];
        }
        long table = BinaryPrimitives.ReadInt64LittleEndian(header.AsSpan(72));
        int count = Math.Clamp(BinaryPrimitives.ReadInt32LittleEndian(header.AsSpan(80)), 0, LargestPartitionTable);
        int size = BinaryPrimitives.ReadInt32LittleEndian(header.AsSpan(84));
        List<(long, long, string)> partitions = [];
        if (size is < 128 or > 4096 || table < 0 || table > (disk.Length / Sector) - 1)
        {
            return partitions;
        }
        byte[] entries = await disk.ReadBytesAsync(table * Sector, count * size).ConfigureAwait(false);
        for (int i = 0; (i + 1) * size <= entries.Length; i++)
        {
            ReadOnlyMemory<byte> entry = entries.AsMemory(i * size, size);
            long first = BinaryPrimitives.ReadInt64LittleEndian(entry.Span[32..]), last = BinaryPrimitives.ReadInt64LittleEndian(entry.Span[40..]);
            if (entry.Span[..16].ContainsAnyExcept((byte)0) && first > 0 && last >= first && last < disk.Length / Sector)
            {
                partitions.Add((first * Sector, (last - first + 1) * Sector, $"PARTUUID={new Guid(entry.Span[16..32])}"));
            }
        }
        return partitions;
    }

    private static async Task<bool> IsExtAsync(IDisk disk, long offset, long length)
    {
        if (length < 2 * SuperblockOffset)
        {
            return false;
        }
        byte[] superblock = await disk.ReadBytesAsync(offset + SuperblockOffset, SuperblockOffset).ConfigureAwait(false);
        return BinaryPrimitives.ReadUInt16LittleEndian(superblock.AsSpan(0x38)) == ExtMagic;
    }

    private static async Task CopyAsync(IDisk disk, long offset, long length, string path)
    {
        await using FileStream file = new(path, FileMode.CreateNew, FileAccess.Write, FileShare.Read, 1);
        file.SetLength(length);
        byte[] buffer = new byte[1 << 20];
        for (long done = 0; done < length;)
        {
            BlockExtent extent = await disk.StatusAsync(offset + done, length - done).ConfigureAwait(false);
            if ((extent.State & BlockState.Data) == 0)
            {
                done += extent.Length;
                continue;
            }
            int part = (int)Math.Min(extent.Length, buffer.Length);
            await disk.ReadAsync(offset + done, buffer.AsMemory(0, part)).ConfigureAwait(false);
            file.Position = done;
            await file.WriteAsync(buffer.AsMemory(0, part)).ConfigureAwait(false);
            done += part;
        }
    }

    /// <summary>Takes the newest kernel of a folder with its initial RAM disk; null when there is none.</summary>
    private static string? Take(string plain, string path, string folder)
    {
        IReadOnlyList<string> names = Lists(plain, path);
        if (names.Where(name => name.StartsWith("vmlinuz-", StringComparison.Ordinal) && !name.Contains("rescue", StringComparison.Ordinal)).Max(KernelRelease.Order) is not { } kernel)
        {
            return null;
        }
        string release = kernel["vmlinuz-".Length..];
        string? initrd = names.FirstOrDefault(name => name == $"initrd.img-{release}" || name == $"initramfs-{release}.img");
        Dump(plain, $"{path}/{kernel}", Path.Combine(folder, "vmlinuz"));
        if (initrd is not null)
        {
            Dump(plain, $"{path}/{initrd}", Path.Combine(folder, "initrd.img"));
        }
        return kernel;
    }

    /// <summary>Names in a folder of the file system that hold nothing that debugfs or the host's shell could misread.</summary>
    private static IReadOnlyList<string> Lists(string plain, string path)
    {
        string text = HostProgram.Text("debugfs", "-R", $"ls -p {path}", plain) ?? "";
        // Lines are /INODE/MODE/USER/GROUP/NAME/SIZE/
        return [.. text.Split('\n').Take(LargestKernelListing).Select(line => line.Split('/')).Where(parts => parts.Length > 5).Select(parts => parts[5])
            .Where(name => name.Length is > 0 and < 200 && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' or '+' or '~'))];
    }

    private static void Dump(string plain, string path, string target)
    {
        (int status, string error) = HostProgram.Run("debugfs", ["-R", $"dump {path} \"{target}\"", plain]);
        if (status != 0 || !File.Exists(target) || new FileInfo(target).Length == 0)
        {
            throw new ManagementException($"{path} cannot be read from the image: {error}");
        }
    }
}
