using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

// RDMSR and WRMSR (Intel SDM vol. 4). A register that the model does not have is #GP(0).
internal sealed unsafe partial class Vcpu
{
    private const ulong MtrrCapabilities = 8 | 1 << 8 | 1 << 10;         // eight variable ranges, fixed ranges, write-combining
    private const ulong MiscEnableReset = 1 | 1 << 11 | 1 << 12;          // fast strings; branch trace and PEBS are not there
    private const ulong MiscEnableWritable = 1 | 1 << 3 | 1 << 7 | 1 << 16 | 1UL << 34; // fast strings, TCC, performance monitoring, SpeedStep, XD disable
    private const ulong PatReset = 0x0007_0406_0007_0406;
    private const ulong HwcrTscFrequencySelect = 1 << 24;

    private readonly ulong[] _mtrrVariable = new ulong[16];
    private readonly ulong[] _mtrrFixed = new ulong[11];
    private ulong _mtrrDefault, _pat = PatReset, _miscEnable = MiscEnableReset, _mcgStatus, _specCtrl, _virtualSpecCtrl, _tscAdjust;

    // What SaveRegisters keeps, besides the local APIC's own.
    private static readonly uint[] s_savedMsrs =
    [
        Msr.Tsc, Msr.TscAdjust, Msr.SpecCtrl, Msr.SysenterCs, Msr.SysenterEsp, Msr.SysenterEip, Msr.McgStatus, Msr.MiscEnable, Msr.Pat, Msr.MtrrDefType, Msr.Efer, Msr.Star, Msr.Lstar,
        Msr.Cstar, Msr.Fmask, Msr.KernelGsBase, Msr.TscAux, Msr.KvmWallClockNew, Msr.KvmSystemTimeNew, Msr.KvmEoiEnable, Msr.AmdVirtualSpecCtrl,
        .. From(Msr.MtrrPhysBase0, 16), Msr.MtrrFix64K00000, Msr.MtrrFix16K80000, Msr.MtrrFix16KA0000, .. From(Msr.MtrrFix4KC0000, 8),
    ];

    private static uint[] From(uint first, int count)
    {
        uint[] registers = new uint[count];
        for (int i = 0; i < count; i++)
        {
            registers[i] = first + (uint)i;
        }
        return registers;
    }

    private void ExecuteRdmsr()
    {
        RequireCpl0();
        if (!TryReadMsr((uint)B->Gpr[1], out ulong value))
        {
            GuestFault.GeneralProtection();
        }
        SetEdxEax(value);
    }

    private void ExecuteWrmsr()
    {
        RequireCpl0();
        if (!TryWriteMsr((uint)B->Gpr[1], EdxEax))
        {
            GuestFault.GeneralProtection();
        }
    }

    /// <summary>Reads a model-specific register; false: #GP.</summary>
    internal bool TryReadMsr(uint index, out ulong value)
    {
        switch (index)
        {
            case Msr.ApicBase or Msr.TscDeadline or (>= Msr.X2ApicFirst and <= Msr.X2ApicLast):
                return Apic.TryReadMsr(index, out value);
            case >= Msr.MtrrPhysBase0 and <= Msr.MtrrPhysMask7:
                value = _mtrrVariable[index - Msr.MtrrPhysBase0];
                return true;
            case Msr.ArchCapabilities when Model.Has(CpuFeature.ArchCapabilities):
                value = Model.ArchCapabilitiesRegister;
                return true;
            case Msr.SpecCtrl when HasSpeculationControl:
                value = _specCtrl;
                return true;
            case Msr.AmdVirtualSpecCtrl when Model.Has(CpuFeature.VirtualSsbd):
                value = _virtualSpecCtrl;
                return true;
            case >= Msr.AmdSyscfg and <= Msr.AmdDeCfg when Model.IsAmd:
                return TryReadAmdMsr(index, out value);
        }
        int fixedRange = FixedMtrr(index);
        if (fixedRange >= 0)
        {
            value = _mtrrFixed[fixedRange];
            return true;
        }
        ulong? found = index switch
        {
            Msr.P5McAddr or Msr.P5McType => 0,
            Msr.Tsc => ReadTsc(),
            Msr.PlatformId or Msr.EblCrPowerOn when !Model.IsAmd => 0,
            Msr.FeatureControl when !Model.IsAmd => 1, // locked, VMX off
            Msr.TscAdjust => _tscAdjust,
            // Microcode revision, in EDX: high enough for every errata table that has one.
            Msr.BiosSignatureId => Model.IsAmd ? 0xFFFF_FFFFUL : 0xFFFF_FFFFUL << 32,
            Msr.MtrrCap => MtrrCapabilities,
            Msr.SysenterCs => B->SysenterCs,
            Msr.SysenterEsp => B->SysenterEsp,
            Msr.SysenterEip => B->SysenterEip,
            Msr.McgCap => 0,
            Msr.McgStatus => _mcgStatus,
            Msr.MiscEnable when !Model.IsAmd => _miscEnable,
            Msr.DebugCtl => 0,
            Msr.Pat => _pat,
            Msr.MtrrDefType => _mtrrDefault,
            Msr.Efer => B->Efer,
            Msr.Star => B->Star,
            Msr.Lstar => B->Lstar,
            Msr.Cstar => B->Cstar,
            Msr.Fmask => B->SyscallMask,
            Msr.FsBase => Segment(Seg.Fs)->Base,
            Msr.GsBase => Segment(Seg.Gs)->Base,
            Msr.KernelGsBase => B->KernelGsBase,
            Msr.TscAux => B->TscAux,
            Msr.KvmWallClock or Msr.KvmWallClockNew => _wallClockMsr,
            Msr.KvmSystemTime or Msr.KvmSystemTimeNew => _systemTimeMsr,
            Msr.KvmEoiEnable => Apic.ParavirtualEoi,
            _ => null,
        };
        value = found ?? 0;
        return found is not null;
    }

