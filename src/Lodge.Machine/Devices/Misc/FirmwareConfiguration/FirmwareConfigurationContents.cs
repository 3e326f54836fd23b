using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Devices.Misc.FirmwareConfiguration;

/// <summary>What fw_cfg offers: blobs by key, and named files with their directory. Filled before the machine starts.</summary>
public sealed class FirmwareConfigurationContents
{
    private const int NameLength = 56; // with its terminating zero
    private readonly Dictionary<ushort, ReadOnlyMemory<byte>> _items = [];
    private readonly SortedDictionary<string, ReadOnlyMemory<byte>> _files = new(StringComparer.Ordinal);

    /// <summary>The keys that describe a machine: signature, version, memory, processors, memory map.</summary>
    public static FirmwareConfigurationContents ForMachine(GuestMemory memory, int processorCount, int maximumProcessorCount = 0)
    {
        var contents = new FirmwareConfigurationContents();
        contents.Set(FirmwareConfigurationKey.Signature, "QEMU"u8.ToArray());
        contents.Set32(FirmwareConfigurationKey.Id, FirmwareConfigurationVersion.Traditional | FirmwareConfigurationVersion.Dma);
        contents.Set(FirmwareConfigurationKey.Uuid, new byte[16]);
        contents.Set64(FirmwareConfigurationKey.RamSize, memory.Size);
        contents.Set16(FirmwareConfigurationKey.NoGraphic, 1);
        contents.Set16(FirmwareConfigurationKey.NumberOfCpus, (ushort)processorCount);
        contents.Set16(FirmwareConfigurationKey.MaximumCpus, (ushort)Math.Max(maximumProcessorCount, processorCount));
        contents.Set16(FirmwareConfigurationKey.BootDevice, 'c');
        contents.Set16(FirmwareConfigurationKey.BootMenu, 0);
        contents.Set64(FirmwareConfigurationKey.Numa, 0);
        contents.Set32(FirmwareConfigurationKey.Irq0Override, 1);
        IReadOnlyList<MemoryRange> map = MemoryMap.Describe(memory);
        byte[] table = new byte[map.Count * 20];
        for (int i = 0; i < map.Count; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(table.AsSpan(i * 20), map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(table.AsSpan((i * 20) + 8), map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(table.AsSpan((i * 20) + 16), (uint)map[i].Type);
        }
        contents.AddFile("etc/e820", table);
        return contents;
    }

    /// <summary>Sets a blob; a later one under the same key replaces it.</summary>
    public void Set(ushort key, ReadOnlyMemory<byte> value) => _items[key] = value;

    /// <summary>Sets a 16-bit little-endian value.</summary>
    public void Set16(ushort key, ushort value)
    {
        byte[] bytes = new byte[2];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        Set(key, bytes);
    }

    /// <summary>Sets a 32-bit little-endian value.</summary>
    public void Set32(ushort key, uint value)
    {
        byte[] bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        Set(key, bytes);
    }

    /// <summary>Sets a 64-bit little-endian value.</summary>
    public void Set64(ushort key, ulong value)
    {
        byte[] bytes = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        Set(key, bytes);
    }

    /// <summary>Tells of the kernel, initrd and command line that the machine was started with (legacy keys). Empty ones are not there.</summary>
    public void SetKernel(ReadOnlyMemory<byte> kernel, ReadOnlyMemory<byte> initrd, string commandLine)
    {
        byte[] line = Encoding.UTF8.GetBytes(commandLine + "\0");
        Set32(FirmwareConfigurationKey.KernelSize, (uint)kernel.Length);
        Set(FirmwareConfigurationKey.KernelData, kernel);
        Set32(FirmwareConfigurationKey.InitrdSize, (uint)initrd.Length);
        Set(FirmwareConfigurationKey.InitrdData, initrd);
        Set32(FirmwareConfigurationKey.CommandLineSize, (uint)line.Length);
        Set(FirmwareConfigurationKey.CommandLineData, line);
    }

    /// <summary>Adds a named file, for example <c>opt/org.example/config</c>; names have at most 55 ASCII characters.</summary>
    /// <exception cref="ArgumentException">The name is too long, empty or not ASCII.</exception>
    public void AddFile(string name, ReadOnlyMemory<byte> contents)
    {
        if (name.Length is 0 or >= NameLength || !Ascii.IsValid(name))
        {
            throw new ArgumentException($"'{name}' is no fw_cfg file name", nameof(name));
        }
        _files[name] = contents;
    }

    /// <summary>All blobs by key, directory and files included.</summary>
    internal Dictionary<ushort, ReadOnlyMemory<byte>> Build()
    {
        var items = new Dictionary<ushort, ReadOnlyMemory<byte>>(_items);
        byte[] directory = new byte[4 + (_files.Count * (8 + NameLength))];
        BinaryPrimitives.WriteInt32BigEndian(directory, _files.Count);
        ushort key = FirmwareConfigurationKey.FileFirst;
        Span<byte> entry = directory.AsSpan(4);
        foreach ((string name, ReadOnlyMemory<byte> contents) in _files)
        {
            BinaryPrimitives.WriteInt32BigEndian(entry, contents.Length);
            BinaryPrimitives.WriteUInt16BigEndian(entry[4..], key);
            Encoding.ASCII.GetBytes(name, entry.Slice(8, NameLength));
            items[key++] = contents;
            entry = entry[(8 + NameLength)..];
        }
        items[FirmwareConfigurationKey.FileDirectory] = directory;
        return items;
    }
}
