using System.Formats.Tar;
using System.Security.Cryptography;
using System.Text;
using System.Xml.Linq;
using Lodge.Storage.Disks;
using Lodge.Storage.Operations;
using Lodge.Storage.Ovf;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Ovf;

/// <summary>OVA archives and OVF packages: round trips, and hostile ones.</summary>
public class OvfPackageTests
{
    private static readonly XNamespace Envelope = "http://schemas.dmtf.org/ovf/envelope/1";

    [Theory]
    [InlineData(OvfBus.Sata)]
    [InlineData(OvfBus.Scsi)]
    [InlineData(OvfBus.Ide)]
    public async Task What_is_exported_is_imported(OvfBus bus)
    {
        using var folder = new TemporaryFolder();
        SparseDisk[] disks = [SparseDisk.Random(new Random(1), 5_000_192), SparseDisk.Random(new Random(2), 3_000_320), new SparseDisk(1 << 20)];
        await OvaExport.RunAsync(disks, folder["machine.ova"], new OvfMachine("A <machine> & more", 3, 768L << 20, bus), new DiskCopyOptions());
        Assert.Equal(["machine.ova"], Directory.GetFileSystemEntries(folder.Path).Select(Path.GetFileName));

        await using var package = await OvfPackage.OpenAsync(folder["machine.ova"]);
        Assert.True(package.HasManifest);
        await package.VerifyAsync();
        Assert.Equal("A <machine> & more", package.Descriptor.Name);
        Assert.Equal(3, package.Descriptor.Processors);
        Assert.Equal(768L << 20, package.Descriptor.Memory);
        Assert.Equal(disks.Length, package.Descriptor.Disks.Count);
        for (var index = 0; index < disks.Length; index++)
        {
            await using var disk = await package.OpenDiskAsync(package.Descriptor.Disks[index]);
            Assert.Equal(disks[index].Length, package.Descriptor.Disks[index].Capacity);
            Assert.Equal(disks[index].Length, disk.Length);
            var bytes = await disk.ReadBytesAsync(0, (int)disk.Length);
            Assert.True(bytes.AsSpan().SequenceEqual(disks[index].Content), $"disk {index} differs");
        }
    }

