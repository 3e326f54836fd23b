using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

/// <summary>What a string instruction does.</summary>
internal enum StringOperation
{
    /// <summary>MOVS.</summary>
    Move,

    /// <summary>STOS.</summary>
    Store,

    /// <summary>LODS.</summary>
    Load,

    /// <summary>CMPS.</summary>
    Compare,

    /// <summary>SCAS.</summary>
    Scan,

    /// <summary>INS.</summary>
    Input,

    /// <summary>OUTS.</summary>
    Output,
}

/// <summary>One execution of a string instruction: what is fixed while it repeats.</summary>
internal readonly struct StringInstruction(StringOperation operation, int size, int addressWidth, int segment, int repeat, bool backward)
{
    /// <summary>What it does.</summary>
    public readonly StringOperation Operation = operation;

    /// <summary>Bytes of an element: 1, 2, 4 or 8.</summary>
    public readonly int Size = size;

    /// <summary>Bytes of (R/E)SI, DI and CX in use: 2, 4 or 8.</summary>
    public readonly int AddressWidth = addressWidth;

    /// <summary>Segment of the source (<see cref="Seg"/>).</summary>
    public readonly int Segment = segment;

    /// <summary>0 once, 1 REP/REPE, 2 REPNE.</summary>
    public readonly int Repeat = repeat;

    /// <summary>EFLAGS.DF.</summary>
    public readonly bool Backward = backward;

    /// <summary>All ones in the bits of the address width.</summary>
    public ulong Mask => AddressWidth == 8 ? ulong.MaxValue : (1UL << (AddressWidth * 8)) - 1;

    /// <summary>Whether SI moves.</summary>
    public bool HasSource => Operation is StringOperation.Move or StringOperation.Load or StringOperation.Compare or StringOperation.Output;

    /// <summary>Whether DI moves.</summary>
    public bool HasDestination => Operation is not (StringOperation.Load or StringOperation.Output);
}

// String instructions one element at a time (Intel SDM vol. 2: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, REP). Whole pages: Vcpu.StringBlocks.cs.
internal sealed unsafe partial class Vcpu
{
    // Elements between two looks at ExitRequest.
    private const int ElementsPerPoll = 256;

    private bool TryExecuteString(in Instruction instruction)
    {
        (StringOperation operation, int size) = instruction.Code switch
        {
            Code.Movsb_m8_m8 => (StringOperation.Move, 1),
            Code.Movsw_m16_m16 => (StringOperation.Move, 2),
            Code.Movsd_m32_m32 => (StringOperation.Move, 4),
            Code.Movsq_m64_m64 => (StringOperation.Move, 8),
            Code.Stosb_m8_AL => (StringOperation.Store, 1),
            Code.Stosw_m16_AX => (StringOperation.Store, 2),
            Code.Stosd_m32_EAX => (StringOperation.Store, 4),
            Code.Stosq_m64_RAX => (StringOperation.Store, 8),
            Code.Lodsb_AL_m8 => (StringOperation.Load, 1),
            Code.Lodsw_AX_m16 => (StringOperation.Load, 2),
            Code.Lodsd_EAX_m32 => (StringOperation.Load, 4),
            Code.Lodsq_RAX_m64 => (StringOperation.Load, 8),
            Code.Cmpsb_m8_m8 => (StringOperation.Compare, 1),
            Code.Cmpsw_m16_m16 => (StringOperation.Compare, 2),
            Code.Cmpsd_m32_m32 => (StringOperation.Compare, 4),
            Code.Cmpsq_m64_m64 => (StringOperation.Compare, 8),
            Code.Scasb_AL_m8 => (StringOperation.Scan, 1),
            Code.Scasw_AX_m16 => (StringOperation.Scan, 2),
            Code.Scasd_EAX_m32 => (StringOperation.Scan, 4),
            Code.Scasq_RAX_m64 => (StringOperation.Scan, 8),
            Code.Insb_m8_DX => (StringOperation.Input, 1),
            Code.Insw_m16_DX => (StringOperation.Input, 2),
            Code.Insd_m32_DX => (StringOperation.Input, 4),
            Code.Outsb_DX_m8 => (StringOperation.Output, 1),
            Code.Outsw_DX_m16 => (StringOperation.Output, 2),
            Code.Outsd_DX_m32 => (StringOperation.Output, 4),
            _ => (StringOperation.Move, 0),
        };
        if (size == 0)
        {
            return false;
        }
        bool source = operation is StringOperation.Move or StringOperation.Load or StringOperation.Compare or StringOperation.Output;
        int width = 8, segment = Seg.Ds;
        for (int i = 0; i < 2; i++)
        {
            switch (instruction.GetOpKind(i))
            {
                case OpKind.MemorySegSI or OpKind.MemoryESDI:
                    width = 2;
                    break;
                case OpKind.MemorySegESI or OpKind.MemoryESEDI:
                    width = 4;
                    break;
            }
        }
        if (source)
        {
            segment = instruction.MemorySegment - Register.ES;
        }
        int repeat = instruction.HasRepnePrefix ? 2 : instruction.HasRepPrefix ? 1 : 0;
        ExecuteString(new StringInstruction(operation, size, width, segment, repeat, (B->SystemFlags & FlagDf) != 0));
        return true;
    }

