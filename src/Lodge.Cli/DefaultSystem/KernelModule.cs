using System.Buffers.Binary;
using System.Text;

namespace Lodge.Cli.DefaultSystem;

/// <summary>A kernel module: its name and what it depends on, from its <c>.modinfo</c> section.</summary>
internal sealed record KernelModule(string Name, byte[] Contents, IReadOnlyList<string> Dependencies)
{
    /// <summary>The name as the kernel has it: dashes are underscores.</summary>
    public static string Normalize(string name) => name.Replace('-', '_');

    /// <summary>Reads an uncompressed module (ELF64).</summary>
    /// <exception cref="LodgeException">It is no module.</exception>
    public static KernelModule Parse(string name, byte[] contents)
    {
        try
        {
            ReadOnlySpan<byte> info = Section(contents, ".modinfo"u8);
            string[] dependencies = [];
            foreach (string pair in Encoding.UTF8.GetString(info).Split('\0', StringSplitOptions.RemoveEmptyEntries))
            {
                if (pair.StartsWith("depends=", StringComparison.Ordinal))
                {
                    dependencies = [.. pair["depends=".Length..].Split(',', StringSplitOptions.RemoveEmptyEntries).Select(Normalize)];
                }
            }
            return new KernelModule(Normalize(name), contents, dependencies);
        }
        catch (Exception e) when (e is ArgumentException or OverflowException or IndexOutOfRangeException)
        {
            throw new LodgeException($"kernel module '{name}' is damaged; remove the cache directory and try again");
        }
    }

    /// <summary>Names of modules in an order in which each comes after what it needs.</summary>
    public static IReadOnlyList<KernelModule> Order(IReadOnlyDictionary<string, KernelModule> modules, IEnumerable<string> wanted)
    {
        List<KernelModule> ordered = [];
        HashSet<string> seen = [];
        foreach (string name in wanted)
        {
            Visit(name);
        }
        return ordered;

        void Visit(string name)
        {
            if (modules.TryGetValue(name, out KernelModule? module) && seen.Add(name))
            {
                foreach (string dependency in module.Dependencies)
                {
                    Visit(dependency);
                }
                ordered.Add(module);
            }
        }
    }

    private static ReadOnlySpan<byte> Section(ReadOnlySpan<byte> elf, ReadOnlySpan<byte> wanted)
    {
        if (elf.Length < 64 || elf[0] != 0x7F || !elf[1..4].SequenceEqual("ELF"u8))
        {
            throw new ArgumentException("not an ELF file");
        }
        int table = checked((int)BinaryPrimitives.ReadUInt64LittleEndian(elf[40..]));
        int size = BinaryPrimitives.ReadUInt16LittleEndian(elf[58..]);
        int count = BinaryPrimitives.ReadUInt16LittleEndian(elf[60..]);
        int names = BinaryPrimitives.ReadUInt16LittleEndian(elf[62..]);
        ReadOnlySpan<byte> strings = SectionBytes(elf, table + (names * size));
        for (int i = 0; i < count; i++)
        {
            int header = table + (i * size);
            ReadOnlySpan<byte> name = strings[(int)BinaryPrimitives.ReadUInt32LittleEndian(elf[header..])..];
            if (name.StartsWith(wanted) && name[wanted.Length] == 0)
            {
                return SectionBytes(elf, header);
            }
        }
        return [];
    }

    private static ReadOnlySpan<byte> SectionBytes(ReadOnlySpan<byte> elf, int header) =>
        elf.Slice(checked((int)BinaryPrimitives.ReadUInt64LittleEndian(elf[(header + 24)..])), checked((int)BinaryPrimitives.ReadUInt64LittleEndian(elf[(header + 32)..])));
}
