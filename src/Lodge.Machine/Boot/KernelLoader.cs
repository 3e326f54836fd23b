using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Boot;

/// <summary>How a kernel image is entered.</summary>
public enum KernelKind
{
    /// <summary>Linux bzImage.</summary>
    LinuxBzImage,

    /// <summary>Multiboot 1 (ELF32, ELF64 or with addresses in its header).</summary>
    Multiboot,

    /// <summary>ELF with a PVH entry note.</summary>
    ElfPvh,
}

/// <summary>A file handed to the kernel: a piece of the initrd (Linux), a module (PVH, Multiboot).</summary>
/// <param name="Source">Contents.</param>
/// <param name="CommandLine">Multiboot: the module's string.</param>
public sealed record BootModule(BootSource Source, string CommandLine)
{
    /// <summary>
    /// Parses <c>--initrd</c> for a Multiboot kernel: <c>file args,file2 args</c>; a doubled comma stands for one in a name. The module's
    /// string is the whole item, as QEMU's <c>-initrd</c> has it.
    /// </summary>
    public static IReadOnlyList<BootModule> ParseMultiboot(string specification)
    {
        const char Escaped = '\0';
        List<BootModule> modules = [];
        foreach (string part in specification.Replace(",,", Escaped.ToString(), StringComparison.Ordinal).Split(','))
        {
            string item = part.Replace(Escaped, ',').TrimStart(' ');
            int space = item.IndexOf(' ', StringComparison.Ordinal);
            string path = space < 0 ? item : item[..space];
            if (path.Length == 0)
            {
                throw new BootException($"initrd '{specification}' names an empty file; write 'file arguments,file2 arguments'");
            }
            modules.Add(new BootModule(BootSource.FromFile(path), item));
        }
        return modules;
    }
}

/// <summary>What to load.</summary>
/// <param name="Kernel">Kernel image.</param>
/// <param name="Modules">Linux: pieces of one initrd, concatenated at 4-byte boundaries. PVH: the same, as one module. Multiboot: modules.</param>
/// <param name="CommandLine">Kernel command line.</param>
/// <param name="RsdpAddress">Guest physical address of the ACPI RSDP, or 0.</param>
public sealed record BootOptions(
    BootSource Kernel,
    IReadOnlyList<BootModule> Modules,
    string CommandLine,
    ulong RsdpAddress);

/// <summary>Puts a kernel into guest memory by what the image contains, as <c>qemu-system -kernel</c> does.</summary>
public static class KernelLoader
{
    /// <summary>Tells the kind by content: a Linux setup header first, then a Multiboot header, then ELF.</summary>
    /// <exception cref="BootException">It is none of them.</exception>
    public static KernelKind Detect(BootSource kernel)
    {
        byte[] head = new byte[Math.Min(kernel.Length, MultibootImage.SearchLength)];
        kernel.Read(0, head);
        if (LinuxBzImage.Matches(head))
        {
            return KernelKind.LinuxBzImage;
        }
        if (MultibootImage.FindHeader(head) >= 0)
        {
            return KernelKind.Multiboot;
        }
        if (ElfImage.Matches(head))
        {
            return KernelKind.ElfPvh;
        }
        string start = head.Length == 0 ? "it is empty" : $"it begins with {Convert.ToHexString(head.AsSpan(0, Math.Min(8, head.Length)))}";
        throw new BootException($"'{kernel.Name}' is not a bootable kernel ({start}); give a Linux bzImage, an ELF kernel with a PVH entry or a Multiboot kernel");
    }

    /// <summary>Loads the kernel; may be called again after a reset.</summary>
    /// <exception cref="BootException">The image is malformed or does not fit in RAM.</exception>
    public static BootEntry Load(GuestMemory memory, BootOptions options)
    {
        if (options.CommandLine.Contains('\0', StringComparison.Ordinal))
        {
            throw new BootException("the kernel command line contains a NUL character");
        }
        KernelKind kind = Detect(options.Kernel);
        BiosDataArea.Write(memory);
        return kind switch
        {
            KernelKind.LinuxBzImage => LinuxBzImage.Load(memory, options),
            KernelKind.Multiboot => MultibootImage.Load(memory, options),
            _ => ElfPvh.Load(memory, options),
        };
    }

