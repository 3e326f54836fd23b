using System.Buffers.Binary;
using System.Text;
using Lodge.Cli.DefaultSystem;
using Xunit;

namespace Lodge.Cli.Tests;

public sealed class DefaultSystemTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("lodge-test-").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    private static string Make(string directory, string kernel)
    {
        File.WriteAllText(Path.Combine(directory, "vmlinuz"), kernel);
        File.WriteAllText(Path.Combine(directory, "initramfs.cpio"), "cpio");
        return "1.0_a";
    }

    [Fact]
    public void A_system_is_made_once()
    {
        SystemCache cache = new(Path.Combine(_directory, "c"));
        int made = 0;
        string Count(string d)
        {
            made++;
            return Make(d, $"kernel {made}");
        }
        SystemFiles first = cache.Get(Count);
        SystemFiles second = cache.Get(Count);
        Assert.Equal(first, second);
        Assert.Equal("kernel 1", File.ReadAllText(second.Kernel));
        Assert.Equal(1, made);
    }

    [Theory]
    [InlineData("vmlinuz", "damaged!")]
    [InlineData("initramfs.cpio", "")]
    [InlineData("manifest", "x")]
    public void Damage_is_found_and_the_system_made_again(string file, string contents)
    {
        SystemCache cache = new(_directory);
        SystemFiles first = cache.Get(d => Make(d, "kernel A"));
        File.WriteAllText(Path.Combine(Path.GetDirectoryName(first.Kernel)!, file), contents);
        SystemFiles again = cache.Get(d => Make(d, "kernel B"));
        Assert.Equal("kernel B", File.ReadAllText(again.Kernel));
    }

    [Fact]
    public void A_failure_leaves_nothing_behind()
    {
        SystemCache cache = new(_directory);
        Assert.Throws<LodgeException>(() => cache.Get(d =>
        {
            Make(d, "half");
            throw new LodgeException("no network");
        }));
        Assert.Empty(Directory.EnumerateDirectories(_directory));
        Assert.Equal("whole", File.ReadAllText(cache.Get(d => Make(d, "whole")).Kernel));
    }

    [Fact]
    public void Concurrent_users_make_one_system()
    {
        int made = 0;
        SystemFiles[] all = new SystemFiles[4];
        Thread[] threads = [.. Enumerable.Range(0, 4).Select(i => new Thread(() => all[i] = new SystemCache(_directory).Get(d =>
        {
            Interlocked.Increment(ref made);
            return Make(d, "k");
        })))];
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        Assert.Equal(1, made);
        Assert.All(all, f => Assert.Equal(all[0], f));
    }

    [Fact]
    public void Package_descriptions_give_first_alternatives()
    {
        DebianPackage? package = DebianPackage.Parse("""
            Package: linux-image-cloud-amd64
            Version: 6.1.1-2
            Depends: linux-image-6.1-cloud-amd64 (= 6.1.1-2), kmod | other, linux-base (>= 4.3~), libc6:any
            Description: text
             Depends: not this
            Size: 1504

            Package: second
            Version: 2
            """);
        Assert.NotNull(package);
        Assert.Equal(("linux-image-cloud-amd64", "6.1.1-2", 1504L), (package.Name, package.Version, package.Size));
        Assert.Equal(["linux-image-6.1-cloud-amd64", "kmod", "linux-base", "libc6"], package.Depends);
        Assert.Null(DebianPackage.Parse("N: Unable to locate package x\n"));
    }

    [Fact]
    public void Modules_are_ordered_behind_what_they_need()
    {
        Dictionary<string, KernelModule> modules = new[]
        {
            KernelModule.Parse("virtio-rng", Module("license=GPL", "depends=virtio,virtio-ring")),
            KernelModule.Parse("virtio", Module("depends=virtio_ring")),
            KernelModule.Parse("virtio_ring", Module("depends=")),
        }.ToDictionary(m => m.Name);
        Assert.Equal(["virtio_ring", "virtio", "virtio_rng"], KernelModule.Order(modules, ["virtio_rng", "not_there"]).Select(m => m.Name));
        Assert.Throws<LodgeException>(() => KernelModule.Parse("x", new byte[70]));
        byte[] damaged = Module("depends=a");
        BinaryPrimitives.WriteUInt64LittleEndian(damaged.AsSpan(40), 0xFFFF_FFFF_FFFF);
        Assert.Throws<LodgeException>(() => KernelModule.Parse("x", damaged));
    }

    [Fact]
    public void The_real_system_is_made_from_packages()
    {
        Assert.SkipUnless(HostProgram.Exists("apt-get") && HostProgram.Exists("dpkg-deb"), "no apt on this host");
        SystemFiles files;
        try
        {
            files = new SystemCache(_directory).Get(DebianSystem.Make);
        }
        catch (LodgeException e) when (e.Message.Contains("network", StringComparison.Ordinal))
        {
            Assert.Skip(e.Message);
            return;
        }
        byte[] kernel = File.ReadAllBytes(files.Kernel);
        Assert.Equal("HdrS"u8.ToArray(), kernel.AsSpan(0x202, 4).ToArray());
        string archive = Encoding.Latin1.GetString(File.ReadAllBytes(files.Initramfs));
        foreach (string part in (ReadOnlySpan<string>)["bin/busybox\0", "lodge/main\0", "virtio_console.ko\0", "virtio_pci.ko\0", "virtio_pci.ko: virtio.ko"])
        {
            Assert.Contains(part, archive, StringComparison.Ordinal);
        }
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries(_directory, "*", SearchOption.AllDirectories), p => p.EndsWith(".deb", StringComparison.Ordinal));
    }

    /// <summary>An ELF64 file with a .modinfo section.</summary>
    private static byte[] Module(params string[] info)
    {
        byte[] names = Encoding.ASCII.GetBytes("\0.modinfo\0.shstrtab\0");
        byte[] data = Encoding.ASCII.GetBytes(string.Concat(info.Select(i => i + "\0")));
        byte[] elf = new byte[64 + names.Length + data.Length + (3 * 64)];
        elf[0] = 0x7F;
        "ELF"u8.CopyTo(elf.AsSpan(1));
        int table = 64 + names.Length + data.Length;
        names.CopyTo(elf, 64);
        data.CopyTo(elf, 64 + names.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(elf.AsSpan(40), (ulong)table);
        BinaryPrimitives.WriteUInt16LittleEndian(elf.AsSpan(58), 64);
        BinaryPrimitives.WriteUInt16LittleEndian(elf.AsSpan(60), 3);
        BinaryPrimitives.WriteUInt16LittleEndian(elf.AsSpan(62), 2);
        Section(1, 1, 64 + names.Length, data.Length);
        Section(2, 10, 64, names.Length);
        return elf;

        void Section(int index, uint name, int offset, int size)
        {
            Span<byte> row = elf.AsSpan(table + (index * 64));
            BinaryPrimitives.WriteUInt32LittleEndian(row, name);
            BinaryPrimitives.WriteUInt64LittleEndian(row[24..], (ulong)offset);
            BinaryPrimitives.WriteUInt64LittleEndian(row[32..], (ulong)size);
        }
    }
}
