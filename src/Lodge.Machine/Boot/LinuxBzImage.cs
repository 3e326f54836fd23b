using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Boot;

/// <summary>
/// Linux bzImage by the 64-bit boot protocol, or the 32-bit one for kernels without a 64-bit entry (Linux Documentation/arch/x86/boot.rst;
/// the zero page is described in zero-page.rst). Field names are those of the documents.
/// </summary>
internal static class LinuxBzImage
{
    // Where the loader's own structures lie, all below the EBDA.
    private const ulong BootParams = 0x2000;
    private const ulong PageTables = 0x9000;
    private const ulong CommandLineAddress = 0x2_0000;
    private const int CommandLineRoom = 0x1_0000;
    private const ulong StackTop = 0x8FF0;
    private const int ZeroPageSize = 4096;

    // Setup header (boot.rst, "The Real-Mode Kernel Header"); offsets are those in the file and in the zero page.
    private const int SetupSects = 0x1F1;
    private const int BootFlag = 0x1FE;
    private const int HeaderMagic = 0x202;
    private const int HeaderVersion = 0x206;
    private const int TypeOfLoader = 0x210;
    private const int LoadFlags = 0x211;
    private const int Code32Start = 0x214;
    private const int RamdiskImage = 0x218;
    private const int RamdiskSize = 0x21C;
    private const int CmdLinePtr = 0x228;
    private const int InitrdAddrMax = 0x22C;
    private const int KernelAlignment = 0x230;
    private const int RelocatableKernel = 0x234;
    private const int XLoadFlags = 0x236;
    private const int CmdlineSize = 0x238;
    private const int PrefAddress = 0x258;
    private const int InitSize = 0x260;

    // Zero page.
    private const int AcpiRsdpAddr = 0x070;
    private const int E820Entries = 0x1E8;
    private const int E820Table = 0x2D0;
    private const int E820MaxEntries = 128;

    /// <summary>Whether the first bytes of a file are a Linux setup sector.</summary>
    public static bool Matches(ReadOnlySpan<byte> head) =>
        head.Length >= 0x250 && BinaryPrimitives.ReadUInt16LittleEndian(head[BootFlag..]) == 0xAA55 && head.Slice(HeaderMagic, 4).SequenceEqual("HdrS"u8);

