using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Translation.Execution;

namespace Lodge.Engine.Translation.Processor;

/// <summary>T0: one instruction, in any mode, with every check of the manual.</summary>
internal sealed unsafe partial class Vcpu
{
    private readonly InstructionBytes _bytes = new();
    private readonly Decoder[] _decoders = new Decoder[3];
    private readonly InstructionInfoFactory _information = new();
    private byte* _fetchPage;
    private ulong _fetchLinear = 1;
    private uint _fetchVersion;
    private uint _fetchMode;

    /// <summary>Instructions executed by C#.</summary>
    internal long InterpretedInstructions;

    /// <summary>Executes the instruction at CS:RIP. Throws <see cref="GuestFault"/> with RIP unchanged when it faults.</summary>
    internal void ExecuteOne()
    {
        InterpretedInstructions++;
        Instruction instruction = FetchInstruction();
        ulong mask = CodeBits switch { 64 => ulong.MaxValue, 32 => 0xFFFF_FFFF, _ => 0xFFFF };
        ulong next = B->Rip + (ulong)instruction.Length;
        B->NextRip = next & (mask == 0xFFFF ? 0xFFFF_FFFF : mask);
        InstructionKind kind = InstructionKinds.Of(instruction);
        if (kind == InstructionKind.Nop)
        {
            B->Rip = B->NextRip;
            return;
        }
        CheckAvailability(instruction);
        switch (kind)
        {
            case InstructionKind.Copy or InstructionKind.CopyX87:
                ExecuteCopied(instruction, kind == InstructionKind.CopyX87);
                break;
            case InstructionKind.Lea:
                WriteRegister(instruction.Op0Register, EffectiveOffset(instruction));
                break;
            default:
                if (!TryExecuteFlow(instruction) && !TryExecuteProtection(instruction) && !TryExecuteSystem(instruction) && !TryExecuteVectorMemory(instruction))
                {
                    GuestFault.InvalidOpcode();
                }
                break;
        }
        B->Rip = CodeBits switch { 64 => B->NextRip, 32 => B->NextRip & 0xFFFF_FFFF, _ => B->NextRip & 0xFFFF_FFFF };
    }

    /// <summary>Decodes the instruction at CS:RIP; #PF, #GP (limit, length) and #UD as the fetch would raise.</summary>
    private Instruction FetchInstruction()
    {
        int bits = CodeBits;
        ulong rip = B->Rip;
        ulong linear = bits == 64 ? rip : (Segment(Seg.Cs)->Base + rip) & 0xFFFF_FFFF;
        int available = 15;
        if (bits == 64)
        {
            if ((ulong)((long)(rip << 16) >> 16) != rip)
            {
                GuestFault.GeneralProtection();
            }
        }
        else
        {
            uint limit = Segment(Seg.Cs)->Limit;
            if (rip > limit)
            {
                GuestFault.GeneralProtection();
            }
            available = (int)Math.Min(15UL, limit - rip + 1);
        }
        int inPage = Math.Min(available, 4096 - (int)(linear & 0xFFF));
        byte* buffer = _bytes.Data;
        FetchBytes(linear, inPage, buffer);
        _bytes.Restart(inPage);
        Decoder decoder = _decoders[bits >> 5] ??= Decoder.Create(bits, _bytes, DecoderOptions);
        decoder.IP = rip;
        decoder.Decode(out Instruction instruction);
        if (instruction.IsInvalid && decoder.LastError == DecoderError.NoMoreBytes)
        {
            if (inPage == available)
            {
                GuestFault.GeneralProtection(); // beyond 15 bytes or the limit
            }
            ulong second = bits == 64 ? linear + (ulong)inPage : (linear + (ulong)inPage) & 0xFFFF_FFFF;
            FetchBytes(second, available - inPage, buffer + inPage);
            _bytes.Restart(available);
            decoder.IP = rip;
            decoder.Decode(out instruction);
            if (instruction.IsInvalid && decoder.LastError == DecoderError.NoMoreBytes)
            {
                GuestFault.GeneralProtection();
            }
        }
        if (instruction.IsInvalid)
        {
            GuestFault.InvalidOpcode();
        }
        return instruction;
    }