    [Fact]
    public async Task An_archive_is_what_other_products_expect()
    {
        QemuImg.Require();
        QemuImg.RequireProgram("tar", "tar");
        using var folder = new TemporaryFolder();
        var source = SparseDisk.Random(new Random(3), 4_000_256);
        File.WriteAllBytes(folder["raw"], source.Content);
        await OvaExport.RunAsync([source], folder["machine.ova"], new OvfMachine("machine", 2, 1 << 30), new DiskCopyOptions());
        var (status, names) = QemuImg.RunProgram("tar", "-C", folder.Path, "-xvf", folder["machine.ova"]);
        Assert.Equal(0, status);

        // The descriptor is first (DSP0243, "Distribution"), then the manifest, then the files as they are referred to.
        Assert.Equal("machine.ovf\nmachine.mf\nmachine-disk1.vmdk\n", names);
        QemuImg.Run("compare", "-f", "vmdk", "-F", "raw", folder["machine-disk1.vmdk"], folder["raw"]);
        QemuImg.Run("check", "-f", "vmdk", folder["machine-disk1.vmdk"]);
        Assert.Contains("streamOptimized", QemuImg.Run("info", "-f", "vmdk", folder["machine-disk1.vmdk"]), StringComparison.Ordinal);
        foreach (var line in File.ReadAllLines(folder["machine.mf"]))
        {
            var (name, digits) = (line[(line.IndexOf('(') + 1)..line.IndexOf(')')], line[(line.IndexOf('=') + 2)..]);
            Assert.Equal(Convert.ToHexStringLower(SHA256.HashData(File.ReadAllBytes(folder[name]))), digits);
        }

        var root = XDocument.Load(folder["machine.ovf"]).Root!;
        Assert.Equal(Envelope + "Envelope", root.Name);
        Assert.Equal(["References", "DiskSection", "NetworkSection", "VirtualSystem"], root.Elements().Select(element => element.Name.LocalName));
        Assert.Equal(new FileInfo(folder["machine-disk1.vmdk"]).Length, (long)root.Descendants(Envelope + "File").Single().Attribute(Envelope + "size")!);
        foreach (var item in root.Descendants(Envelope + "Item"))
        {
            var order = item.Elements().Select(element => element.Name.LocalName).ToList();
            Assert.Equal(order.Order(StringComparer.Ordinal), order);
        }

        // As a descriptor with its files beside it.
        await using var package = await OvfPackage.OpenAsync(folder["machine.ovf"]);
        await package.VerifyAsync();
        await using var disk = await package.OpenDiskAsync(package.Descriptor.Disks[0]);
        var bytes = await disk.ReadBytesAsync(0, (int)disk.Length);
        Assert.True(bytes.AsSpan().SequenceEqual(source.Content));

        // A changed file beside it.
        File.AppendAllText(folder["machine-disk1.vmdk"], "x");
        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(async () => await package.VerifyAsync())).Error);
    }

    [Fact]
    public async Task A_disk_of_qemu_img_is_imported()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var source = SparseDisk.Random(new Random(4), 4_000_256);
        File.WriteAllBytes(folder["raw"], source.Content);
        QemuImg.Run("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", folder["raw"], folder["d.vmdk"]);
        WriteArchive(folder["m.ova"], ("m.ovf", Descriptor("d.vmdk")), ("d.vmdk", File.ReadAllBytes(folder["d.vmdk"])), ("m.mf", Encoding.ASCII.GetBytes(
            $"SHA1(m.ovf)= {Convert.ToHexStringLower(SHA1.HashData(Descriptor("d.vmdk")))}\r\nSHA1(d.vmdk)= {Convert.ToHexString(SHA1.HashData(File.ReadAllBytes(folder["d.vmdk"])))}\r\n")));
        await using var package = await OvfPackage.OpenAsync(folder["m.ova"]);
        await package.VerifyAsync();
        await using var disk = await package.OpenDiskAsync(package.Descriptor.Disks[0]);
        var bytes = await disk.ReadBytesAsync(0, (int)disk.Length);
        Assert.True(bytes.AsSpan().SequenceEqual(source.Content));
    }

    [Fact]
    public async Task A_changed_archive_is_refused_wherever_it_was_changed()
    {
        using var folder = new TemporaryFolder();
        await OvaExport.RunAsync([SparseDisk.Random(new Random(5), 2_000_384)], folder["m.ova"], new OvfMachine("m", 1, 1 << 30), new DiskCopyOptions());
        var bytes = File.ReadAllBytes(folder["m.ova"]);
        var members = await ListAsync(folder["m.ova"]);
        foreach (var (name, start, length) in members)
        {
            for (var part = 0; part < 4; part++)
            {
                var changed = bytes.ToArray();
                changed[start + (length * part / 4)] ^= 4;
                File.WriteAllBytes(folder["changed.ova"], changed);
                var refused = await Assert.ThrowsAsync<DiskException>(async () =>
                {
                    await using var package = await OvfPackage.OpenAsync(folder["changed.ova"]);
                    await package.VerifyAsync();
                });
                Assert.True(refused.Error is DiskError.Corrupt or DiskError.Unsupported or DiskError.WrongFormat, $"{name}: {refused.Message}");
            }
        }
    }

    [Theory]
    [InlineData("../m.ovf")]
    [InlineData("/etc/m.ovf")]
    [InlineData("..")]
    [InlineData("a/b.vmdk")]
    [InlineData("a\\b.vmdk")]
    public async Task Names_that_lead_out_of_an_archive_are_refused(string name)
    {
        using var folder = new TemporaryFolder();
        WriteArchive(folder["m.ova"], ("m.ovf", Descriptor("d.vmdk")), (name, new byte[10]));
        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(async () => await OvfPackage.OpenAsync(folder["m.ova"]))).Error);
    }

    [Fact]
    public async Task Links_in_an_archive_are_refused()
    {
        using var folder = new TemporaryFolder();
        using (var writer = new TarWriter(File.Create(folder["m.ova"])))
        {
            writer.WriteEntry(new UstarTarEntry(TarEntryType.SymbolicLink, "d.vmdk") { LinkName = "/etc/passwd" });
        }

        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(async () => await OvfPackage.OpenAsync(folder["m.ova"]))).Error);
    }

    [Theory]
    [InlineData("../secret.img")]
    [InlineData("/etc/hostname")]
    [InlineData("link.img")]
    public async Task Files_beside_a_descriptor_lie_in_its_folder(string name)
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["package"]);
        File.WriteAllBytes(folder["secret.img"], new byte[512]);
        File.CreateSymbolicLink(folder["package/link.img"], folder["secret.img"]);
        File.WriteAllBytes(folder["package/m.ovf"], Descriptor(name, "raw"));
        await using var package = await OvfPackage.OpenAsync(folder["package/m.ovf"]);
        Assert.Equal(DiskError.Denied, (await Assert.ThrowsAsync<DiskException>(async () => await package.OpenDiskAsync(package.Descriptor.Disks[0]))).Error);
    }

    [Theory]
    [InlineData("<!DOCTYPE Envelope [<!ENTITY a \"aaaa\">]><Envelope>&a;</Envelope>")]
    [InlineData("<!DOCTYPE Envelope SYSTEM \"file:///etc/passwd\"><Envelope/>")]
    [InlineData("<Envelope>")]
    [InlineData("<html/>")]
    [InlineData("")]
    [InlineData("<Envelope><DiskSection><Disk diskId='a' fileRef='nowhere' capacity='1'/></DiskSection></Envelope>")]
    [InlineData("<Envelope><DiskSection><Disk diskId='a'/></DiskSection></Envelope>")]
    [InlineData("<Envelope><DiskSection><Disk diskId='a' capacity='9223372036854775807' capacityAllocationUnits='byte * 2^40'/></DiskSection></Envelope>")]
    [InlineData("<Envelope><File id='a' href='x'/><File id='a' href='y'/></Envelope>")]
    [InlineData("<Envelope><File id='a' href='x' compression='gzip'/><Disk diskId='d' fileRef='a' format='vmdk'/></Envelope>")]
    [InlineData("<Envelope><File id='a' href='x'/><Disk diskId='d' fileRef='a' parentRef='e' format='vmdk'/></Envelope>")]
    [InlineData("<Envelope><File id='a' href='x'/><Disk diskId='d' fileRef='a' format='http://example.org/iso'/></Envelope>")]
    public void Bad_descriptors_are_refused(string text) =>
        Assert.Throws<DiskException>(() => OvfDescriptor.Parse(Encoding.UTF8.GetBytes(text), "m.ovf"));

    [Fact]
    public void An_empty_disk_has_its_capacity()
    {
        var descriptor = OvfDescriptor.Parse("<Envelope><Disk diskId='a' capacity='3' capacityAllocationUnits='byte * 2^30'/></Envelope>"u8.ToArray(), "m.ovf");
        Assert.Equal(new OvfDisk("a", null, "raw", 3L << 30), descriptor.Disks.Single());
    }

    [Fact]
    public async Task Damaged_archives_end_in_an_error()
    {
        using var folder = new TemporaryFolder();
        await OvaExport.RunAsync([SparseDisk.Random(new Random(6), 300_032)], folder["m.ova"], new OvfMachine("m", 1, 1 << 30), new DiskCopyOptions());
        var valid = File.ReadAllBytes(folder["m.ova"]);
        var cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out var wanted) ? wanted : 400;
        for (var seed = 0; seed < cases; seed++)
        {
            var random = new Random(seed);
            var bytes = valid.ToArray();
            for (var times = random.Next(1, 5); times > 0; times--)
            {
                bytes[random.Next(random.Next(2) == 0 ? Math.Min(bytes.Length, 9000) : bytes.Length)] = (byte)random.Next(256);
            }

            File.WriteAllBytes(folder["bad.ova"], random.Next(4) == 0 ? bytes[..random.Next(bytes.Length)] : bytes);
            try
            {
                await using var package = await OvfPackage.OpenAsync(folder["bad.ova"]);
                await package.VerifyAsync();
            }
            catch (DiskException)
            {
                // As it should be.
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}: {e}");
            }
        }
    }

    private static byte[] Descriptor(string name, string format = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized") => Encoding.UTF8.GetBytes(
        $"<Envelope xmlns:ovf='{Envelope}' xmlns='{Envelope}'><References><File ovf:id='f' ovf:href='{name}'/></References><DiskSection><Info/><Disk ovf:diskId='d' ovf:capacity='1' ovf:fileRef='f' ovf:format='{format}'/></DiskSection></Envelope>");

    private static void WriteArchive(string path, params (string Name, byte[] Content)[] members)
    {
        using var writer = new TarWriter(File.Create(path), TarEntryFormat.Ustar);
        foreach (var (name, content) in members)
        {
            writer.WriteEntry(new UstarTarEntry(TarEntryType.RegularFile, name) { DataStream = new MemoryStream(content) });
        }
    }

    private static async Task<List<(string Name, int Start, int Length)>> ListAsync(string path)
    {
        List<(string, int, int)> members = [];
        await using var stream = File.OpenRead(path);
        await using var reader = new TarReader(stream);
        while (await reader.GetNextEntryAsync() is { } entry)
        {
            members.Add((entry.Name, (int)entry.DataOffset, (int)entry.Length));
        }

        return members;
    }
}
