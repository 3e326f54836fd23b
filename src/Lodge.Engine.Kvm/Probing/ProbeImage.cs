using System.Buffers.Binary;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Probing;

/// <summary>
/// Memory and first state of the probing guest: 1 MiB, mapped at its own addresses by 4 KiB pages, with descriptor tables and a handler for every vector that reports
/// it (Intel SDM vol. 3: 3.5 descriptors, 4.5 paging, 6.14 interrupts in 64-bit mode, 7.7 task state segment).
/// </summary>
internal static class ProbeImage
{
    /// <summary>Bytes of memory.</summary>
    public const ulong Size = 1 << 20;

    /// <summary>Where the program lies, in ring 0 and for ring 3.</summary>
    public const ulong Code = 0x1_0000, UserCode = 0x2_0000;

    /// <summary>Ports by which a program reports: all is well; a comparison that failed; an exception that nobody handles.</summary>
    public const ushort PassedPort = 0x10, WrongPort = 0x11, ExceptionPort = 0x12;

    private const ulong Tables = 0x1000, Directories = 0x2000, LowDirectory = 0x3000, LowTable = 0x4000, TopDirectory = 0x5000, Descriptors = 0x6000, Gates = 0x7000,
        TaskState = 0x8000, Stubs = 0x9000, UserData = 0x4_0000, Stack = 0x6_0000, InterruptStack = 0x5_F000, UserStack = 0x6_F000, FirstPage = 0x8_0000, SecondPage = 0x8_1000,
        Window = 0x9_0000, ApicPage = 0xFEE0_0000;

    private const ulong Present = 1, Writable = 2, User = 4, CacheDisabled = 1 << 4, Large = 1 << 7;
    private const ushort KernelCode = 0x08, KernelData = 0x10, TaskSelector = 0x30;
    private const ushort DescriptorLimit = 0x47, GateLimit = 0xFFF, TaskLimit = 0x67;

    // Null, code and data of ring 0, 32-bit code, data and 64-bit code of ring 3, task state segment (2 places), 32-bit code of ring 0.
    private static readonly ulong[] s_descriptors =
    [
        0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF,
        0x0000_8B00_0000_0000 | (TaskState << 16) | TaskLimit, 0, 0x00CF_9B00_0000_FFFF,
    ];

    /// <summary>Puts a program into zeroed memory.</summary>
    public static void Write(GuestMemory memory, ProbeProgram program)
    {
        void Quad(ulong address, ulong value) => memory.TryWrite(address, value);
        Quad(Tables, Directories | Present | Writable | User);
        Quad(Directories, LowDirectory | Present | Writable | User);
        Quad(Directories + (8 * (ApicPage >> 30)), TopDirectory | Present | Writable);
        Quad(LowDirectory, LowTable | Present | Writable | User);
        Quad(TopDirectory + (8 * (ApicPage >> 21 & 511)), ApicPage | Present | Writable | CacheDisabled | Large);
        for (ulong page = 0; page < Size; page += 4096)
        {
            bool user = page is UserCode or UserData or UserStack;
            Quad(LowTable + (8 * (page >> 12)), (page == Window ? FirstPage : page) | Present | Writable | (user ? User : 0));
        }
        for (int i = 0; i < s_descriptors.Length; i++)
        {
            Quad(Descriptors + (8 * (ulong)i), s_descriptors[i]);
        }
        Quad(TaskState + 4, InterruptStack);
        for (int vector = 0; vector < 256; vector++)
        {
            memory.TryWrite(Stubs + (8 * (ulong)vector), [0xB0, (byte)vector, 0xE6, (byte)ExceptionPort, 0xF4]); // mov al, vector; out; hlt
            Gate(memory, vector, Stubs + (8 * (ulong)vector), ring: 0);
        }
        foreach ((byte vector, int offset) in program.Handlers)
        {
            Gate(memory, vector, Code + (ulong)offset, ring: 3);
        }
        memory.TryWrite(FirstPage, 1UL);
        memory.TryWrite(SecondPage, 2UL);
        memory.TryWrite(UserData, 0x5A5AUL);
        if (program.Mode == ProbeMode.Real)
        {
            memory.TryWrite(Code + 0x100, TableOperand());
        }
        memory.TryWrite(Code, program.Code);
        memory.TryWrite(UserCode, program.UserCode);
    }

    /// <summary>The registers with which a program begins.</summary>
    public static void Start(KvmProcessorHandle processor, ProbeProgram program)
    {
        KvmSregs special = processor.SpecialRegisters;
        special.Gdt = new KvmDtable { Base = Descriptors, Limit = DescriptorLimit };
        if (program.Mode == ProbeMode.Long)
        {
            const ulong Cr0 = 0x8001_0033, Cr4 = 0x620, OsXsave = 1 << 18, Efer = 0x501; // PG WP NE ET MP PE; PAE OSFXSR OSXMMEXCPT; LMA LME SCE
            special.Idt = new KvmDtable { Base = Gates, Limit = GateLimit };
            special.Cs = Segment(KernelCode, type: 11) with { L = 1 };
            special.Ds = special.Es = special.Fs = special.Gs = special.Ss = Segment(KernelData, type: 3) with { Db = 1 };
            special.Tr = new KvmSegment { Base = TaskState, Limit = TaskLimit, Selector = TaskSelector, Type = 11, Present = 1 };
            special.Cr0 = Cr0;
            special.Cr3 = Tables;
            special.Cr4 = Cr4 | (program.Xcr0 == 0 ? 0 : OsXsave);
            special.Efer = Efer;
        }
        else
        {
            special.Cs = new KvmSegment { Base = Code, Limit = 0xFFFF, Selector = (ushort)(Code >> 4), Type = 11, Present = 1, S = 1 };
            special.Cr0 = 0x10;
        }
        processor.SpecialRegisters = special;
        if (program.Xcr0 != 0)
        {
            KvmXcrs control = new() { Count = 1 };
            control.Registers.First = new KvmXcr { Value = program.Xcr0 };
            processor.ExtendedControl = control;
        }
        processor.Registers = new KvmRegs { Rip = program.Mode == ProbeMode.Long ? Code : 0, Rsp = Stack, Rflags = 2 };
    }

    private static KvmSegment Segment(ushort selector, byte type) =>
        new() { Limit = 0xFFFF_FFFF, Selector = selector, Type = type, Present = 1, S = 1, G = 1 };

    private static void Gate(GuestMemory memory, int vector, ulong handler, int ring)
    {
        const ulong InterruptGate = 0x8E00UL << 32;
        ulong place = Gates + (16 * (ulong)vector);
        memory.TryWrite(place, (handler & 0xFFFF) | ((ulong)KernelCode << 16) | InterruptGate | ((ulong)ring << 45) | ((handler & 0xFFFF_0000) << 32));
        memory.TryWrite(place + 8, handler >> 32);
    }

    private static byte[] TableOperand()
    {
        byte[] operand = new byte[6];
        BinaryPrimitives.WriteUInt16LittleEndian(operand, DescriptorLimit);
        BinaryPrimitives.WriteUInt32LittleEndian(operand.AsSpan(2), (uint)Descriptors);
        return operand;
    }
}
