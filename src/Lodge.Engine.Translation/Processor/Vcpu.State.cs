using System.Runtime.CompilerServices;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Engine.Translation.Processor;

// Reset (Intel SDM vol. 3, 11.1.1 and table 11-1) and the saved form of the registers.
internal sealed unsafe partial class Vcpu
{
    private const ulong Cr0Reset = Cr0Bits.Cd | Cr0Bits.Nw | Cr0Bits.Et;
    private const uint DataAttributes = 0x93, CodeAttributes = 0x9B, LdtAttributes = 0x82, TssAttributes = 0x8B;

    // RFLAGS bits that exist; bit 1 is always set.
    private const ulong FlagsWritable = 0x3F_7FD5;

    /// <summary>Puts all registers in their state after power-on or RESET. Activity, NMI blocking and the local APIC are the caller's.</summary>
    internal void ResetRegisters()
    {
        Model.TimestampFrequency = Partition.TimestampFrequency;
        ResetX87();
        Unsafe.InitBlockUnaligned(B->Ymm, 0, 512);
        B->Mxcsr = MxcsrReset;
        B->Pkru = 0;
        B->Xcr0 = CpuModel.ComponentX87;
        B->Star = B->Lstar = B->Cstar = B->SyscallMask = B->KernelGsBase = B->TscAux = 0;
        B->SysenterCs = B->SysenterEsp = B->SysenterEip = 0;
        B->TscOffset = 0 - Partition.PowerOnTimestamp;
        _tscAdjust = _specCtrl = _virtualSpecCtrl = _mcgStatus = _mtrrDefault = 0;
        _miscEnable = MiscEnableReset;
        _pat = PatReset;
        _wallClockMsr = _systemTimeMsr = 0;
        _pendingEvent = null;
        Array.Clear(_mtrrVariable);
        Array.Clear(_mtrrFixed);
        B->Cr0 = Cr0Reset;
        InitializeRegisters();
    }

    /// <summary>Puts the registers in their state after INIT: as <see cref="ResetRegisters"/>, but the TSC, caching control, MTRRs, x87 and vector registers and other MSRs stay.</summary>
    internal void InitializeRegisters()
    {
        for (int i = 0; i < 16; i++)
        {
            B->Gpr[i] = 0;
        }
        B->Gpr[2] = Model.Cpuid(1, 0, default).Eax; // EDX: family, model and stepping
        Rflags = 2;
        B->Rip = B->NextRip = 0xFFF0;
        for (int i = 0; i < 6; i++)
        {
            SetSegment(i, 0, 0, 0xFFFF, DataAttributes);
        }
        SetSegment(Seg.Cs, 0xF000, 0xFFFF_0000, 0xFFFF, CodeAttributes);
        SetSegment(6, 0, 0, 0xFFFF, LdtAttributes);
        SetSegment(7, 0, 0, 0xFFFF, TssAttributes);
        B->GdtrBase = B->IdtrBase = 0;
        B->GdtrLimit = B->IdtrLimit = 0xFFFF;
        B->Cr0 = (B->Cr0 & (Cr0Bits.Cd | Cr0Bits.Nw)) | Cr0Bits.Et;
        B->Cr2 = B->Cr3 = B->Cr4 = B->Efer = 0;
        B->Dr0 = B->Dr1 = B->Dr2 = B->Dr3 = 0;
        B->Dr6 = Dr6Fixed;
        B->Dr7 = Dr7Fixed;
        B->Cpl = 0;
        B->InterruptShadow = 0;
        PendingDebug = 0;
        UpdateDataWatch();
        TlbFlushAll(true);
        UpdateMode();
    }

    private void SetSegment(int index, ushort selector, ulong linearBase, uint limit, uint attributes)
    {
        Segment* segment = Segment(index);
        segment->Selector = selector;
        segment->Base = linearBase;
        segment->Limit = limit;
        segment->Attributes = attributes;
    }

