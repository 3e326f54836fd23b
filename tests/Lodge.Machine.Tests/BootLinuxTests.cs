using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Machine.Boot;
using Xunit;
using static Lodge.Machine.Tests.BootImages;

namespace Lodge.Machine.Tests;

public class BootLinuxTests
{
    private const ulong Mib = 1 << 20;

    [Fact]
    public void Bz_image_is_entered_in_long_mode_behind_its_preferred_address()
    {
        using GuestMemory memory = new(64 * Mib);
        byte[] image = BzImage();
        BootEntry entry = KernelLoader.Load(memory, Options(image, "console=ttyS0 quiet"));

        Assert.Equal(KernelKind.LinuxBzImage, entry.Kind);
        Assert.Equal(0x100_0200UL, entry.EntryPoint);
        Assert.Equal(image.AsSpan(5 * 512).ToArray(), Bytes(memory, 0x100_0000, 4096));

        ProcessorState state = new();
        entry.Apply(state);
        Assert.Equal(0x500UL, state.ModelSpecificRegisters[0xC000_0080]);
        Assert.Equal(0x8000_0011UL, state.Cr0);
        Assert.Equal(0xA09Bu, state.Segments[1].Attributes);
        Assert.Equal(BootEntry.CodeSelector, state.Segments[1].Selector);
        Assert.Equal(BootEntry.DataSelector, state.Segments[3].Selector);
        Assert.Equal(0x00AF_9B00_0000_FFFFUL, U64(memory, state.GlobalDescriptorTable.Base + BootEntry.CodeSelector));

        ulong zeroPage = state.GeneralRegisters[6];
        Assert.Equal("HdrS"u8.ToArray(), Bytes(memory, zeroPage + 0x202, 4));
        Assert.Equal(0xE_0000UL, U64(memory, zeroPage + 0x070));
        Assert.Equal("console=ttyS0 quiet", Text(memory, U32(memory, zeroPage + 0x228)));
        Assert.Equal(0u, U32(memory, zeroPage + 0x218));
        Assert.Equal(0xFF, Bytes(memory, zeroPage + 0x210, 1)[0]);
    }

    [Fact]
    public void Page_tables_map_four_gigabytes_to_themselves()
    {
        using GuestMemory memory = new(64 * Mib);
        BootEntry entry = KernelLoader.Load(memory, Options(BzImage()));
        foreach (ulong address in new ulong[] { 0, 0x2000, 0x100_0200, 0xFEE0_0000 })
        {
            ulong pdpt = U64(memory, entry.PageTable + ((address >> 39) * 8));
            ulong pd = U64(memory, (pdpt & ~0xFFFUL) + ((address >> 30) * 8));
            ulong page = U64(memory, (pd & ~0xFFFUL) + (((address >> 21) & 511) * 8));
            Assert.Equal(0x83UL, page & 0xFFF);
            Assert.Equal(address & ~0x1F_FFFFUL, page & ~0xFFFUL);
        }
    }

    [Fact]
    public void Memory_map_leaves_out_the_legacy_area_and_reserves_ecam()
    {
        using GuestMemory memory = new(5UL << 30);
        ulong zeroPage = KernelLoader.Load(memory, Options(BzImage())).Registers[6];
        int count = Bytes(memory, zeroPage + 0x1E8, 1)[0];
        List<(ulong, ulong, uint)> map = [];
        for (int i = 0; i < count; i++)
        {
            ulong at = zeroPage + 0x2D0 + ((ulong)i * 20);
            map.Add((U64(memory, at), U64(memory, at + 8), U32(memory, at + 16)));
        }
        Assert.Equal(
            [
                (0UL, 0x9FC00UL, 1u), (0x9FC00, 0x400, 2), (0xE0000, 0x20000, 2), (0x100000, 0xBFF0_0000, 1),
                (0xE000_0000, 0x1000_0000, 2), (0xFEC0_0000, 0x1000, 2), (0xFED0_0000, 0x400, 2), (0xFEE0_0000, 0x1000, 2),
                (0x1_0000_0000, 0x8000_0000, 1),
            ],
            map);
    }

