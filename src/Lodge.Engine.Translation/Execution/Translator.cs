using Iced.Intel;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// T1: translates one basic block. Decodes, computes where the arithmetic flags are live, then emits: memory accesses through the inline TLB, copied
/// instructions through <see cref="Reencoder"/>, branches as linkable exits. What it does not emit it hands to C# in the middle of the block.
/// </summary>
internal sealed unsafe partial class Translator
{
    private const int MaximumInstructions = 48;
    private readonly Vcpu _vcpu;
    private readonly BlockCache _cache;
    private readonly Reencoder _reencoder;
    private readonly GuestCode _code = new();
    private readonly Decoder _decoder64;
    private readonly Decoder _decoder32;
    private readonly Instruction[] _instructions = new Instruction[MaximumInstructions];
    private readonly Step[] _steps = new Step[MaximumInstructions];
    private readonly bool[] _liveAfter = new bool[MaximumInstructions];
    private readonly AccessGroups _groups = new(MaximumInstructions);
    private readonly List<Cold> _colds = [];
    private readonly List<uint> _map = [];
    private int _count;

    private Emitter _e = null!;
    private Block _block = null!;
    private FlagState _flags;
    private bool _x87Known;
    private int _current;
    private uint _mode;
    private bool _is64;

    public Translator(Vcpu vcpu, BlockCache cache, Reencoder reencoder)
    {
        _vcpu = vcpu;
        _cache = cache;
        _reencoder = reencoder;
        _decoder64 = Decoder.Create(64, _code, vcpu.DecoderOptions);
        _decoder32 = Decoder.Create(32, _code, vcpu.DecoderOptions);
    }

    /// <summary>What the translator does with an instruction.</summary>
    private enum Step : byte
    {
        Interpret,
        InterpretLast,
        Copy,
        CopyX87,
        Nop,
        Lea,
        Push,
        Pop,
        Leave,
        Call,
        CallIndirect,
        Return,
        Jump,
        JumpIndirect,
        Conditional,
        Cli,
        Sti,
        Rdtsc,
        RepeatString,
        PushFlags,
        ReadSelector,
        SystemCall,
        SwapGs,
    }

    /// <summary>Out-of-line code to be emitted behind the block.</summary>
    private readonly struct Cold
    {
        public byte* From { get; init; }
        public byte* Back { get; init; }
        public int Kind { get; init; }
        public uint Descriptor { get; init; }
        public int TagOffset { get; init; }
        public int PageOffset { get; init; }
        public ulong Value { get; init; }
        public ushort Instruction { get; init; }
        public FlagState Flags { get; init; }
        public int Source { get; init; }
        public int Base { get; init; }
    }

    private const int ColdAccess = 0, ColdConstantAccess = 1, ColdX87 = 2, ColdExit = 3, ColdPoll = 4, ColdPollHost = 5, ColdIndirect = 6, ColdSti = 7, ColdInterpret = 8, ColdWindow = 9, ColdPollRecipe = 10;

    /// <summary>Translates the block whose RIP, mode and physical address are set. False when its first instruction must be interpreted.</summary>
    public bool Translate(Emitter emitter, Block block, byte* hostPage)
    {
        _e = emitter;
        _block = block;
        _mode = block.Mode;
        _is64 = (_mode & ModeBits.Code64) != 0;
        _colds.Clear();
        _map.Clear();
        _x87Known = false;
        if (!DecodeBlock(hostPage))
        {
            return false;
        }
        FindGroups();
        AnalyzeFlags();

        _e.Align(16);
        block.Start = block.PollEntry = _e.Here;
        EmitPoll();
        block.Entry = _e.Here;
        _flags = block.FlagsIn;
        bool ended = false;
        for (_current = 0; _current < _count; _current++)
        {
            Map();
            LeaveRecipeBeforeBranch();
            ended = EmitInstruction(_instructions[_current], _steps[_current]);
            AdvanceRecipe();
        }
        if (!ended)
        {
            EmitDirectExit(block.Rip + (ulong)block.Length);
        }
        EmitColds();
        block.End = _e.Here;
        block.Map = [.. _map];
        block.Recipes = [.. _recipes];
        block.Instructions = _count;
        return true;
    }