    /// <summary>Loads the kernel.</summary>
    public static BootEntry Load(GuestMemory memory, BootOptions options)
    {
        BootSource kernel = options.Kernel;
        byte[] setup = new byte[1024];
        kernel.Read(0, setup.AsSpan(0, (int)Math.Min(setup.Length, kernel.Length)));
        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(setup.AsSpan(HeaderVersion));
        if (version < 0x206)
        {
            throw new BootException($"'{kernel.Name}' uses Linux boot protocol {version >> 8}.{version & 0xFF:D2}; 2.06 (Linux 2.6.22) or newer is needed");
        }
        if ((setup[LoadFlags] & 1) == 0)
        {
            throw new BootException($"'{kernel.Name}' is a zImage (loadflags 0x{setup[LoadFlags]:X2}); a bzImage is needed");
        }
        bool longMode = version >= 0x20C && (setup[XLoadFlags] & 1) != 0;
        int setupSectors = setup[SetupSects] == 0 ? 4 : setup[SetupSects];
        ulong payloadOffset = ((ulong)setupSectors + 1) * 512;
        if (payloadOffset >= (ulong)kernel.Length)
        {
            throw new BootException($"'{kernel.Name}' is truncated: its setup part ends at 0x{payloadOffset:X}, the file at 0x{kernel.Length:X}");
        }
        ulong payloadLength = (ulong)kernel.Length - payloadOffset;

        (ulong load, ulong need) = Place(memory, kernel.Name, setup, version, payloadLength);
        kernel.CopyTo(payloadOffset, payloadLength, memory, load);

        byte[] command = Encoding.UTF8.GetBytes(options.CommandLine);
        uint room = Math.Min(BinaryPrimitives.ReadUInt32LittleEndian(setup.AsSpan(CmdlineSize)), CommandLineRoom - 1);
        if (command.Length > room)
        {
            throw new BootException($"the kernel command line has {command.Length} bytes; '{kernel.Name}' takes at most {room}");
        }
        memory.TryWrite(CommandLineAddress, [.. command, 0]);

        ulong initrdLimit = (ulong)BinaryPrimitives.ReadUInt32LittleEndian(setup.AsSpan(InitrdAddrMax)) + 1;
        (ulong initrd, ulong initrdLength) = KernelLoader.LoadInitrd(memory, options.Modules, load + need, initrdLimit);
        if (initrdLength > uint.MaxValue)
        {
            throw new BootException($"the initrd of {initrdLength} bytes is larger than 4 GiB");
        }

        // The setup header is copied from 0x1F1 to its end (the byte at 0x201 is the offset of the end from 0x202); the rest is zero.
        byte[] zeroPage = new byte[ZeroPageSize];
        int headerEnd = Math.Min(HeaderMagic + setup[0x201], E820Table);
        setup.AsSpan(SetupSects, headerEnd - SetupSects).CopyTo(zeroPage.AsSpan(SetupSects));
        zeroPage[TypeOfLoader] = 0xFF; // no assigned loader number
        BinaryPrimitives.WriteUInt32LittleEndian(zeroPage.AsSpan(Code32Start), (uint)load);
        BinaryPrimitives.WriteUInt32LittleEndian(zeroPage.AsSpan(RamdiskImage), (uint)initrd);
        BinaryPrimitives.WriteUInt32LittleEndian(zeroPage.AsSpan(RamdiskSize), (uint)initrdLength);
        BinaryPrimitives.WriteUInt32LittleEndian(zeroPage.AsSpan(CmdLinePtr), (uint)CommandLineAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(zeroPage.AsSpan(AcpiRsdpAddr), options.RsdpAddress);
        IReadOnlyList<MemoryRange> map = MemoryMap.Describe(memory);
        int entries = Math.Min(map.Count, E820MaxEntries);
        zeroPage[E820Entries] = (byte)entries;
        for (int i = 0; i < entries; i++)
        {
            Span<byte> entry = zeroPage.AsSpan(E820Table + (i * 20), 20);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, map[i].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], map[i].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)map[i].Type);
        }
        memory.TryWrite(BootParams, zeroPage);
        if (longMode)
        {
            WriteIdentityPageTables(memory);
        }
        ulong[] registers = new ulong[16];
        registers[4] = StackTop;
        registers[6] = BootParams; // RSI
        BootEntry boot = new(KernelKind.LinuxBzImage, longMode ? load + 0x200 : load, longMode, registers, longMode ? PageTables : 0);
        boot.WriteDescriptorTable(memory);
        return boot;
    }

    /// <summary>Chooses the load address: the preferred one when RAM is there, else the lowest aligned one.</summary>
    private static (ulong Load, ulong Need) Place(GuestMemory memory, string name, byte[] setup, ushort version, ulong payloadLength)
    {
        const ulong Default = 0x10_0000;
        bool relocatable = setup[RelocatableKernel] != 0;
        ulong load = Default;
        ulong need = payloadLength;
        if (version >= 0x20A)
        {
            load = BinaryPrimitives.ReadUInt64LittleEndian(setup.AsSpan(PrefAddress));
            need = Math.Max(need, BinaryPrimitives.ReadUInt32LittleEndian(setup.AsSpan(InitSize)));
        }
        ulong low = memory.Slots[0].Length;
        if (load < Default || load > low || need > low - load)
        {
            ulong alignment = BinaryPrimitives.ReadUInt32LittleEndian(setup.AsSpan(KernelAlignment));
            if (!relocatable || alignment == 0 || (alignment & (alignment - 1)) != 0)
            {
                throw new BootException($"'{name}' needs 0x{need:X} bytes of RAM at 0x{load:X}, which the machine does not have; give it more with --memory");
            }
            load = (Default + alignment - 1) & ~(alignment - 1);
            if (load > low || need > low - load)
            {
                throw new BootException($"'{name}' needs 0x{need:X} bytes of RAM from 0x{load:X}, the machine has 0x{low:X}; give it more with --memory");
            }
        }
        return (load, need);
    }

    /// <summary>Maps the first 4 GiB to themselves with 2 MiB pages: PML4, one PDPT, four page directories.</summary>
    private static void WriteIdentityPageTables(GuestMemory memory)
    {
        const ulong PresentWritable = 3;
        const ulong LargePage = 0x80;
        byte[] tables = new byte[6 * 4096];
        BinaryPrimitives.WriteUInt64LittleEndian(tables, (PageTables + 0x1000) | PresentWritable);
        for (int i = 0; i < 4; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(tables.AsSpan(0x1000 + (i * 8)), (PageTables + 0x2000 + ((ulong)i * 0x1000)) | PresentWritable);
        }
        for (int i = 0; i < 2048; i++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(tables.AsSpan(0x2000 + (i * 8)), ((ulong)i << 21) | PresentWritable | LargePage);
        }
        memory.TryWrite(PageTables, tables);
    }
}