    private void FetchBytes(ulong linear, int count, byte* destination)
    {
        ulong page = linear & ~0xFFFUL;
        if (_fetchLinear != page || _fetchVersion != FetchVersion || _fetchMode != (B->Mode & 3) || _fetchPage == null)
        {
            int mode = TlbMode;
            SecondLevelEntry* entry = TlbLookup(linear, AccessKind.Execute, mode);
            if (entry == null)
            {
                GuestFault.Raise(PendingFault.Vector, PendingFault.ErrorCode, PendingFault.Address);
            }
            if (entry->Host == null)
            {
                for (int i = 0; i < count; i++)
                {
                    Bus.ReadMemory(entry->Physical + (linear & 0xFFF) + (ulong)i, new Span<byte>(destination + i, 1));
                }
                return;
            }
            _fetchLinear = page;
            _fetchPage = entry->Host;
            _fetchVersion = FetchVersion;
            _fetchMode = B->Mode & 3;
        }
        new ReadOnlySpan<byte>(Compared(_fetchPage + (linear & 0xFFF), false), count).CopyTo(new Span<byte>(destination, count));
    }

    private void ExecuteCopied(in Instruction instruction, bool x87)
    {
        int operand = Reencoder.MemoryOperand(instruction);
        if (operand < 0)
        {
            RunThunk(instruction, null, x87, false);
            return;
        }
        int size = instruction.MemorySize.GetSize();
        OpAccess opAccess = _information.GetInfo(instruction, InstructionInfoOptions.NoRegisterUsage | InstructionInfoOptions.NoMemoryUsage).GetOpAccess(operand);
        if (opAccess == OpAccess.NoMemAccess || size == 0)
        {
            RunThunk(instruction, B->Bounce, x87, false);
            return;
        }
        bool write = opAccess is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;
        bool read = opAccess is not (OpAccess.Write or OpAccess.CondWrite);
        ulong offset = EffectiveOffset(instruction);
        bool bitString = IsBitString(instruction);
        if (bitString)
        {
            int bits = size * 8;
            long index = SignExtend(ReadRegister(instruction.Op1Register), size) >> (bits == 64 ? 6 : bits == 32 ? 5 : 4);
            offset += (ulong)(index * size);
            offset = instruction.MemoryBase.GetSize() is 2 || instruction.MemoryIndex.GetSize() is 2 ? offset & 0xFFFF : CodeBits == 64 && !Is32BitAddress(instruction) ? offset : offset & 0xFFFF_FFFF;
        }
        ulong linear = LinearAddress(SegmentIndex(instruction.MemorySegment), offset, size, write ? AccessKind.Write : AccessKind.Read, size == 10 ? 8 : 0);
        bool user = B->Cpl == 3;
        if ((linear & 0xFFF) + (ulong)size <= 4096)
        {
            if (!TryWalk(linear, write ? AccessKind.Write : AccessKind.Read, user, out PageTranslation translation, out uint errorCode))
            {
                GuestFault.Raise(Vector.PageFault, errorCode, linear);
            }
            if (translation.Host != null)
            {
                RunThunk(instruction, translation.Host, x87, bitString);
                HideHostPointers(instruction, translation.Host);
                NoteDataAccess(linear, size, write);
                if (write)
                {
                    Memory.Written(translation.Physical, (ulong)size);
                }
                return;
            }
        }
        // Device memory or two pages: through a bounce buffer of the same alignment.
        byte* bounce = B->Bounce + (linear & 63);
        var data = new Span<byte>(bounce, size);
        if (write)
        {
            ProbeWrite(linear, size, user);
        }
        // An x87 store whose exception is unmasked stores nothing: what is there must stay. (Loading it first would disturb devices, which get zeros.)
        if (read || (x87 && (linear & 0xFFF) + (ulong)size > 4096))
        {
            ReadLinear(linear, data, user);
        }
        else
        {
            data.Clear();
        }
        RunThunk(instruction, bounce, x87, bitString);
        HideHostPointers(instruction, bounce);
        if (write)
        {
            WriteLinear(linear, data, user);
        }
    }