    /// <summary>Writes a model-specific register; false: #GP, with nothing changed.</summary>
    internal bool TryWriteMsr(uint index, ulong value)
    {
        switch (index)
        {
            case Msr.ApicBase or Msr.TscDeadline or (>= Msr.X2ApicFirst and <= Msr.X2ApicLast):
                ulong page = Apic.MemoryBase;
                bool accepted = Apic.TryWriteMsr(index, value);
                if (page != Apic.MemoryBase)
                {
                    TlbFlushAll(true); // another page is RAM now
                }
                return accepted;
            case Msr.P5McAddr or Msr.P5McType:
                return value == 0;
            case Msr.Tsc:
                ulong step = value - ReadTsc();
                B->TscOffset += step;
                _tscAdjust += step;
                TimestampChanged();
                return true;
            case Msr.TscAdjust:
                B->TscOffset += value - _tscAdjust;
                _tscAdjust = value;
                TimestampChanged();
                return true;
            case Msr.BiosUpdateTrigger or Msr.BiosSignatureId:
                return true; // no microcode is taken
            case Msr.SpecCtrl when HasSpeculationControl:
                return Store(ref _specCtrl, value, (value & ~SpeculationBits) == 0);
            case Msr.AmdVirtualSpecCtrl when Model.Has(CpuFeature.VirtualSsbd):
                return Store(ref _virtualSpecCtrl, value, (value & ~4UL) == 0); // SSBD: kept for the guest to read, it does nothing here
            case Msr.PredCmd when HasSpeculationControl:
                return (value & ~1UL) == 0; // IBPB: the host's kernel keeps predictors of processes apart
            case Msr.FlushCmd when Model.Has(CpuFeature.FlushL1d):
                return (value & ~1UL) == 0; // likewise for the first-level cache
            case Msr.SysenterCs:
                return Store(ref B->SysenterCs, (uint)value, true);
            case Msr.SysenterEsp:
                return Store(ref B->SysenterEsp, value, IsCanonical(value));
            case Msr.SysenterEip:
                return Store(ref B->SysenterEip, value, IsCanonical(value));
            case Msr.McgStatus:
                return Store(ref _mcgStatus, value, value == 0); // software may only clear it
            case Msr.MiscEnable when !Model.IsAmd:
                return Store(ref _miscEnable, (value & MiscEnableWritable) | (_miscEnable & ~MiscEnableWritable), (value & 1UL << 34) == 0 && (value & 1 << 18) == 0);
            case Msr.DebugCtl:
                return (value & ~3UL) == 0; // LBR and BTF are accepted and record nothing
            case >= Msr.MtrrPhysBase0 and <= Msr.MtrrPhysMask7:
                return TryWriteVariableMtrr((int)(index - Msr.MtrrPhysBase0), value);
            case Msr.Pat:
                return Store(ref _pat, value, AreMemoryTypes(value, pat: true));
            case Msr.MtrrDefType:
                return Store(ref _mtrrDefault, value, (value & ~0xCFFUL) == 0 && IsMemoryType((byte)value, pat: false));
            case Msr.Efer:
                return TryWriteEfer(value);
            case Msr.Star:
                return Store(ref B->Star, value, true);
            case Msr.Lstar:
                return Store(ref B->Lstar, value, IsCanonical(value));
            case Msr.Cstar:
                return Store(ref B->Cstar, value, IsCanonical(value));
            case Msr.Fmask:
                bool stored = Store(ref B->SyscallMask, (uint)value, value >> 32 == 0);
                UpdateMode();
                return stored;
            case Msr.FsBase:
                return Store(ref Segment(Seg.Fs)->Base, value, IsCanonical(value));
            case Msr.GsBase:
                return Store(ref Segment(Seg.Gs)->Base, value, IsCanonical(value));
            case Msr.KernelGsBase:
                return Store(ref B->KernelGsBase, value, IsCanonical(value));
            case Msr.TscAux:
                return Store(ref B->TscAux, value, value >> 32 == 0);
            case Msr.KvmWallClock or Msr.KvmWallClockNew:
                WriteWallClockMsr(value);
                return true;
            case Msr.KvmSystemTime or Msr.KvmSystemTimeNew:
                WriteSystemTimeMsr(value);
                return true;
            case Msr.KvmEoiEnable:
                return Apic.TrySetPvEoi(value);
            case >= Msr.AmdSyscfg and <= Msr.AmdDeCfg when Model.IsAmd:
                return TryWriteAmdMsr(index, value);
        }
        int fixedRange = FixedMtrr(index);
        return fixedRange >= 0 && Store(ref _mtrrFixed[fixedRange], value, AreMemoryTypes(value, pat: false));
    }

