using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Machine.Boot;
using Xunit;
using static Lodge.Machine.Tests.BootImages;

namespace Lodge.Machine.Tests;

public class BootElfTests
{
    private const ulong Mib = 1 << 20;

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Pvh_entry_receives_start_info(bool is64)
    {
        using GuestMemory memory = new(64 * Mib);
        memory.TryWrite(0x20_0800, 0xDEADBEEFu); // bss must be cleared
        byte[] image = Elf(is64, note: true);
        BootEntry entry = KernelLoader.Load(memory, Options(image, "root=/dev/ram", ("initrd", [1, 2, 3, 4, 5])));
        Assert.Equal(KernelKind.ElfPvh, entry.Kind);
        Assert.Equal(0x20_0010UL, entry.EntryPoint);
        Assert.Equal(image.AsSpan(0x1000, 0x100).ToArray(), Bytes(memory, 0x20_0000, 0x100));
        Assert.Equal(0u, U32(memory, 0x20_0800));

        ProcessorState state = new();
        entry.Apply(state);
        Assert.Equal(0x11UL, state.Cr0);
        Assert.Equal(0UL, state.Cr4);
        Assert.Equal(0x67u, state.TaskRegister.Limit);

        ulong info = state.GeneralRegisters[3];
        Assert.Equal(0x336E_C578u, U32(memory, info));
        Assert.Equal(1u, U32(memory, info + 4));
        Assert.Equal(1u, U32(memory, info + 12));
        ulong modules = U64(memory, info + 16);
        Assert.Equal(5UL, U64(memory, modules + 8));
        Assert.Equal([1, 2, 3, 4, 5], Bytes(memory, U64(memory, modules), 5));
        Assert.Equal("root=/dev/ram", Text(memory, U64(memory, info + 24)));
        Assert.Equal(0xE_0000UL, U64(memory, info + 32));
        ulong map = U64(memory, info + 40);
        Assert.True(U32(memory, info + 48) >= 4);
        Assert.Equal(0x9FC00UL, U64(memory, map + 8));
        Assert.Equal(1u, U32(memory, map + 16));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Multiboot_elf_receives_the_information_structure(bool is64)
    {
        using GuestMemory memory = new(64 * Mib);
        byte[] image = Elf(is64, multiboot: true, virtualOffset: 0x4000_0000);
        BootEntry entry = KernelLoader.Load(memory, Options(image, "-x 1", ("mod one", [7, 8, 9]), ("two", new byte[5000])));
        Assert.Equal(KernelKind.Multiboot, entry.Kind);
        Assert.Equal(0x20_0020UL, entry.EntryPoint); // e_entry is virtual
        Assert.False(entry.LongMode);
        Assert.Equal(0x2BAD_B002UL, entry.Registers[0]);

        ulong info = entry.Registers[3];
        uint flags = U32(memory, info);
        Assert.Equal(0x24Du, flags);
        Assert.Equal(639u, U32(memory, info + 4));
        Assert.Equal(63u * 1024, U32(memory, info + 8));
        Assert.Equal("kernel -x 1", Text(memory, U32(memory, info + 16)));
        Assert.Equal(2u, U32(memory, info + 20));
        ulong modules = U32(memory, info + 24);
        ulong first = U32(memory, modules);
        ulong second = U32(memory, modules + 16);
        Assert.Equal(0UL, first % 4096);
        Assert.Equal(0UL, second % 4096);
        Assert.Equal(0x20_1000UL, first);
        Assert.Equal(first + 3, U32(memory, modules + 4));
        Assert.Equal([7, 8, 9], Bytes(memory, first, 3));
        Assert.Equal("mod one", Text(memory, U32(memory, modules + 8)));
        Assert.Equal("two", Text(memory, U32(memory, modules + 24)));
        Assert.Equal("Lodge", Text(memory, U32(memory, info + 64)));

        uint length = U32(memory, info + 44);
        ulong map = U32(memory, info + 48);
        Assert.Equal(0u, length % 24);
        Assert.Equal(20u, U32(memory, map));
        Assert.Equal(0UL, U64(memory, map + 4));
        Assert.Equal(0x9FC00UL, U64(memory, map + 12));
        Assert.Equal(1u, U32(memory, map + 20));
    }

    [Fact]
    public void Multiboot_address_fields_load_any_file()
    {
        using GuestMemory memory = new(64 * Mib);
        byte[] image = new byte[0x400];
        image[0x80] = 0x42;
        MultibootHeader(image, 0x100, 1 << 16);
        U32(image, 0x10C, 0x10_0090); // header_addr: load_addr corresponds to file offset 0x70
        U32(image, 0x110, 0x10_0000);
        U32(image, 0x114, 0x10_0200);
        U32(image, 0x118, 0x10_0400);
        U32(image, 0x11C, 0x10_0010);
        memory.TryWrite(0x10_03F0, 0xFFFF_FFFFu);
        BootEntry entry = KernelLoader.Load(memory, Options(image));
        Assert.Equal(0x10_0010UL, entry.EntryPoint);
        Assert.Equal(0x42, Bytes(memory, 0x10_0010, 1)[0]);
        Assert.Equal(0u, U32(memory, 0x10_03F0));
    }

    [Fact]
    public void Information_moves_behind_the_modules_when_the_kernel_lies_in_low_memory()
    {
        using GuestMemory memory = new(64 * Mib);
        byte[] image = Elf(false, address: 0x8000, memorySize: 0x4000, multiboot: true);
        BootEntry entry = KernelLoader.Load(memory, Options(image, "", ("m", [1])));
        Assert.True(entry.Registers[3] > 0x10_0000);
        Assert.Equal((byte)0x41, Bytes(memory, 0x8041, 1)[0]);
    }

    [Theory]
    [InlineData(0x8u, "0x00000008")]
    [InlineData(0x10000u, "does not match")]
    public void Bad_multiboot_headers_are_refused(uint flags, string message)
    {
        using GuestMemory memory = new(64 * Mib);
        byte[] image = new byte[0x400];
        MultibootHeader(image, 0, flags);
        U32(image, 16, 0xFFFF_FFFF);
        Assert.Contains(message, Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(image))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Elf_without_a_pvh_note_or_beyond_ram_is_refused()
    {
        using GuestMemory memory = new(64 * Mib);
        Assert.Contains("PVH", Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(Elf(true)))).Message, StringComparison.Ordinal);
        Assert.Contains("0x3FFFFFF", Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(Elf(true, address: 0x3FF_FFFF, note: true)))).Message, StringComparison.Ordinal);
        Assert.Contains("--memory", Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(Elf(true, address: 0x9_F000, memorySize: 0xF000_0000, note: true)))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Other_files_are_refused_with_their_first_bytes()
    {
        BootException e = Assert.Throws<BootException>(() => KernelLoader.Detect(BootSource.FromBytes("notes.txt", "hello world"u8.ToArray())));
        Assert.Contains("notes.txt", e.Message, StringComparison.Ordinal);
        Assert.Contains("68656C6C", e.Message, StringComparison.Ordinal);
        Assert.Contains("does not exist", Assert.Throws<BootException>(() => BootSource.FromFile("/nonexistent/kernel")).Message, StringComparison.Ordinal);
        Assert.Contains("directory", Assert.Throws<BootException>(() => BootSource.FromFile("/tmp")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Multiboot_initrd_specification_has_arguments_and_escaped_commas()
    {
        string path = Path.Combine(Path.GetTempPath(), $"lodge-{Environment.ProcessId},mod");
        File.WriteAllBytes(path, [1, 2]);
        try
        {
            IReadOnlyList<BootModule> modules = BootModule.ParseMultiboot($"{path.Replace(",", ",,", StringComparison.Ordinal)} a=1,/dev/null b");
            Assert.Equal([$"{path} a=1", "/dev/null b"], modules.Select(m => m.CommandLine));
            Assert.Equal([2L, 0L], modules.Select(m => m.Source.Length));
        }
        finally
        {
            File.Delete(path);
        }
        Assert.Throws<BootException>(() => BootModule.ParseMultiboot("a,,b,"));
    }

    [Fact]
    public void Debian_kernel_loads_when_one_is_there()
    {
        string? path = Directory.Exists("/boot") ? Directory.EnumerateFiles("/boot", "vmlinuz-*").FirstOrDefault() : null;
        path ??= Environment.GetEnvironmentVariable("LODGE_TEST_KERNEL");
        Assert.SkipWhen(path is null, "no kernel in /boot and LODGE_TEST_KERNEL not set");
        using GuestMemory memory = new(256 * Mib);
        BootEntry entry = KernelLoader.Load(memory, new BootOptions(BootSource.FromFile(path!), [], "quiet", 0));
        Assert.Equal(KernelKind.LinuxBzImage, entry.Kind);
        Assert.True(entry.LongMode);
        Assert.Equal(0x100_0200UL, entry.EntryPoint);
    }
}
