using Lodge.Cli.Run;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Xunit;

namespace Lodge.Cli.Tests;

public class DiskOptionTests
{
    [Fact]
    public void A_path_alone_has_the_defaults()
    {
        DiskOption disk = DiskOption.Parse("/data/a.img");
        Assert.Equal(("/data/a.img", "raw", false, true, DiskBus.Virtio), (disk.Path, disk.Format, disk.ReadOnly, disk.Discard, disk.Bus));
        Assert.Equal((CacheMode.WriteBack, 512, null), (disk.Cache, disk.BlockSize, disk.Serial));
    }

    [Fact]
    public void Every_option()
    {
        DiskOption disk = DiskOption.Parse("a,,b.bin,format=raw,readonly,serial=X-1,cache=none,bus=virtio,discard=off,blocksize=4096,allow=/one,allow=/two");
        Assert.Equal("a,b.bin", disk.Path);
        Assert.Equal(("raw", true, "X-1", CacheMode.None, false, 4096), (disk.Format, disk.ReadOnly, disk.Serial, disk.Cache, disk.Discard, disk.BlockSize));
        Assert.Equal(["/one", "/two"], disk.AllowedFolders);
    }

    [Fact]
    public void Faults_and_limits()
    {
        DiskOption disk = DiskOption.Parse("a.img,bus=scsi,fault=read-error@8:50%,fault=delay:20ms,iops=100,bps-rd=2M,bps-rd-max=4M");
        Assert.Equal([DiskFaultKind.ReadError, DiskFaultKind.Delay], disk.Faults.Select(fault => fault.Kind));
        Assert.Equal((100, 2 << 20, 4 << 20), (disk.Limits.Operations.PerSecond, disk.Limits.ReadBytes.PerSecond, disk.Limits.ReadBytes.Burst));
        Assert.Equal(DiskBus.Scsi, disk.Bus);
    }

    [Fact]
    public void A_medium_is_raw_and_read_only()
    {
        DiskOption drive = DiskOption.ParseCdRom("medium,serial=7");
        Assert.Equal(("medium", "raw", true, true, DiskBus.Scsi), (drive.Path, drive.Format, drive.ReadOnly, drive.CdRom, drive.Bus));
        Assert.Contains("bus", Assert.Throws<FormatException>(() => DiskOption.ParseCdRom("a.iso,bus=nvme")).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a.img,fault=smoke", "smoke")]
    [InlineData("a.img,iops=0", "iops")]
    [InlineData("a.img,bps-max=1M", "bps")]
    [InlineData("disk", "format=")]
    [InlineData("disk.bin", "format=")]
    [InlineData("", "path")]
    [InlineData(",format=raw", "path")]
    [InlineData("a.img,format=fat", "'fat'")]
    [InlineData("a.img,readonly=maybe", "maybe")]
    [InlineData("a.img,serial=", "serial")]
    [InlineData("a.img,serial=123456789012345678901", "20")]
    [InlineData("a.img,cache=much", "'much'")]
    [InlineData("a.img,bus=isa", "'isa'")]
    [InlineData("a.img,blocksize=1024", "'1024'")]
    [InlineData("a.img,allow=", "allow")]
    [InlineData("a.img,colour=red", "'colour'")]
    public void What_is_wrong_is_named(string text, string part) =>
        Assert.Contains(part, Assert.Throws<FormatException>(() => DiskOption.Parse(text)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("/dev/sdb", "raw")]
    [InlineData("a.RAW", "raw")]
    [InlineData("a.iso", "raw")]
    public void Plain_names_tell_the_format(string path, string format) => Assert.Equal(format, DiskOption.Parse(path).Format);
}