    private bool DecodeBlock(byte* hostPage)
    {
        int offset = (int)(_block.Physical & 0xFFF);
        Decoder decoder = _is64 ? _decoder64 : _decoder32;
        _count = 0;
        int length = 0;
        int marked = -1;
        while (_count < MaximumInstructions && offset < 4096)
        {
            if (_count > 0 && _vcpu.BreaksAt(_block.Rip + (ulong)length))
            {
                break; // a debugger's breakpoint is looked for between blocks
            }
            int window = Math.Min(15, 4096 - offset);
            if ((offset + window - 1) >> 6 != marked)
            {
                marked = (offset + window - 1) >> 6;
                _vcpu.Partition.Code.MarkGrains((_block.Physical & ~0xFFFUL) + (ulong)offset, window);
            }
            _code.Set(hostPage + offset, window);
            decoder.IP = _block.Rip + (ulong)length;
            ref Instruction instruction = ref _instructions[_count];
            decoder.Decode(out instruction);
            if (instruction.IsInvalid && decoder.LastError == DecoderError.NoMoreBytes && window < 15)
            {
                if (_count > 0)
                {
                    break; // the next block begins with the instruction that crosses
                }
                if (!DecodeCrossing(hostPage, offset, decoder, out instruction))
                {
                    return false;
                }
            }
            if (instruction.IsInvalid)
            {
                if (_count == 0)
                {
                    return false;
                }
                break;
            }
            Step step = Classify(instruction);
            _steps[_count++] = step;
            length += instruction.Length;
            offset += instruction.Length;
            if (step is Step.Call or Step.CallIndirect or Step.Return or Step.Jump or Step.JumpIndirect or Step.Conditional or Step.Sti or Step.InterpretLast or Step.SystemCall)
            {
                break;
            }
        }
        _block.Length = length;
        return _count > 0;
    }

    // The first instruction reaches into the next page: the block is this instruction alone and belongs to both pages.
    private bool DecodeCrossing(byte* hostPage, int offset, Decoder decoder, out Instruction instruction)
    {
        instruction = default;
        SecondLevelEntry* second = _vcpu.TlbLookup((_block.Rip & ~0xFFFUL) + 0x1000, AccessKind.Execute, (int)(_mode & 3));
        if (second == null || second->Host == null)
        {
            return false; // T0 raises the fault
        }
        _block.SecondPage = second->Physical;
        byte* secondHost = second->Host;
        _cache.PreparePage(_block.SecondPage);
        _vcpu.Partition.Code.MarkGrains(_block.SecondPage, 15);
        int first = 4096 - offset;
        byte* joined = stackalloc byte[32];
        new ReadOnlySpan<byte>(hostPage + offset, first).CopyTo(new Span<byte>(joined, first));
        new ReadOnlySpan<byte>(secondHost, 15 - first).CopyTo(new Span<byte>(joined + first, 15 - first));
        _code.Set(joined, 15);
        decoder.IP = _block.Rip;
        decoder.Decode(out instruction);
        return !instruction.IsInvalid;
    }

