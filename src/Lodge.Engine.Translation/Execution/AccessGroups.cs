using System.Numerics;
using Iced.Intel;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// Memory accesses of one block that share one TLB check: the same base register, unchanged between them (for RSP: changed by known amounts), displacements
/// within a small window. The first access checks the whole window and keeps host address minus guest address for the others. Nothing can invalidate a
/// translation in the middle of a block, so the check holds until the block ends or C# executes an instruction.
/// </summary>
internal sealed class AccessGroups
{
    private const int MaximumWindow = 512;
    private readonly List<Group> _groups = [];
    private readonly int[] _memory;
    private readonly int[] _stack;
    private readonly int[] _open = new int[16];
    private readonly InstructionInfoFactory _information = new();
    private int _stackOffset;

    public AccessGroups(int maximumInstructions)
    {
        _memory = new int[maximumInstructions];
        _stack = new int[maximumInstructions];
    }

    /// <summary>A window of accesses.</summary>
    public sealed class Group
    {
        /// <summary>Guest number of the base register.</summary>
        public int Base;

        /// <summary>First byte and end of the window, relative to the base (for RSP: to its value at the start of the block).</summary>
        public int Low, High;

        /// <summary>Some access stores.</summary>
        public bool Write;

        /// <summary>Number of accesses.</summary>
        public int Count;

        /// <summary>RSP minus its value at the start of the block, at the first access.</summary>
        public int StackOffsetAtFirst;

        /// <summary>The check has been emitted.</summary>
        public bool Checked;
    }

    /// <summary>Forgets the last block.</summary>
    public void Begin()
    {
        _groups.Clear();
        _stackOffset = 0;
        Array.Fill(_open, -1);
    }

    /// <summary>The group of the memory operand of an instruction, or null when it is checked alone.</summary>
    public Group? OfMemory(int instruction) => Shared(_memory[instruction]);

    /// <summary>The group of the stack access (push, pop, call, return) of an instruction, or null.</summary>
    public Group? OfStack(int instruction) => Shared(_stack[instruction]);

    private Group? Shared(int index) => index >= 0 && _groups[index].Count > 1 ? _groups[index] : null;

    /// <summary>Adds the next instruction. Sizes of 0 mean no such access.</summary>
    /// <param name="stackOffset">Offset of the stack access from RSP before the instruction.</param>
    /// <param name="stackChange">Change of RSP when known.</param>
    /// <param name="written">See <see cref="Written"/>.</param>
    /// <param name="barrier">C# may run here.</param>
    public void Add(int index, in Instruction i, uint written, int memorySize, bool memoryWrite, int stackSize, int stackOffset, bool stackWrite, int? stackChange, bool barrier)
    {
        _memory[index] = _stack[index] = -1;
        if (barrier)
        {
            Array.Fill(_open, -1);
            _stackOffset = 0;
            return;
        }
        if (memorySize != 0 && i.MemoryIndex == Register.None && i.MemoryBase is >= Register.RAX and <= Register.R15 && i.MemorySegment is not (Register.FS or Register.GS)
            && (long)i.MemoryDisplacement64 is >= -0x100000 and <= 0x100000)
        {
            int number = i.MemoryBase - Register.RAX;
            _memory[index] = Join(number, (int)i.MemoryDisplacement64 + (number == 4 ? _stackOffset : 0), memorySize, memoryWrite);
        }
        if (stackSize != 0)
        {
            _stack[index] = Join(4, _stackOffset + stackOffset, stackSize, stackWrite);
        }
        if (stackChange is { } change)
        {
            _stackOffset += change;
        }
        for (written &= 0xFFFF; written != 0; written &= written - 1)
        {
            int number = BitOperations.TrailingZeroCount(written);
            if (number == 4 && stackChange is not null && (i.Op0Kind != OpKind.Register || i.Op0Register != Register.RSP || i.Mnemonic is Mnemonic.Add or Mnemonic.Sub or Mnemonic.Lea))
            {
                continue;
            }
            _open[number] = -1;
        }
    }

    /// <summary>Registers that an instruction changes: bit n for general register n, bit 16 + n for vector register n; all when it is <paramref name="opaque"/>.</summary>
    public uint Written(in Instruction i, bool opaque)
    {
        if (opaque)
        {
            return uint.MaxValue;
        }
        uint written = 0;
        foreach (UsedRegister used in _information.GetInfo(i, InstructionInfoOptions.NoMemoryUsage).GetUsedRegisters())
        {
            if (used.Access is OpAccess.Read or OpAccess.CondRead or OpAccess.NoMemAccess or OpAccess.None)
            {
                continue;
            }
            if (used.Register.IsGPR())
            {
                written |= 1U << (used.Register.GetFullRegister() - Register.RAX);
            }
            else if (used.Register.IsVectorRegister())
            {
                written |= 0x1_0000U << ((used.Register.GetFullRegister() - Register.ZMM0) & 15);
            }
        }
        return written;
    }

    private int Join(int number, int offset, int size, bool write)
    {
        int open = _open[number];
        if (open >= 0)
        {
            Group group = _groups[open];
            int low = Math.Min(group.Low, offset), high = Math.Max(group.High, offset + size);
            if (high - low <= MaximumWindow)
            {
                (group.Low, group.High) = (low, high);
                group.Write |= write;
                group.Count++;
                return open;
            }
        }
        _groups.Add(new Group { Base = number, Low = offset, High = offset + size, Write = write, Count = 1, StackOffsetAtFirst = number == 4 ? _stackOffset : 0 });
        _open[number] = _groups.Count - 1;
        return _groups.Count - 1;
    }
}