    /// <summary>Places modules as one initrd as high as possible below <paramref name="limit"/>, page-aligned.</summary>
    /// <returns>Its address and length; (0, 0) when there are none.</returns>
    internal static (ulong Address, ulong Length) LoadInitrd(GuestMemory memory, IReadOnlyList<BootModule> modules, ulong kernelEnd, ulong limit)
    {
        ulong length = 0;
        foreach (BootModule module in modules)
        {
            length = ((length + 3) & ~3UL) + (ulong)module.Source.Length;
        }
        if (length == 0)
        {
            return (0, 0);
        }
        MemorySlot low = memory.Slots[0];
        limit = Math.Min(limit, low.Address + low.Length);
        if (length > limit || ((limit - length) & ~0xFFFUL) is var address && address < kernelEnd)
        {
            throw new BootException($"the initrd of {length} bytes does not fit between the kernel's end 0x{kernelEnd:X} and 0x{limit:X}; give the machine more with --memory");
        }
        ulong at = address;
        foreach (BootModule module in modules)
        {
            at = (at + 3) & ~3UL;
            module.Source.CopyTo(0, (ulong)module.Source.Length, memory, at);
            at += (ulong)module.Source.Length;
        }
        return (address, length);
    }
}

/// <summary>How processor 0 enters the loaded kernel.</summary>
/// <param name="Kind">The image's kind.</param>
/// <param name="EntryPoint">Physical address of the first instruction.</param>
/// <param name="LongMode">Enters in 64-bit mode with identity paging, else in 32-bit protected mode without paging.</param>
/// <param name="Registers">General registers, in encoding order.</param>
/// <param name="PageTable">CR3 for 64-bit mode.</param>
public sealed record BootEntry(KernelKind Kind, ulong EntryPoint, bool LongMode, ulong[] Registers, ulong PageTable)
{
    /// <summary>Selector of the flat code segment (Linux's <c>__BOOT_CS</c>).</summary>
    public const ushort CodeSelector = 0x10;

    /// <summary>Selector of the flat data segment (<c>__BOOT_DS</c>).</summary>
    public const ushort DataSelector = 0x18;

    internal const ulong DescriptorTable = 0x1000;
    private const ulong DescriptorTss = 0x20;
    private const uint FlatData = 0xC093;
    private const uint Code32 = 0xC09B;
    private const uint Code64 = 0xA09B;

    /// <summary>Changes a processor's reset state into the entry state.</summary>
    public void Apply(ProcessorState state)
    {
        Registers.CopyTo(state.GeneralRegisters, 0);
        state.InstructionPointer = EntryPoint;
        state.Flags = 2;
        Array.Fill(state.Segments, new SegmentState(DataSelector, 0, uint.MaxValue, FlatData));
        state.Segments[1] = new SegmentState(CodeSelector, 0, uint.MaxValue, LongMode ? Code64 : Code32);
        state.LocalDescriptorTable = new SegmentState(0, 0, 0, 0x1_0000);
        state.TaskRegister = new SegmentState((ushort)DescriptorTss, 0, 0x67, 0x8B);
        state.GlobalDescriptorTable = new TableRegister(DescriptorTable, 0x2F);
        state.InterruptDescriptorTable = default;
        state.Cr0 = LongMode ? 0x8000_0011UL : 0x11UL; // PG, ET, PE
        state.Cr3 = PageTable;
        state.Cr4 = LongMode ? 0x20UL : 0UL; // PAE
        state.ModelSpecificRegisters[0xC000_0080] = LongMode ? 0x500UL : 0UL; // EFER: LMA, LME
        state.Activity = ActivityState.Active;
    }

    /// <summary>Writes the descriptor table that <see cref="Apply"/> points GDTR to.</summary>
    internal void WriteDescriptorTable(GuestMemory memory)
    {
        Span<byte> table = stackalloc byte[0x30];
        table.Clear();
        const ulong Flat = 0x000F_0000_0000_FFFF;
        BinaryPrimitives.WriteUInt64LittleEndian(table[CodeSelector..], Flat | ((ulong)(LongMode ? Code64 : Code32) << 40));
        BinaryPrimitives.WriteUInt64LittleEndian(table[DataSelector..], Flat | ((ulong)FlatData << 40));
        BinaryPrimitives.WriteUInt64LittleEndian(table[(int)DescriptorTss..], 0x67 | (0x8BUL << 40));
        memory.TryWrite(DescriptorTable, table);
    }
}
