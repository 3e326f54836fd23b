using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Boot;

/// <summary>
/// Multiboot 1 kernels (Multiboot Specification 0.6.96): ELF32, ELF64 (entered in 32-bit protected mode all the same) or any file with the
/// address fields in its header. EAX holds the magic, EBX the address of the information structure.
/// </summary>
internal static class MultibootImage
{
    /// <summary>The header lies in the first 8 KiB (3.1).</summary>
    public const int SearchLength = 8192;

    private const uint HeaderMagic = 0x1BAD_B002;
    private const uint LoaderMagic = 0x2BAD_B002;
    private const uint UnknownRequirements = 0xFFF8; // bits 0-15 that this specification does not define
    private const uint HasAddresses = 1 << 16;
    private const int InfoSize = 120;

    // Flags of the information structure (3.3).
    private const uint InfoMemory = 1 << 0;
    private const uint InfoCommandLine = 1 << 2;
    private const uint InfoModules = 1 << 3;
    private const uint InfoMemoryMap = 1 << 6;
    private const uint InfoLoaderName = 1 << 9;

    // Where the structure goes when the kernel leaves the place free.
    private const ulong LowArea = 0x9000;
    private const ulong LowAreaEnd = 0x9_0000;
    private const int MaxModules = 64;

    /// <summary>Offset of the header in the first bytes of a file, or -1.</summary>
    public static int FindHeader(ReadOnlySpan<byte> head)
    {
        int end = Math.Min(head.Length, SearchLength) - 12;
        for (int at = 0; at <= end; at += 4)
        {
            if (U32(head, at) == HeaderMagic && unchecked(HeaderMagic + U32(head, at + 4) + U32(head, at + 8)) == 0)
            {
                return at;
            }
        }
        return -1;
    }

    public static BootEntry Load(GuestMemory memory, BootOptions options)
    {
        BootSource kernel = options.Kernel;
        byte[] head = new byte[Math.Min(kernel.Length, SearchLength)];
        kernel.Read(0, head);
        int header = FindHeader(head);
        uint flags = U32(head, header + 4);
        if ((flags & UnknownRequirements) != 0)
        {
            throw new BootException($"'{kernel.Name}' requires Multiboot features that are not defined (flags 0x{flags:X8})");
        }
        ulong start, end, entry;
        if ((flags & HasAddresses) != 0)
        {
            (start, end, entry) = LoadByAddresses(memory, kernel, head, header);
        }
        else
        {
            if (!ElfImage.Matches(head))
            {
                throw new BootException($"'{kernel.Name}' has a Multiboot header without load addresses and is no ELF file");
            }
            ElfImage elf = ElfImage.Parse(kernel);
            (start, end) = elf.LoadSegments(memory);
            entry = elf.PhysicalEntry();
        }
        if (entry < start || entry >= end || entry > uint.MaxValue)
        {
            throw new BootException($"'{kernel.Name}' has its entry at 0x{entry:X}, outside of what it loads (0x{start:X}-0x{end:X})");
        }
        ulong info = WriteInformation(memory, options, start, end);
        ulong[] registers = new ulong[16];
        registers[0] = LoaderMagic;
        registers[3] = info;
        BootEntry boot = new(KernelKind.Multiboot, entry, false, registers, 0);
        if (start >= BootEntry.DescriptorTable + 0x1000 || end <= BootEntry.DescriptorTable)
        {
            boot.WriteDescriptorTable(memory); // otherwise the kernel lies there; GDTR is undefined by the specification (3.2)
        }
        return boot;
    }

    /// <summary>The address fields of the header (3.1.3), which also serve a.out kernels.</summary>
    private static (ulong Start, ulong End, ulong Entry) LoadByAddresses(GuestMemory memory, BootSource kernel, byte[] head, int header)
    {
        if (header + 32 > head.Length)
        {
            throw new BootException($"'{kernel.Name}' is truncated in its Multiboot header at 0x{header:X}");
        }
        uint headerAddress = U32(head, header + 12);
        uint load = U32(head, header + 16);
        uint loadEnd = U32(head, header + 20);
        uint bssEnd = U32(head, header + 24);
        uint entry = U32(head, header + 28);
        if (load > headerAddress || headerAddress - load > (uint)header)
        {
            throw new BootException($"'{kernel.Name}' has Multiboot load address 0x{load:X} that does not match its header at 0x{headerAddress:X}");
        }
        ulong offset = (ulong)header - (headerAddress - load);
        ulong available = (ulong)kernel.Length - offset;
        ulong length = available;
        if (loadEnd != 0)
        {
            if (loadEnd < load || loadEnd - load > available)
            {
                throw new BootException($"'{kernel.Name}' has Multiboot load end 0x{loadEnd:X}; from 0x{load:X} it must lie within the file's 0x{available:X} bytes");
            }
            length = loadEnd - load;
        }
        ulong memoryLength = length;
        if (bssEnd != 0)
        {
            if (bssEnd < load + length)
            {
                throw new BootException($"'{kernel.Name}' has Multiboot bss end 0x{bssEnd:X} below its load end 0x{load + length:X}");
            }
            memoryLength = bssEnd - load;
        }
        GuestRange.Require(memory, load, memoryLength, kernel.Name);
        kernel.CopyTo(offset, length, memory, load);
        GuestRange.Clear(memory, load + length, memoryLength - length);
        return (load, load + memoryLength, entry);
    }