    private Step Classify(in Instruction i)
    {
        switch (InstructionKinds.Of(i))
        {
            case InstructionKind.Nop:
                return Step.Nop;
            case InstructionKind.Lea:
                return SegmentsFlat(i) || i.MemoryBase.GetSize() == 4 || i.MemoryIndex.GetSize() == 4 ? Step.Lea : Step.Interpret;
            case InstructionKind.Copy or InstructionKind.CopyX87:
                if (!Available(i) || !SegmentsFlat(i) || i.Mnemonic is Mnemonic.Fnstenv or Mnemonic.Fnsave or Mnemonic.Wait)
                {
                    return Step.Interpret;
                }
                return InstructionKinds.Of(i) == InstructionKind.CopyX87 ? Step.CopyX87 : Step.Copy;
        }
        int stackSize = _is64 ? 8 : 4;
        switch (i.Mnemonic)
        {
            case Mnemonic.Push when i.StackPointerIncrement == -stackSize && SegmentsFlat(i) && !IsSegmentRegister(i):
                return Step.Push;
            case Mnemonic.Pop when i.StackPointerIncrement == stackSize && i.Op0Kind == OpKind.Register && !IsSegmentRegister(i):
                return Step.Pop;
            case Mnemonic.Leave when i.StackPointerIncrement == 0 && i.Code is Code.Leaveq or Code.Leaved && (i.Code == Code.Leaveq) == _is64:
                return Step.Leave;
            case Mnemonic.Call when i.Op0Kind is OpKind.NearBranch64 or OpKind.NearBranch32 && i.StackPointerIncrement == -stackSize:
                return Step.Call;
            case Mnemonic.Call when i.Code is Code.Call_rm64 or Code.Call_rm32 && i.StackPointerIncrement == -stackSize && SegmentsFlat(i):
                return Step.CallIndirect;
            case Mnemonic.Ret when i.Code is Code.Retnq or Code.Retnd or Code.Retnq_imm16 or Code.Retnd_imm16 && (i.Code is Code.Retnq or Code.Retnq_imm16) == _is64:
                return Step.Return;
            case Mnemonic.Jmp when i.Op0Kind is OpKind.NearBranch64 or OpKind.NearBranch32:
                return Step.Jump;
            case Mnemonic.Jmp when i.Code is Code.Jmp_rm64 or Code.Jmp_rm32 && SegmentsFlat(i):
                return Step.JumpIndirect;
            case Mnemonic.Cli when (_mode & ModeBits.Supervisor) != 0:
                return Step.Cli;
            case Mnemonic.Sti when (_mode & ModeBits.Supervisor) != 0:
                return Step.Sti;
            case Mnemonic.Syscall or Mnemonic.Sysretq when _is64:
                return Step.SystemCall;
            case Mnemonic.Swapgs when _is64 && (_mode & ModeBits.Supervisor) != 0:
                return Step.SwapGs;
            case Mnemonic.Pushfq when _is64:
                return Step.PushFlags;
            case Mnemonic.Mov when i.Code is Code.Mov_r32m16_Sreg or Code.Mov_r64m16_Sreg && i.Op0Kind == OpKind.Register:
                return Step.ReadSelector;
            case Mnemonic.Movsb or Mnemonic.Movsw or Mnemonic.Movsd or Mnemonic.Movsq or Mnemonic.Stosb or Mnemonic.Stosw or Mnemonic.Stosd or Mnemonic.Stosq
                when _is64 && i.HasRepPrefix && IsPlainString(i):
                return Step.RepeatString;
            case Mnemonic.Rdtsc when (_mode & ModeBits.NoTsc) == 0 && _vcpu.Comparison is null: // a value that T0 cannot read again
                return Step.Rdtsc;
        }
        if (i.Code.IsJccShortOrNear() && i.Op0Kind is OpKind.NearBranch64 or OpKind.NearBranch32)
        {
            return Step.Conditional;
        }
        bool ends = i.FlowControl != FlowControl.Next || i.Mnemonic is Mnemonic.Hlt or Mnemonic.Mwait
            || (i.Mnemonic == Mnemonic.Mov && (i.Op0Kind == OpKind.Register && i.Op0Register.IsCR()));
        return ends ? Step.InterpretLast : Step.Interpret;
    }

    // 64-bit addresses, no segment override.
    private static bool IsPlainString(in Instruction i) =>
        i.Op0Kind == OpKind.MemoryESRDI && i.Op1Kind is OpKind.MemorySegRSI or OpKind.Register && (i.Op1Kind == OpKind.Register || i.SegmentPrefix is not (Register.FS or Register.GS));

    private static bool IsSegmentRegister(in Instruction i) => i.Op0Kind == OpKind.Register && i.Op0Register.IsSegmentRegister();

    // In 32-bit code FS and GS have bases and limits of their own, which only T0 checks.
    private bool SegmentsFlat(in Instruction i) => _is64 || Reencoder.MemoryOperand(i) < 0
        || (i.MemorySegment is not (Register.FS or Register.GS) && i.MemoryBase.GetSize() != 2 && i.MemoryIndex.GetSize() != 2 && i.MemoryDisplSize != 2);

    private bool Available(in Instruction i) => _vcpu.ClassOf(i) switch
    {
        AvailabilityClass.Always or AvailabilityClass.VexGeneral => true,
        AvailabilityClass.X87 or AvailabilityClass.Mmx => (_mode & ModeBits.NoX87) == 0,
        AvailabilityClass.Sse => (_mode & ModeBits.NoSse) == 0,
        AvailabilityClass.Avx => (_mode & ModeBits.NoAvx) == 0,
        _ => false,
    };

