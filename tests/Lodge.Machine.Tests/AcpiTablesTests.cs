using System.Diagnostics;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Machine.Acpi;
using Lodge.Machine.Devices.Serial.Uart16550;
using Xunit;

namespace Lodge.Machine.Tests;

public class AcpiTablesTests
{
    private static AcpiConfiguration Configuration(int processors, int maximum = 0) => new()
    {
        ProcessorCount = processors,
        MaximumProcessorCount = maximum,
        HotPlugSlots = [.. Enumerable.Range(3, 28)],
        SerialPorts = [Uart16550Configuration.Standard[0], Uart16550Configuration.Standard[3]],
        HighWindowBase = 0x1_4000_0000,
        HighWindowLength = 64UL << 30,
    };

    private static Dictionary<string, byte[]> Tables(int processors, int maximum = 0) =>
        AcpiTables.Build(Configuration(processors, maximum)).ToDictionary(table => Encoding.ASCII.GetString(table.Bytes, 0, 4), table => table.Bytes);

    private static byte Sum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte value in bytes)
        {
            sum += value;
        }
        return sum;
    }

    [Theory]
    [InlineData(1)]
    [InlineData(255)]
    public void Tables_are_linked_and_sum_to_zero(int processors)
    {
        using var memory = new GuestMemory(32UL << 20);
        AcpiTables.Write(memory, Configuration(processors, processors));
        byte[] Get(ulong address, int length)
        {
            byte[] bytes = new byte[length];
            Assert.True(memory.TryRead(address, bytes));
            return bytes;
        }
        byte[] Table(ulong address, string signature)
        {
            byte[] table = Get(address, BitConverter.ToInt32(Get(address + 4, 4)));
            Assert.Equal(signature, Encoding.ASCII.GetString(table, 0, 4));
            if (signature != "FACS")
            {
                Assert.Equal(0, Sum(table));
            }
            return table;
        }
        byte[] root = Get(MemoryMap.RootPointer, 36);
        Assert.Equal("RSD PTR ", Encoding.ASCII.GetString(root, 0, 8));
        Assert.Equal(0, Sum(root.AsSpan(0, 20)));
        Assert.Equal(0, Sum(root));
        byte[] xsdt = Table(BitConverter.ToUInt64(root, 24), "XSDT");
        Assert.Equal(36 + (4 * 8), xsdt.Length);
        byte[] fadt = Table(BitConverter.ToUInt64(xsdt, 36), "FACP");
        Assert.Equal(276, fadt.Length);
        uint facs = BitConverter.ToUInt32(fadt, 36);
        Assert.Equal(0u, facs % 64);
        Table(facs, "FACS");
        Assert.Equal(BitConverter.ToUInt32(fadt, 40), BitConverter.ToUInt64(fadt, 140));
        Table(BitConverter.ToUInt64(fadt, 140), "DSDT");
        Assert.Equal(0xCF9UL, BitConverter.ToUInt64(fadt, 120));
        Assert.Equal(0x608UL, BitConverter.ToUInt64(fadt, 212));
        Table(BitConverter.ToUInt64(xsdt, 44), "APIC");
        Table(BitConverter.ToUInt64(xsdt, 52), "MCFG");
        Table(BitConverter.ToUInt64(xsdt, 60), "HPET");
    }

    [Fact]
    public void Processors_above_254_are_x2apics()
    {
        var ids = new List<uint>();
        byte[] madt = Tables(300)["APIC"];
        for (int at = 44; at < madt.Length; at += madt[at + 1])
        {
            Assert.True(madt[at + 1] > 0);
            if (madt[at] == 0)
            {
                ids.Add(madt[at + 3]);
            }
            else if (madt[at] == 9)
            {
                ids.Add(BitConverter.ToUInt32(madt, at + 4));
            }
        }
        Assert.Equal(Enumerable.Range(0, 300).Select(id => (uint)id), ids);
    }

    [Fact]
    public void Processors_that_can_come_are_online_capable()
    {
        byte[] madt = AcpiTables.Build(Configuration(2, 4) with { PresentProcessors = new HashSet<int> { 0, 2 } })
            .Single(table => Encoding.ASCII.GetString(table.Bytes, 0, 4) == "APIC").Bytes;
        var flags = new List<(int Id, uint Flags)>();
        for (int at = 44; at < madt.Length; at += madt[at + 1])
        {
            if (madt[at] == 0)
            {
                flags.Add((madt[at + 3], BitConverter.ToUInt32(madt, at + 4)));
            }
        }
        Assert.Equal([(0, 1u), (1, 2u), (2, 1u), (3, 2u)], flags);
    }

    [Fact]
    public void Package_lengths_are_encoded_at_every_size()
    {
        Assert.Equal([0x10, 0x06, 0x5C, (byte)'_', (byte)'S', (byte)'B', (byte)'_'], Aml.Scope("\\_SB"));
        byte[] large = Aml.Buffer(new byte[5000]);
        int length = (large[1] & 15) | (large[2] << 4) | (large[3] << 12);
        Assert.Equal(2, large[1] >> 6);
        Assert.Equal(large.Length - 1, length);
        Assert.Equal([0x0C, 0x41, 0xD0, 0x0A, 0x08], Aml.EisaId("PNP0A08"));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(6)]
    public void Disassembled_tables_compile_again_without_a_remark(int maximum)
    {
        string? iasl = Environment.GetEnvironmentVariable("PATH")?.Split(':').Select(folder => Path.Combine(folder, "iasl")).FirstOrDefault(File.Exists);
        if (iasl is null)
        {
            Assert.Skip("iasl (package acpica-tools) is not installed");
        }
        string folder = Directory.CreateTempSubdirectory("lodge-acpi-").FullName;
        try
        {
            foreach ((string signature, byte[] table) in Tables(4, maximum))
            {
                if (signature == "RSD ")
                {
                    continue;
                }
                string file = Path.Combine(folder, signature + ".aml");
                File.WriteAllBytes(file, table);
                string said = Run(iasl, folder, "-d", file);
                string text = File.ReadAllText(Path.Combine(folder, signature + ".dsl"));
                Assert.DoesNotContain("Error", said, StringComparison.Ordinal);
                Assert.DoesNotContain("Warning", said, StringComparison.Ordinal);
                Assert.DoesNotContain("Invalid", text, StringComparison.OrdinalIgnoreCase);
                Assert.DoesNotContain("Incorrect", text, StringComparison.OrdinalIgnoreCase);
                if (signature == "DSDT")
                {
                    said = Run(iasl, folder, "-p", Path.Combine(folder, "again"), Path.Combine(folder, "DSDT.dsl"));
                    Assert.Contains("0 Errors, 0 Warnings, 0 Remarks", said, StringComparison.Ordinal);
                }
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void Smbios_structures_can_be_walked_to_their_end()
    {
        using var memory = new GuestMemory(32UL << 20);
        ManagementTables.Write(memory, 4, ["one", "two"]);
        byte[] entry = new byte[24];
        memory.TryRead(0xF_0000, entry);
        Assert.Equal("_SM3_", Encoding.ASCII.GetString(entry, 0, 5));
        Assert.Equal(0, Sum(entry));
        byte[] old = new byte[31];
        memory.TryRead(0xF_0020, old);
        Assert.Equal("_SM_", Encoding.ASCII.GetString(old, 0, 4));
        Assert.Equal(0, Sum(old));
        Assert.Equal(0, Sum(old.AsSpan(16)));
        byte[] table = new byte[BitConverter.ToInt32(entry, 12)];
        memory.TryRead(BitConverter.ToUInt64(entry, 16), table);
        var lengths = new Dictionary<byte, byte>();
        int at = 0;
        while (at < table.Length)
        {
            lengths[table[at]] = table[at + 1];
            at += table[at + 1];
            while (table[at] != 0 || table[at + 1] != 0)
            {
                at++;
            }
            at += 2;
        }
        Assert.Equal(table.Length, at);
        Assert.Equal(new Dictionary<byte, byte> { [0] = 0x18, [1] = 0x1B, [3] = 0x16, [4] = 0x30, [11] = 5, [16] = 0x17, [17] = 0x28, [19] = 0x1F, [127] = 4 }, lengths);
    }

    [Fact]
    public void Memory_map_leaves_no_overlap_and_covers_all_ram()
    {
        using var memory = new GuestMemory(5UL << 30);
        IReadOnlyList<MemoryRange> map = MemoryMap.Describe(memory);
        for (int i = 1; i < map.Count; i++)
        {
            Assert.True(map[i - 1].Address + map[i - 1].Length <= map[i].Address);
        }
        ulong usable = 0;
        foreach (MemoryRange range in map)
        {
            usable += range.Type == MemoryRangeType.Usable ? range.Length : 0;
        }
        Assert.Equal((5UL << 30) - MemoryMap.ExtendedMemoryBase + MemoryMap.ConventionalMemoryEnd, usable);
        Assert.Equal(0x1_8000_0000UL, MemoryMap.HighWindowBase(memory));
    }

    private static string Run(string program, string folder, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { WorkingDirectory = folder, RedirectStandardError = true, RedirectStandardOutput = true })!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return output + error.Result;
    }
}