    private bool HasSpeculationControl => Model.Has(CpuFeature.SpeculationControl) || Model.Has(CpuFeature.AmdIbpb) || Model.Has(CpuFeature.AmdIbrs);

    // IBRS, STIBP, SSBD, IPRED_DIS, RRSBA_DIS, PSFD, BHI_DIS_S: kept for the guest to read, they do nothing here.
    private ulong SpeculationBits => 1UL | (Model.Has(CpuFeature.Stibp) || Model.Has(CpuFeature.AmdStibp) ? 2UL : 0) | (Model.Has(CpuFeature.Ssbd) || Model.Has(CpuFeature.AmdSsbd) ? 4UL : 0)
        | (Model.Has(CpuFeature.IndirectPredictionControl) ? 3UL << 3 : 0) | (Model.Has(CpuFeature.RrsbaControl) ? 3UL << 5 : 0)
        | (Model.Has(CpuFeature.PredictiveStoreForwardingDisable) ? 1UL << 7 : 0) | (Model.Has(CpuFeature.BranchHistoryControl) ? 1UL << 10 : 0);

    private static bool Store(ref ulong register, ulong value, bool valid)
    {
        if (valid)
        {
            register = value;
        }
        return valid;
    }

    private bool TryWriteEfer(ulong value)
    {
        ulong supported = EferBits.Sce | EferBits.Lme | EferBits.Lma | EferBits.Nxe | (Model.Has(CpuFeature.AmdAutomaticIbrs) ? EferBits.AutomaticIbrs : 0);
        ulong changed = value ^ B->Efer;
        if ((value & ~supported) != 0 || ((changed & EferBits.Lme) != 0 && (B->Cr0 & Cr0Bits.Pg) != 0))
        {
            return false;
        }
        B->Efer = (value & ~EferBits.Lma) | (B->Efer & EferBits.Lma);
        if ((changed & EferBits.Nxe) != 0)
        {
            TlbFlushAll(true);
        }
        UpdateMode();
        return true;
    }

    // Memory types: UC 0, WC 1, WT 4, WP 5, WB 6, and UC- 7 in PAT only (12.11.1, 12.12.2).
    private static bool IsMemoryType(byte type, bool pat) => type is 0 or 1 or 4 or 5 or 6 || (pat && type == 7);

    private static bool AreMemoryTypes(ulong types, bool pat)
    {
        for (int i = 0; i < 8; i++)
        {
            if (!IsMemoryType((byte)(types >> (i * 8)), pat))
            {
                return false;
            }
        }
        return true;
    }

    private bool TryWriteVariableMtrr(int register, ulong value)
    {
        bool mask = (register & 1) != 0;
        ulong allowed = PhysicalMask | (mask ? 0x800u : 0xFFu);
        return Store(ref _mtrrVariable[register], value, (value & ~allowed) == 0 && (mask || IsMemoryType((byte)value, pat: false)));
    }

    private static int FixedMtrr(uint index) => index switch
    {
        Msr.MtrrFix64K00000 => 0,
        Msr.MtrrFix16K80000 => 1,
        Msr.MtrrFix16KA0000 => 2,
        >= Msr.MtrrFix4KC0000 and <= Msr.MtrrFix4KF8000 => (int)(index - Msr.MtrrFix4KC0000) + 3,
        _ => -1,
    };

    // Registers that kernels read on any AMD processor of these families.
    private static bool TryReadAmdMsr(uint index, out ulong value)
    {
        value = index switch
        {
            Msr.AmdHwcr => HwcrTscFrequencySelect,
            Msr.AmdDeCfg => 2, // LFENCE is serializing
            _ => 0,
        };
        return index is Msr.AmdSyscfg or Msr.AmdHwcr or Msr.AmdNbCfg or Msr.AmdDeCfg;
    }

    // Linux switches extended configuration accesses through port 0xCF8 on by NB_CFG (EnableCf8ExtCfg); they go through ECAM, the bit does nothing.
    private static bool TryWriteAmdMsr(uint index, ulong value) =>
        TryReadAmdMsr(index, out ulong fixedValue) && (index == Msr.AmdNbCfg ? value & ~(1UL << 46) : value) == fixedValue;
}