    private void ExecuteString(in StringInstruction s)
    {
        if (s.Repeat != 0 && (B->Gpr[1] & s.Mask) == 0)
        {
            SkipString(s);
            return;
        }
        if (s.Operation is StringOperation.Input or StringOperation.Output)
        {
            CheckPortAccess((ushort)B->Gpr[2], s.Size);
        }
        if (s.Repeat == 0)
        {
            ExecuteElement(s);
            AdvanceString(s, 1);
            return;
        }
        bool singleStep = (B->SystemFlags & FlagTf) != 0, blocks = StringBlocksAllowed;
        for (int elements = 1; ; elements++)
        {
            ulong done = blocks ? ExecuteBlock(s, B->Gpr[1] & s.Mask) : 0;
            if (done == 0)
            {
                ExecuteElement(s);
                done = 1;
            }
            AdvanceString(s, done);
            ulong count = (B->Gpr[1] - done) & s.Mask;
            WriteWidth(ref B->Gpr[1], count, s.AddressWidth);
            if (count == 0 || (s.Operation is StringOperation.Compare or StringOperation.Scan && Condition(ConditionCode.e) == (s.Repeat == 2)))
            {
                return;
            }
            if (singleStep || _debugStop is not null || ((done > 1 || elements % ElementsPerPoll == 0) && !Comparing && Volatile.Read(ref B->ExitRequest) != 0))
            {
                // Interrupted between elements: the instruction starts again with the registers as they are.
                B->NextRip = B->Rip;
                return;
            }
        }
    }

    // No element to do. With 32-bit addresses in 64-bit mode the registers are still written as 32-bit ones (seen on Intel hosts; SI and DI for MOVS and STOS only).
    private void SkipString(in StringInstruction s)
    {
        if (s.AddressWidth != 4)
        {
            return;
        }
        B->Gpr[1] = 0;
        if (s.Operation is StringOperation.Move or StringOperation.Store)
        {
            AdvanceString(s, 0);
        }
    }

    private void AdvanceString(in StringInstruction s, ulong elements)
    {
        ulong distance = s.Backward ? 0 - (elements * (uint)s.Size) : elements * (uint)s.Size;
        if (s.HasSource)
        {
            WriteWidth(ref B->Gpr[6], B->Gpr[6] + distance, s.AddressWidth);
        }
        if (s.HasDestination)
        {
            WriteWidth(ref B->Gpr[7], B->Gpr[7] + distance, s.AddressWidth);
        }
    }

    private ulong LoadElement(in StringInstruction s, int segment, int register) =>
        ReadLinear(LinearAddress(segment, B->Gpr[register] & s.Mask, s.Size, AccessKind.Read), s.Size, UserMode);

    private void ExecuteElement(in StringInstruction s)
    {
        switch (s.Operation)
        {
            case StringOperation.Move:
                ulong value = LoadElement(s, s.Segment, 6);
                WriteLinear(LinearAddress(Seg.Es, B->Gpr[7] & s.Mask, s.Size, AccessKind.Write), value, s.Size, UserMode);
                break;
            case StringOperation.Store:
                WriteLinear(LinearAddress(Seg.Es, B->Gpr[7] & s.Mask, s.Size, AccessKind.Write), B->Gpr[0] & WidthMask(s.Size), s.Size, UserMode);
                break;
            case StringOperation.Load:
                LoadAccumulator(LoadElement(s, s.Segment, 6), s.Size);
                break;
            case StringOperation.Compare:
                value = LoadElement(s, s.Segment, 6);
                SetStatusFlags(CompareFlags(value, LoadElement(s, Seg.Es, 7), s.Size));
                break;
            case StringOperation.Scan:
                SetStatusFlags(CompareFlags(B->Gpr[0], LoadElement(s, Seg.Es, 7), s.Size));
                break;
            case StringOperation.Input:
                // The device may change by being read, so the store must be known to succeed.
                ulong linear = LinearAddress(Seg.Es, B->Gpr[7] & s.Mask, s.Size, AccessKind.Write);
                ProbeWrite(linear, s.Size, UserMode);
                WriteLinear(linear, ReadPort((ushort)B->Gpr[2], s.Size), s.Size, UserMode);
                break;
            default:
                WritePort((ushort)B->Gpr[2], (uint)LoadElement(s, s.Segment, 6), s.Size);
                break;
        }
    }

    private void LoadAccumulator(ulong value, int size)
    {
        if (size == 1)
        {
            B->Gpr[0] = (B->Gpr[0] & ~0xFFUL) | (value & 0xFF);
        }
        else
        {
            WriteWidth(ref B->Gpr[0], value, size);
        }
    }
}