    /// <summary>The registers in the form shared by all engines, without the local APIC's.</summary>
    internal ProcessorState SaveRegisters()
    {
        var state = new ProcessorState
        {
            InstructionPointer = B->Rip,
            Flags = Rflags,
            LocalDescriptorTable = SaveSegment(6),
            TaskRegister = SaveSegment(7),
            GlobalDescriptorTable = new TableRegister(B->GdtrBase, (ushort)B->GdtrLimit),
            InterruptDescriptorTable = new TableRegister(B->IdtrBase, (ushort)B->IdtrLimit),
            Cr0 = B->Cr0,
            Cr2 = B->Cr2,
            Cr3 = B->Cr3,
            Cr4 = B->Cr4,
            Xcr0 = B->Xcr0,
            DebugAddresses = [B->Dr0, B->Dr1, B->Dr2, B->Dr3],
            Dr6 = B->Dr6,
            Dr7 = B->Dr7,
            ExtendedState = GetExtendedState(),
            Pkru = B->Pkru,
            Activity = (ActivityState)B->Activity,
            InterruptShadow = B->InterruptShadow != 0,
            DebugShadow = B->InterruptShadow == Shadow.StackSegment,
            PendingDebug = PendingDebug,
            NmiBlocked = B->NmiBlocked != 0,
            PendingEvent = _pendingEvent,
            PageDirectoryPointers = UsesPdptes(B->Cr0, B->Cr4, B->Efer) ? [.. _pdptes] : null,
        };
        for (int i = 0; i < 16; i++)
        {
            state.GeneralRegisters[i] = B->Gpr[i];
        }
        for (int i = 0; i < 6; i++)
        {
            state.Segments[i] = SaveSegment(i);
        }
        foreach (uint index in s_savedMsrs)
        {
            if (TryReadMsr(index, out ulong value))
            {
                state.ModelSpecificRegisters[index] = value;
            }
        }
        state.ModelSpecificRegisters[Msr.Tsc] = Partition.MachineTimestamp() + B->TscOffset;
        return state;
    }

    /// <summary>Replaces the registers. Everything that the architecture cannot hold is refused before anything changes, except for MSRs and extended state.</summary>
    /// <exception cref="SavedStateException">The state is not one that this model's processor can be in.</exception>
    internal void RestoreRegisters(ProcessorState state)
    {
        ulong efer = state.ModelSpecificRegisters.GetValueOrDefault(Msr.Efer);
        Check(state, efer);
        CheckTimestampFrequency();
        Array.Clear(_availability); // the model may have become another
        for (int i = 0; i < 16; i++)
        {
            B->Gpr[i] = state.GeneralRegisters[i];
        }
        B->Rip = B->NextRip = state.InstructionPointer;
        Rflags = (state.Flags & FlagsWritable) | 2;
        for (int i = 0; i < 6; i++)
        {
            RestoreSegment(i, state.Segments[i]);
        }
        RestoreSegment(6, state.LocalDescriptorTable);
        RestoreSegment(7, state.TaskRegister);
        (B->GdtrBase, B->GdtrLimit) = (state.GlobalDescriptorTable.Base, state.GlobalDescriptorTable.Limit);
        (B->IdtrBase, B->IdtrLimit) = (state.InterruptDescriptorTable.Base, state.InterruptDescriptorTable.Limit);
        (B->Cr0, B->Cr2, B->Cr3, B->Cr4, B->Xcr0, B->Efer) = ((state.Cr0 & Cr0Bits.All) | Cr0Bits.Et, state.Cr2, state.Cr3, state.Cr4, state.Xcr0, efer);
        (B->Dr0, B->Dr1, B->Dr2, B->Dr3) = (state.DebugAddresses[0], state.DebugAddresses[1], state.DebugAddresses[2], state.DebugAddresses[3]);
        B->Dr6 = (state.Dr6 & Dr6Writable) | Dr6Fixed;
        B->Dr7 = (state.Dr7 & Dr7Writable) | Dr7Fixed;
        B->Pkru = state.Pkru;
        // CPL is the DPL of SS (3.4.3 and VMX 25.3.1.5 say so of a consistent state); none in real mode, 3 in virtual-8086 mode.
        B->Cpl = !ProtectedMode ? 0 : Virtual8086 ? 3 : (uint)Segment(Seg.Ss)->Dpl;
        B->Activity = (uint)(state.PendingTripleFault ? ActivityState.Shutdown : state.Activity);
        _pendingEvent = state.PendingEvent;
        B->InterruptShadow = state.DebugShadow ? Shadow.StackSegment : state.InterruptShadow ? Shadow.Sti : 0;
        B->NmiBlocked = state.NmiBlocked ? 1u : 0;
        PendingDebug = state.DebugShadow ? state.PendingDebug & 0xF : 0;
        SetExtendedState(state.ExtendedState);
        RestoreMsrs(state);
        if (UsesPdptes(B->Cr0, B->Cr4, B->Efer))
        {
            if (state.PageDirectoryPointers is { Length: 4 } pointers)
            {
                pointers.CopyTo(_pdptes, 0);
            }
            else
            {
                TryLoadPdptes(B->Cr3);
            }
        }
        UpdateDataWatch();
        TlbFlushAll(true);
        UpdateMode();
    }