    // FNSTENV and FNSAVE store the x87 unit's last instruction and data pointers, which are addresses of this process here.
    private static void HideHostPointers(in Instruction instruction, byte* image)
    {
        if (instruction.Mnemonic is Mnemonic.Fnstenv or Mnemonic.Fnsave)
        {
            bool narrow = instruction.MemorySize is MemorySize.FpuEnv14 or MemorySize.FpuState94;
            new Span<byte>(image + (narrow ? 6 : 12), narrow ? 8 : 16).Clear();
        }
    }

    /// <summary>BT, BTS, BTR, BTC with a register offset and memory: the offset reaches beyond the operand.</summary>
    internal static bool IsBitString(in Instruction instruction) =>
        instruction.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && instruction.Op0Kind == OpKind.Memory && instruction.Op1Kind == OpKind.Register;

    private static bool Is32BitAddress(in Instruction instruction) =>
        instruction.MemoryBase is >= Register.EAX and <= Register.R15D or Register.EIP || instruction.MemoryIndex is >= Register.EAX and <= Register.R15D || (instruction.MemoryBase == Register.None && instruction.MemoryIndex == Register.None && instruction.MemoryDisplSize == 4);

    internal static int SegmentIndex(Register segment) => segment - Register.ES;

    private void RunThunk(in Instruction instruction, byte* operand, bool x87, bool bitString)
    {
        byte* code = Blocks.Thunk(instruction, x87, bitString);
        ulong hostRsp = B->HostRsp;
        B->Scratch2 = (ulong)operand;
        Blocks.Stubs.Enter(B, code);
        B->HostRsp = hostRsp;
        if ((int)B->ExitInfo == ExitCode.HostFault)
        {
            RaiseHostFault(instruction);
        }
    }

    /// <summary>The guest exception that a host signal in a copied instruction stands for.</summary>
    private void RaiseHostFault(in Instruction instruction)
    {
        (Vector vector, uint? errorCode) = HostFaultVector(instruction, (int)B->FaultSignal);
        GuestFault.Raise(vector, errorCode);
    }

    internal static (Vector Vector, uint? ErrorCode) HostFaultVector(in Instruction instruction, int signal)
    {
        const int SigIll = 4, SigBus = 7, SigFpe = 8;
        switch (signal)
        {
            case SigIll:
                return (Vector.InvalidOpcode, null);
            case SigFpe:
                return instruction.Mnemonic is Mnemonic.Div or Mnemonic.Idiv ? (Vector.DivideError, null)
                    : InstructionKinds.Of(instruction) == InstructionKind.CopyX87 ? (Vector.X87FloatingPoint, null) : (Vector.SimdFloatingPoint, null);
            case SigBus:
                throw new EngineFailure("guest memory could not be backed (host out of memory)");
            default:
                return (Vector.GeneralProtection, 0);
        }
    }

    /// <summary>Feeds the decoder.</summary>
    private sealed class InstructionBytes : CodeReader
    {
        public readonly byte* Data = (byte*)System.Runtime.InteropServices.NativeMemory.AllocZeroed(64);
        private int _at;
        private int _end;

        public void Restart(int count)
        {
            _at = 0;
            _end = count;
        }

        public override int ReadByte() => _at < _end ? Data[_at++] : -1;
    }
}

/// <summary>The engine cannot go on; ends the processor's run with <see cref="ProcessorExit.Failed"/>.</summary>
internal sealed class EngineFailure(string message) : Exception(message);
