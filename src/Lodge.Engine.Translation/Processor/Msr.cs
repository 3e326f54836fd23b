namespace Lodge.Engine.Translation.Processor;

/// <summary>Model-specific registers by their names in Intel SDM vol. 4 (table 2-2), AMD APM vol. 2 (appendix A) and Linux Documentation/virt/kvm/x86/msr.rst.</summary>
internal static class Msr
{
    public const uint
        P5McAddr = 0x0, P5McType = 0x1, Tsc = 0x10, PlatformId = 0x17, ApicBase = 0x1B, EblCrPowerOn = 0x2A, FeatureControl = 0x3A,
        TscAdjust = 0x3B, SpecCtrl = 0x48, PredCmd = 0x49,
        BiosUpdateTrigger = 0x79, BiosSignatureId = 0x8B, MtrrCap = 0xFE, ArchCapabilities = 0x10A, FlushCmd = 0x10B, SysenterCs = 0x174, SysenterEsp = 0x175, SysenterEip = 0x176,
        McgCap = 0x179, McgStatus = 0x17A, MiscEnable = 0x1A0, DebugCtl = 0x1D9, MtrrPhysBase0 = 0x200, MtrrPhysMask7 = 0x20F, MtrrFix64K00000 = 0x250, MtrrFix16K80000 = 0x258,
        MtrrFix16KA0000 = 0x259, MtrrFix4KC0000 = 0x268, MtrrFix4KF8000 = 0x26F, Pat = 0x277, MtrrDefType = 0x2FF, TscDeadline = 0x6E0, X2ApicFirst = 0x800, X2ApicLast = 0x8FF;

    public const uint
        Efer = 0xC000_0080, Star = 0xC000_0081, Lstar = 0xC000_0082, Cstar = 0xC000_0083, Fmask = 0xC000_0084, FsBase = 0xC000_0100, GsBase = 0xC000_0101,
        KernelGsBase = 0xC000_0102, TscAux = 0xC000_0103;

    public const uint AmdSyscfg = 0xC001_0010, AmdHwcr = 0xC001_0015, AmdNbCfg = 0xC001_001F, AmdVirtualSpecCtrl = 0xC001_011F, AmdDeCfg = 0xC001_1029;

    public const uint KvmWallClock = 0x11, KvmSystemTime = 0x12, KvmWallClockNew = 0x4B56_4D00, KvmSystemTimeNew = 0x4B56_4D01, KvmEoiEnable = 0x4B56_4D04;
}