    private void Check(ProcessorState state, ulong efer)
    {
        bool paging = (state.Cr0 & Cr0Bits.Pg) != 0, longMode = (efer & EferBits.Lme) != 0 && paging;
        string? wrong =
            state.GeneralRegisters.Length != 16 || state.Segments.Length != 6 || state.DebugAddresses.Length != 4 ? "register counts"
            : state.Cr0 >> 32 != 0 || (paging && (state.Cr0 & Cr0Bits.Pe) == 0) ? "CR0"
            : (state.Cr4 & ~SupportedCr4) != 0 || (longMode && (state.Cr4 & Cr4Bits.Pae) == 0) || (!longMode && (state.Cr4 & Cr4Bits.Pcide) != 0) ? "CR4"
            : state.Cr3 >> Model.PhysicalBits != 0 ? "CR3"
            : !IsValidXcr0(state.Xcr0) ? "XCR0"
            : (efer & ~(EferBits.Sce | EferBits.Lme | EferBits.Lma | EferBits.Nxe | EferBits.AutomaticIbrs)) != 0 || ((efer & EferBits.Lma) != 0) != longMode ? "EFER"
            : longMode && !(IsCanonical(state.Segments[Seg.Fs].Base) && IsCanonical(state.Segments[Seg.Gs].Base) && IsCanonical(state.InstructionPointer)) ? "a base or RIP"
            : state.Activity > ActivityState.WaitForSipi ? "activity"
            : state.NestedState.Length > 0 ? "it runs nested guests, which needs VMX or SVM; the software engine has neither"
            : null;
        if (wrong is not null)
        {
            throw new SavedStateException($"processor state is not valid: {wrong}");
        }
    }

    // A guest that was started elsewhere takes its counter for as fast as it was there; nothing here can make the host's faster or slower.
    private void CheckTimestampFrequency()
    {
        long own = Partition.TimestampFrequency, guest = Model.TimestampFrequency;
        if (guest == 0)
        {
            Model.TimestampFrequency = own;
        }
        else if (!CpuModel.IsCloseEnough(guest, own))
        {
            throw new SavedStateException(
                $"the machine's time stamp counter runs at {guest / 1000} kHz and this host's at {own / 1000} kHz, which needs TSC scaling; the software engine has none");
        }
    }

    private void RestoreMsrs(ProcessorState state)
    {
        foreach (uint index in s_savedMsrs)
        {
            if (!state.ModelSpecificRegisters.TryGetValue(index, out ulong value))
            {
                continue;
            }
            switch (index)
            {
                case Msr.Efer:
                    break; // already
                case Msr.Tsc:
                    B->TscOffset = value - Partition.MachineTimestamp();
                    break;
                case Msr.TscAdjust:
                    _tscAdjust = value;
                    break;
                case Msr.KvmSystemTimeNew:
                    _systemTimeMsr = value; // the guest's page is in its memory and is rewritten when time goes on
                    break;
                case Msr.KvmWallClockNew:
                    _wallClockMsr = value;
                    break;
                case Msr.MiscEnable:
                    _miscEnable = (value & MiscEnableWritable) | (MiscEnableReset & ~MiscEnableWritable);
                    break;
                default:
                    // An engine may tell of a register that the model lacks, which is zero then.
                    if (!TryWriteMsr(index, value) && (value != 0 || TryReadMsr(index, out _)))
                    {
                        throw new SavedStateException($"processor state is not valid: MSR 0x{index:X}");
                    }
                    break;
            }
        }
        // Registers that only another engine has are dropped where they do nothing.
        foreach ((uint index, ulong value) in state.ModelSpecificRegisters)
        {
            bool known = Array.IndexOf(s_savedMsrs, index) >= 0 || index is Msr.ApicBase or Msr.TscDeadline or (>= Msr.X2ApicFirst and <= Msr.X2ApicLast);
            if (!known && value != 0 && !(TryReadMsr(index, out ulong own) && own == value) && !TryWriteMsr(index, value))
            {
                throw new SavedStateException($"the guest uses MSR 0x{index:X} (0x{value:X}), which the software engine lacks");
            }
        }
    }

    private SegmentState SaveSegment(int index)
    {
        Segment* segment = Segment(index);
        return new SegmentState(segment->Selector, segment->Base, segment->Limit, segment->Attributes);
    }

    private void RestoreSegment(int index, SegmentState segment) => SetSegment(index, segment.Selector, segment.Base, segment.Limit, segment.Attributes & 0x1_F0FF);
}
