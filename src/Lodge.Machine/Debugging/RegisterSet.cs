using System.Buffers.Binary;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Debugging;

/// <summary>One register as the debugger numbers it.</summary>
/// <param name="Name">Name in the target description.</param>
/// <param name="Bits">Width.</param>
/// <param name="Type">Type in the target description.</param>
/// <param name="Feature">Feature of the target description that it belongs to.</param>
/// <param name="Get">Reads it, little endian.</param>
/// <param name="Set">Writes it; false when that is not possible.</param>
internal sealed record RegisterDefinition(string Name, int Bits, string Type, string Feature, RegisterDefinition.Reader Get, RegisterDefinition.Writer Set)
{
    /// <summary>Reads a register out of a processor's state.</summary>
    public delegate void Reader(ProcessorState state, Span<byte> value);

    /// <summary>Writes a register into a processor's state.</summary>
    public delegate bool Writer(ProcessorState state, ReadOnlySpan<byte> value);

    /// <summary>Width in bytes.</summary>
    public int Bytes => Bits / 8;
}

/// <summary>
/// The registers of a processor in the order that gdb's standard features for i386:x86-64 give (gdb manual, G.5.6 "i386 Features"), which holds in every mode of
/// the processor: 16-bit and 32-bit code is seen through the 64-bit registers, addresses are linear. System registers follow in a feature of our own.
/// </summary>
internal sealed partial class RegisterSet
{
    internal const string Core = "org.gnu.gdb.i386.core", Sse = "org.gnu.gdb.i386.sse", Avx = "org.gnu.gdb.i386.avx", Segments = "org.gnu.gdb.i386.segments",
        SystemRegisters = "org.lodge.system";

    private const uint Efer = 0xC000_0080, KernelGsBase = 0xC000_0102; // AMD64 APM vol. 2, appendix A
    private readonly List<RegisterDefinition> _registers = [];

    /// <summary>The registers of processors of a model.</summary>
    public RegisterSet(CpuModel model)
    {
        string[] general = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
        int[] encoding = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
        for (int i = 0; i < 16; i++)
        {
            int number = encoding[i];
            Whole(general[i], i is 6 or 7 ? "data_ptr" : "int64", Core, s => s.GeneralRegisters[number], (s, v) => s.GeneralRegisters[number] = v);
        }
        Whole("rip", "code_ptr", Core, s => s.InstructionPointer, (s, v) => s.InstructionPointer = v);
        Add("eflags", 32, "i386_eflags", Core, (s, d) => BinaryPrimitives.WriteUInt32LittleEndian(d, (uint)s.Flags), (s, v) =>
        {
            s.Flags = BinaryPrimitives.ReadUInt32LittleEndian(v);
            return true;
        });
        foreach ((string name, int index) in (ReadOnlySpan<(string, int)>)[("cs", 1), ("ss", 2), ("ds", 3), ("es", 0), ("fs", 4), ("gs", 5)])
        {
            Add(name, 32, "int32", Core, (s, d) => BinaryPrimitives.WriteUInt32LittleEndian(d, s.Segments[index].Selector), (s, v) => SetSelector(s, index, v));
        }
        AddX87();
        AddVectors((model.SupportedXcr0 & CpuModel.ComponentAvx) != 0);
        SegmentBase("fs_base", 4);
        SegmentBase("gs_base", 5);
        Whole("k_gs_base", "data_ptr", SystemRegisters, s => Msr(s, KernelGsBase), (s, v) => s.ModelSpecificRegisters[KernelGsBase] = v);
        Whole("cr0", "lodge_cr0", SystemRegisters, s => s.Cr0, (s, v) => s.Cr0 = v);
        Whole("cr2", "data_ptr", SystemRegisters, s => s.Cr2, (s, v) => s.Cr2 = v);
        Whole("cr3", "int64", SystemRegisters, s => s.Cr3, (s, v) => s.Cr3 = v);
        Whole("cr4", "lodge_cr4", SystemRegisters, s => s.Cr4, (s, v) => s.Cr4 = v);
        Whole("cr8", "int64", SystemRegisters, s => s.Cr8, (s, v) => s.Cr8 = v);
        Whole("efer", "lodge_efer", SystemRegisters, s => Msr(s, Efer), (s, v) => s.ModelSpecificRegisters[Efer] = v);
        Length = _registers.Sum(r => r.Bytes);
    }

    /// <summary>The registers, by number.</summary>
    public IReadOnlyList<RegisterDefinition> Registers => _registers;

    /// <summary>Bytes of all registers together, as in the <c>g</c> packet.</summary>
    public int Length { get; }

    /// <summary>All registers, as in the <c>g</c> packet.</summary>
    public byte[] Read(ProcessorState state)
    {
        byte[] values = new byte[Length];
        int at = 0;
        foreach (RegisterDefinition register in _registers)
        {
            register.Get(state, values.AsSpan(at, register.Bytes));
            at += register.Bytes;
        }
        return values;
    }

    /// <summary>Changes the registers of which <paramref name="values"/> differs; a prefix of all is enough. False when one cannot be changed so.</summary>
    public bool TryWrite(ProcessorState state, ReadOnlySpan<byte> values)
    {
        Span<byte> now = stackalloc byte[16];
        foreach (RegisterDefinition register in _registers)
        {
            if (values.IsEmpty)
            {
                break;
            }
            if (values.Length < register.Bytes)
            {
                return false;
            }
            register.Get(state, now[..register.Bytes]);
            if (!values[..register.Bytes].SequenceEqual(now[..register.Bytes]) && !register.Set(state, values[..register.Bytes]))
            {
                return false;
            }
            values = values[register.Bytes..];
        }
        return values.IsEmpty;
    }

    private static ulong Msr(ProcessorState state, uint index) => state.ModelSpecificRegisters.GetValueOrDefault(index);

    // Outside of protected mode the base follows the selector. Inside, it comes from a descriptor, and loading one is the guest's business.
    private static bool SetSelector(ProcessorState state, int index, ReadOnlySpan<byte> value)
    {
        uint selector = BinaryPrimitives.ReadUInt32LittleEndian(value);
        SegmentState segment = state.Segments[index];
        if (selector == segment.Selector)
        {
            return true;
        }
        bool realMode = (state.Cr0 & 1) == 0 || (state.Flags & (1 << 17)) != 0;
        if (!realMode || selector > ushort.MaxValue)
        {
            return false;
        }
        state.Segments[index] = segment with { Selector = (ushort)selector, Base = selector << 4 };
        return true;
    }

    private void SegmentBase(string name, int index) =>
        Whole(name, "int64", Segments, s => s.Segments[index].Base, (s, v) => s.Segments[index] = s.Segments[index] with { Base = v });

    private void Whole(string name, string type, string feature, Func<ProcessorState, ulong> get, Action<ProcessorState, ulong> set) =>
        Add(name, 64, type, feature, (s, d) => BinaryPrimitives.WriteUInt64LittleEndian(d, get(s)), (s, v) =>
        {
            set(s, BinaryPrimitives.ReadUInt64LittleEndian(v));
            return true;
        });

    private void Add(string name, int bits, string type, string feature, RegisterDefinition.Reader get, RegisterDefinition.Writer set) =>
        _registers.Add(new RegisterDefinition(name, bits, type, feature, get, set));
}
