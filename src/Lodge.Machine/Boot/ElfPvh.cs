using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Boot;

/// <summary>
/// ELF kernels with a PVH entry (Xen docs/misc/pvh.pandoc; structures of xen/include/public/arch-x86/hvm/start_info.h): 32-bit protected
/// mode, EBX holds the address of hvm_start_info.
/// </summary>
internal static class ElfPvh
{
    private const uint Phys32EntryNote = 18; // XEN_ELFNOTE_PHYS32_ENTRY
    private const uint StartMagic = 0x336E_C578;
    private const uint StartVersion = 1;
    private const int StartInfoSize = 56;
    private const int ModuleEntrySize = 32;
    private const int MemoryEntrySize = 24;

    // The loader's structures, below the EBDA.
    private const ulong StartInfo = 0x6000;
    private const ulong ModuleList = 0x6040;
    private const ulong MapTable = 0x7000;
    private const ulong CommandLineAddress = 0x2_0000;
    private const int CommandLineRoom = 0x1_0000;
    private const ulong LowEnd = 0x3_0000;

    public static BootEntry Load(GuestMemory memory, BootOptions options)
    {
        BootSource kernel = options.Kernel;
        ElfImage elf = ElfImage.Parse(kernel);
        byte[]? note = elf.FindNote("Xen"u8, Phys32EntryNote);
        if (note is null || note.Length is not (4 or 8))
        {
            throw new BootException($"'{kernel.Name}' is an ELF file without a PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); build it with CONFIG_PVH or give a bzImage");
        }
        ulong entry = note.Length == 8 ? BinaryPrimitives.ReadUInt64LittleEndian(note) : BinaryPrimitives.ReadUInt32LittleEndian(note);
        (ulong start, ulong end) = elf.LoadSegments(memory);
        if (entry < start || entry >= end || entry > uint.MaxValue)
        {
            throw new BootException($"'{kernel.Name}' has its PVH entry at 0x{entry:X}, outside of what it loads (0x{start:X}-0x{end:X})");
        }
        if (start < LowEnd)
        {
            throw new BootException($"'{kernel.Name}' loads at 0x{start:X}, where the boot information lies; it must load at 0x{LowEnd:X} or above");
        }
        byte[] command = Encoding.UTF8.GetBytes(options.CommandLine);
        if (command.Length >= CommandLineRoom)
        {
            throw new BootException($"the kernel command line has {command.Length} bytes; at most {CommandLineRoom - 1} are accepted");
        }
        memory.TryWrite(CommandLineAddress, [.. command, 0]);
        (ulong initrd, ulong initrdLength) = KernelLoader.LoadInitrd(memory, options.Modules, end, uint.MaxValue);

        IReadOnlyList<MemoryRange> map = MemoryMap.Describe(memory);
        byte[] table = new byte[map.Count * MemoryEntrySize];
        for (int i = 0; i < map.Count; i++)
        {
            Span<byte> row = table.AsSpan(i * MemoryEntrySize);
            BinaryPrimitives.WriteUInt64LittleEndian(row, map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(row[8..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(row[16..], (uint)map[i].Type);
        }
        memory.TryWrite(MapTable, table);

        byte[] info = new byte[StartInfoSize];
        BinaryPrimitives.WriteUInt32LittleEndian(info, StartMagic);
        BinaryPrimitives.WriteUInt32LittleEndian(info.AsSpan(4), StartVersion);
        if (initrdLength != 0)
        {
            byte[] module = new byte[ModuleEntrySize];
            BinaryPrimitives.WriteUInt64LittleEndian(module, initrd);
            BinaryPrimitives.WriteUInt64LittleEndian(module.AsSpan(8), initrdLength);
            memory.TryWrite(ModuleList, module);
            BinaryPrimitives.WriteUInt32LittleEndian(info.AsSpan(12), 1);
            BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(16), ModuleList);
        }
        BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(24), CommandLineAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(32), options.RsdpAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(info.AsSpan(40), MapTable);
        BinaryPrimitives.WriteUInt32LittleEndian(info.AsSpan(48), (uint)map.Count);
        memory.TryWrite(StartInfo, info);

        ulong[] registers = new ulong[16];
        registers[3] = StartInfo; // EBX
        BootEntry boot = new(KernelKind.ElfPvh, entry, false, registers, 0);
        boot.WriteDescriptorTable(memory);
        return boot;
    }
}