    private void FindGroups()
    {
        _groups.Begin();
        bool enabled = _is64 && (_mode & ModeBits.Careful) == 0 && !_block.ChecksAlone;
        for (int k = 0; k < _count; k++)
        {
            ref readonly Instruction i = ref _instructions[k];
            Step step = _steps[k];
            _written[k] = _groups.Written(i, step is Step.Interpret or Step.InterpretLast or Step.RepeatString or Step.SystemCall);
            int memorySize = 0;
            bool memoryWrite = false;
            int operand = Reencoder.MemoryOperand(i);
            if (operand >= 0 && step is Step.Copy or Step.CopyX87 or Step.Push or Step.CallIndirect or Step.JumpIndirect && operand >= 0 && !Vcpu.IsBitString(i))
            {
                OpAccess access = MemoryAccess(i, operand);
                memorySize = access == OpAccess.NoMemAccess ? 0 : i.MemorySize.GetSize();
                memoryWrite = IsWrite(access);
            }
            bool barrier = !enabled || step is Step.Interpret or Step.InterpretLast or Step.RepeatString or Step.SystemCall;
            switch (step)
            {
                case Step.Push or Step.Call or Step.CallIndirect or Step.PushFlags:
                    _groups.Add(k, i, _written[k], memorySize, memoryWrite, 8, -8, true, -8, barrier);
                    break;
                case Step.Pop:
                    _groups.Add(k, i, _written[k], 0, false, 8, 0, false, i.Op0Register == Register.RSP ? null : 8, barrier);
                    break;
                case Step.Return:
                    _groups.Add(k, i, _written[k], 0, false, 8, 0, false, 8, barrier);
                    break;
                default:
                    _groups.Add(k, i, _written[k], memorySize, memoryWrite, 0, 0, false, StackChange(i), barrier);
                    break;
            }
        }
    }

    // ADD/SUB RSP, constant and LEA RSP, [RSP + constant] move the stack pointer by a known amount.
    private static int? StackChange(in Instruction i)
    {
        if (i.OpCount == 0 || i.Op0Kind != OpKind.Register || i.Op0Register != Register.RSP)
        {
            return null;
        }
        switch (i.Mnemonic)
        {
            case Mnemonic.Add or Mnemonic.Sub when i.Op1Kind is OpKind.Immediate8to64 or OpKind.Immediate32to64:
                long value = (long)i.GetImmediate(1);
                return value is > -65536 and < 65536 ? (int)(i.Mnemonic == Mnemonic.Add ? value : -value) : null;
            case Mnemonic.Lea when i.MemoryBase == Register.RSP && i.MemoryIndex == Register.None && (long)i.MemoryDisplacement64 is > -65536 and < 65536:
                return (int)i.MemoryDisplacement64;
            default:
                return null;
        }
    }

    private void EmitPoll()
    {
        if (_block.FlagsIn == FlagState.Host)
        {
            _e.Mov(Host.R14, Host.Rcx);
            _e.Gs(false, 0x8B, Host.Rcx, Field.ExitRequest);
            _e.Byte(0xE3); // jrcxz +8: over the two instructions that leave
            _e.Byte(8);
            _e.Mov(Host.Rcx, Host.R14);
            byte* from = _e.Jump();
            _colds.Add(new Cold { Kind = ColdPollHost, From = from, Value = _block.Rip });
            _e.Mov(Host.Rcx, Host.R14);
        }
        else
        {
            _e.CompareGs32(Field.ExitRequest, 0);
            byte* from = _e.Jump(Cc.Ne);
            _colds.Add(new Cold { Kind = _block.FlagsIn == FlagState.Recipe ? ColdPollRecipe : ColdPoll, From = from, Value = _block.Rip });
        }
    }

    private sealed class GuestCode : CodeReader
    {
        private byte* _at;
        private byte* _end;

        public void Set(byte* code, int length)
        {
            _at = code;
            _end = code + length;
        }

        public override int ReadByte() => _at < _end ? *_at++ : -1;
    }
}
