using System.Security.Cryptography;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary><c>lodge run --disk</c> in the default system: what the guest writes is what the host finds, and the other way round.</summary>
[Collection("guests")]
public sealed class DiskTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-disks-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("virtio", "vda")]
    [InlineData("nvme", "nvme0n1")]
    [InlineData("scsi", "sda")]
    public void Patterns_pass_both_ways(string bus, string name)
    {
        string image = Image(48 << 20, 1);
        byte[] before = File.ReadAllBytes(image);
        (int status, string output, string error) = LodgeProcess.Run(
            ["run", "--cpus", "2", "--disk", $"{image},bus={bus},serial=TEST-7", "--", "sh", "-c",
            $"""
            md5sum </dev/{name}
            dd if=/dev/{name} of=/tmp/part bs=4096 skip=100 count=1000 2>/dev/null
            tr '\000-\377' '\001-\377\000' </tmp/part >/tmp/changed
            dd if=/tmp/changed of=/dev/{name} bs=4096 seek=5000 conv=fsync 2>/dev/null
            dd if=/tmp/changed of=/dev/{name} bs=512 seek=3 count=1 conv=fsync 2>/dev/null
            echo 3 >/proc/sys/vm/drop_caches
            md5sum </dev/{name}
            cat /sys/block/{name}/serial /sys/block/{name}/device/serial /sys/block/{name}/device/vpd_pg80 2>/dev/null
            true
            """]);
        Assert.True(status == 0, error);
        byte[] part = [.. before.AsSpan(100 * 4096, 1000 * 4096).ToArray().Select(b => (byte)(b + 1))];
        byte[] expected = [.. before];
        part.CopyTo(expected, 5000 * 4096);
        part.AsSpan(0, 512).CopyTo(expected.AsSpan(3 * 512));
        Assert.StartsWith($"{Sum(before)}  -\n{Sum(expected)}  -\n", output, StringComparison.Ordinal);
        Assert.Contains("TEST-7", output, StringComparison.Ordinal);
        Assert.True(expected.AsSpan().SequenceEqual(File.ReadAllBytes(image)));
    }

    [Theory]
    [InlineData("virtio", "vda")]
    [InlineData("nvme", "nvme0n1")]
    public void A_file_system_keeps_its_files(string bus, string name)
    {
        string image = Image(48 << 20, null), disk = $"{image},bus={bus}";
        (int status, string output, string error) = LodgeProcess.Run(
            ["run", "--disk", disk, "--", "sh", "-c",
            $"mke2fs /dev/{name} >/dev/null && mount /dev/{name} /mnt && cp -a /bin /mnt/ && cp /bin/busybox /mnt/copy && sync && md5sum </mnt/copy && umount /mnt"]);
        Assert.True(status == 0, error + output);
        (status, string again, error) = LodgeProcess.Run(
            ["run", "--disk", disk + ",readonly", "--", "sh", "-c", $"mount -o ro /dev/{name} /mnt && md5sum </mnt/copy && ! (echo x >/dev/{name}) 2>/dev/null"]);
        Assert.True(status == 0, error + again);
        Assert.Equal(output, again);
    }

    [Fact]
    public void A_medium_in_a_cdrom_drive_is_read()
    {
        string image = Image(8 << 20, 2);
        (int status, string output, string error) = LodgeProcess.Run(
            ["run", "--cdrom", image, "--", "sh", "-c", "md5sum </dev/sr0; ! (echo x >/dev/sr0) 2>/dev/null"]);
        Assert.True(status == 0, error);
        Assert.Equal($"{Sum(File.ReadAllBytes(image))}  -\n", output);
    }

    [Theory]
    [InlineData("virtio", "vda")]
    [InlineData("nvme", "nvme0n1")]
    [InlineData("scsi", "sda")]
    public void Injected_faults_are_seen_by_the_guest(string bus, string name)
    {
        string disk = Image(8 << 20, 3) + $",bus={bus},fault=read-error@8192,fault=write-error@100";
        (int status, string output, string error) = LodgeProcess.Run(
            ["run", "--disk", disk, "--", "sh", "-c",
            $"""
            dd if=/dev/{name} of=/dev/null bs=512 skip=8200 count=100 2>/dev/null && echo elsewhere
            dd if=/dev/{name} of=/dev/null bs=512 skip=8192 count=1 2>/dev/null || echo unreadable
            dd if=/dev/zero of=/dev/{name} bs=512 seek=100 count=1 conv=fsync 2>/dev/null || echo unwritable
            """]);
        Assert.Equal("elsewhere\nunreadable\nunwritable\n", output);
        Assert.Equal(0, status);
        Assert.Contains("injected fault: sector 8192 cannot be read", error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_disk_that_is_not_there_or_has_no_plain_format_is_an_error()
    {
        (int status, _, string error) = LodgeProcess.Run(["run", "--disk", Path.Combine(_folder, "none.img"), "--", "true"]);
        Assert.Equal(1, status);
        Assert.Contains("none.img", error, StringComparison.Ordinal);
        (status, _, error) = LodgeProcess.Run(["run", "--disk", Path.Combine(_folder, "none"), "--", "true"]);
        Assert.Equal(2, status);
        Assert.Contains("format=raw", error, StringComparison.Ordinal);
    }

    private string Image(int length, int? seed)
    {
        byte[] content = new byte[length];
        if (seed is { } number)
        {
            new Random(number).NextBytes(content);
        }
        string path = Path.Combine(_folder, $"{Guid.NewGuid():n}.img");
        File.WriteAllBytes(path, content);
        return path;
    }

    private static string Sum(byte[] content) => Convert.ToHexStringLower(MD5.HashData(content));
}