    [Fact]
    public void Initrd_pieces_are_joined_on_four_byte_boundaries_under_the_limit()
    {
        using GuestMemory memory = new(64 * Mib);
        ulong zeroPage = KernelLoader.Load(memory, Options(BzImage(initrdMax: 0x2FF_FFFF), "", ("a", [1, 2, 3]), ("b", [9]))).Registers[6];
        uint address = U32(memory, zeroPage + 0x218);
        Assert.Equal(5u, U32(memory, zeroPage + 0x21C));
        Assert.Equal(0x2FF_F000u, address);
        Assert.Equal([1, 2, 3, 0, 9], Bytes(memory, address, 5));
    }

    [Fact]
    public void A_kernel_without_a_64_bit_entry_is_entered_in_protected_mode()
    {
        using GuestMemory memory = new(64 * Mib);
        BootEntry entry = KernelLoader.Load(memory, Options(BzImage(xloadflags: 0)));
        Assert.False(entry.LongMode);
        Assert.Equal(0x100_0000UL, entry.EntryPoint);
        ProcessorState state = new();
        entry.Apply(state);
        Assert.Equal(0x11UL, state.Cr0);
        Assert.Equal(0xC09Bu, state.Segments[1].Attributes);
    }

    [Fact]
    public void A_relocatable_kernel_moves_down_when_its_preferred_address_is_beyond_ram()
    {
        using GuestMemory memory = new(64 * Mib);
        Assert.Equal(0x20_0200UL, KernelLoader.Load(memory, Options(BzImage(prefAddress: 0x1000_0000))).EntryPoint);
    }

    [Theory]
    [InlineData(0x205, 1, 0x100_0000UL, 0x1000u, true, "2.05")]
    [InlineData(0x20F, 1, 0x1000_0000UL, 0x1000u, false, "0x10000000")]
    [InlineData(0x20F, 1, ulong.MaxValue, 0x1000u, false, "0xFFFFFFFFFFFFFFFF")]
    [InlineData(0x20F, 1, 0x100_0000UL, 0xFFFF_FFFFu, true, "0xFFFFFFFF")]
    public void Impossible_headers_are_refused_with_the_value(int version, byte xlf, ulong pref, uint initSize, bool relocatable, string value)
    {
        using GuestMemory memory = new(64 * Mib);
        BootException e = Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(BzImage((ushort)version, xlf, pref, initSize, relocatable: relocatable))));
        Assert.Contains(value, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void Too_long_command_lines_and_too_large_initrds_are_refused()
    {
        using GuestMemory memory = new(64 * Mib);
        Assert.Contains("2048", Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(BzImage(), new string('x', 2048)))).Message, StringComparison.Ordinal);
        Assert.Throws<BootException>(() => KernelLoader.Load(memory, Options(BzImage(), "", ("big", new byte[60 * Mib]))));
    }

    [Fact]
    public void Truncated_images_never_escape_as_other_errors()
    {
        using GuestMemory memory = new(64 * Mib);
        foreach (byte[] image in new[] { BzImage(), Elf(true, note: true), Elf(false, note: true), Elf(true, multiboot: true), Elf(false, multiboot: true) })
        {
            for (int length = 0; length < image.Length; length += 13)
            {
                try
                {
                    KernelLoader.Load(memory, Options(image[..length]));
                }
                catch (BootException)
                {
                }
            }
        }
    }

    [Fact]
    public void Damaged_images_never_escape_as_other_errors()
    {
        using GuestMemory memory = new(64 * Mib);
        Random random = new(12345);
        foreach (byte[] image in new[] { BzImage(), Elf(true, note: true), Elf(false, note: true), Elf(true, multiboot: true), Elf(false, multiboot: true) })
        {
            for (int round = 0; round < 3000; round++)
            {
                byte[] damaged = (byte[])image.Clone();
                for (int i = 0; i < 3; i++)
                {
                    int at = random.Next(3) switch { 0 => random.Next(128), 1 => 0x1F0 + random.Next(0x80), _ => random.Next(damaged.Length) };
                    damaged[at] = random.Next(2) == 0 ? (byte)0xFF : (byte)random.Next(256);
                }
                try
                {
                    KernelLoader.Load(memory, Options(damaged));
                }
                catch (BootException)
                {
                }
            }
        }
    }
}