    /// <summary>Loads the modules behind the kernel, and the information structure with all that it points to in low memory (or behind the modules).</summary>
    private static ulong WriteInformation(GuestMemory memory, BootOptions options, ulong start, ulong end)
    {
        if (options.Modules.Count > MaxModules)
        {
            throw new BootException($"{options.Modules.Count} Multiboot modules are given; at most {MaxModules} are accepted");
        }
        ulong lowEnd = memory.Slots[0].Length;
        ulong at = Math.Max(end, MemoryMap.ExtendedMemoryBase);
        List<(ulong Start, ulong End, string Text)> modules = [];
        foreach (BootModule module in options.Modules)
        {
            at = (at + 0xFFF) & ~0xFFFUL;
            ulong length = (ulong)module.Source.Length;
            if (at > lowEnd || length > lowEnd - at)
            {
                throw new BootException($"module '{module.Source.Name}' of {length} bytes does not fit at 0x{at:X}; give the machine more with --memory");
            }
            module.Source.CopyTo(0, length, memory, at);
            modules.Add((at, at + length, module.CommandLine));
            at += length;
        }

        string command = options.CommandLine.Length == 0 ? options.Kernel.Name : $"{options.Kernel.Name} {options.CommandLine}";
        byte[] commandBytes = Text(command);
        byte[] loaderBytes = Text("Lodge");
        IReadOnlyList<MemoryRange> map = MemoryMap.Describe(memory);
        int modulesAt = InfoSize;
        int mapAt = modulesAt + (modules.Count * 16);
        int commandAt = mapAt + (map.Count * 24);
        int loaderAt = commandAt + commandBytes.Length;
        List<byte[]> moduleTexts = modules.ConvertAll(m => Text(m.Text));
        int total = loaderAt + loaderBytes.Length + moduleTexts.Sum(t => t.Length);
        ulong place = LowArea;
        if (LowArea + (ulong)total > LowAreaEnd || (start < LowArea + (ulong)total && end > LowArea))
        {
            place = (at + 0xFFF) & ~0xFFFUL;
            if (place > lowEnd || (ulong)total > lowEnd - place)
            {
                throw new BootException($"the Multiboot information of {total} bytes does not fit at 0x{place:X}; give the machine more with --memory");
            }
        }

        byte[] block = new byte[total];
        void Set(int offset, ulong value) => BinaryPrimitives.WriteUInt32LittleEndian(block.AsSpan(offset), (uint)value);
        Set(0, InfoMemory | InfoCommandLine | InfoModules | InfoMemoryMap | InfoLoaderName);
        Set(4, MemoryMap.ConventionalMemoryEnd >> 10); // mem_lower, KiB
        Set(8, (lowEnd - MemoryMap.ExtendedMemoryBase) >> 10); // mem_upper, KiB
        Set(16, place + (ulong)commandAt);
        Set(20, (ulong)modules.Count);
        Set(24, place + (ulong)modulesAt);
        Set(44, (ulong)map.Count * 24);
        Set(48, place + (ulong)mapAt);
        Set(64, place + (ulong)loaderAt);
        int textAt = loaderAt + loaderBytes.Length;
        for (int i = 0; i < modules.Count; i++)
        {
            Set(modulesAt + (i * 16), modules[i].Start);
            Set(modulesAt + (i * 16) + 4, modules[i].End);
            Set(modulesAt + (i * 16) + 8, place + (ulong)textAt);
            moduleTexts[i].CopyTo(block, textAt);
            textAt += moduleTexts[i].Length;
        }
        for (int i = 0; i < map.Count; i++)
        {
            Span<byte> row = block.AsSpan(mapAt + (i * 24));
            BinaryPrimitives.WriteUInt32LittleEndian(row, 20); // bytes that follow the size field
            BinaryPrimitives.WriteUInt64LittleEndian(row[4..], map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(row[12..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(row[20..], (uint)map[i].Type);
        }
        commandBytes.CopyTo(block, commandAt);
        loaderBytes.CopyTo(block, loaderAt);
        memory.TryWrite(place, block);
        return place;
    }

    private static byte[] Text(string text) => [.. Encoding.UTF8.GetBytes(text), 0];

    private static uint U32(ReadOnlySpan<byte> data, int at) => BinaryPrimitives.ReadUInt32LittleEndian(data[at..]);
}
