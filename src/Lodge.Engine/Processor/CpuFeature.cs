namespace Lodge.Engine.Processor;

/// <summary>
/// Features that CPUID enumerates and some engine may offer. The value is the place of the bit: word * 32 + bit, where the word is a register of a
/// leaf in the order of <see cref="CpuFeatureWord"/>. Features that no engine offers (TSX, MPX, SGX, MONITOR, CET...) have no name here, so they
/// cannot be set. Bits: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; KVM's: Linux Documentation/virt/kvm/x86/cpuid.rst.
/// </summary>
public enum CpuFeature
{
    // Word 0: leaf 1 ECX.
    Sse3 = 0, Pclmulqdq = 1, Vmx = 5, Ssse3 = 9, Fma = 12, Cmpxchg16b = 13, PerformanceCapabilities = 15, Pcid = 17, Sse41 = 19, Sse42 = 20, X2Apic = 21, Movbe = 22,
    Popcnt = 23, TscDeadline = 24, Aes = 25, Xsave = 26, Avx = 28, F16c = 29, Rdrand = 30, Hypervisor = 31,

    // Word 1: leaf 1 EDX.
    Fpu = 32, Vme = 33, DebuggingExtensions = 34, Pse = 35, Tsc = 36, Msr = 37, Pae = 38, MachineCheckException = 39, Cmpxchg8b = 40, Apic = 41, Sysenter = 43,
    Mtrr = 44, Pge = 45, MachineCheckArchitecture = 46, Cmov = 47, Pat = 48, Pse36 = 49, Clflush = 51, Mmx = 55, Fxsr = 56, Sse = 57, Sse2 = 58,

    // Word 2: leaf 7.0 EBX.
    FsGsBase = 64, TscAdjust = 65, Bmi1 = 67, Avx2 = 69, Smep = 71, Bmi2 = 72, Erms = 73, Invpcid = 74, FcsFdsDeprecated = 77, Avx512F = 80, Avx512Dq = 81, Rdseed = 82,
    Adx = 83, Smap = 84, Avx512Ifma = 85, ClflushOpt = 87, Clwb = 88, Avx512Cd = 92, Sha = 93, Avx512Bw = 94, Avx512Vl = 95,

    // Word 3: leaf 7.0 ECX.
    Avx512Vbmi = 97, Umip = 98, Pku = 99, Avx512Vbmi2 = 102, Gfni = 104, Vaes = 105, Vpclmulqdq = 106, Avx512Vnni = 107, Avx512Bitalg = 108, Avx512Vpopcntdq = 110,
    La57 = 112, Rdpid = 118, BusLockDetect = 120, Cldemote = 121, Movdiri = 123, Movdir64b = 124,

    // Word 4: leaf 7.0 EDX.
    Fsrm = 132, MdClear = 138, Serialize = 142, AmxBf16 = 150, Avx512Fp16 = 151, AmxTile = 152, AmxInt8 = 153, SpeculationControl = 154, Stibp = 155, FlushL1d = 156,
    ArchCapabilities = 157, Ssbd = 159,

    // Word 5: leaf 7.1 EAX.
    AvxVnni = 164, Avx512Bf16 = 165, FastZeroRepMovsb = 170, FastShortRepStosb = 171, FastShortRepCmpsb = 172,

    // Word 6: leaf 0xD.1 EAX.
    XsaveOpt = 192, XsaveC = 193, Xgetbv1 = 194, Xsaves = 195, Xfd = 196,

    // Word 7: leaf 0x80000001 ECX.
    LahfLong = 224, Svm = 226, Lzcnt = 229, PrefetchW = 232, PerformanceCore = 247,

    // Word 8: leaf 0x80000001 EDX.
    Syscall = 267, Nx = 276, Page1G = 282, Rdtscp = 283, LongMode = 285,

    // Word 9: leaf 0x80000007 EDX.
    InvariantTsc = 296,

    // Word 10: leaf 0x80000008 EBX (AMD).
    Clzero = 320, Wbnoinvd = 329, AmdIbpb = 332, AmdIbrs = 334, AmdStibp = 335, AmdSsbd = 344, VirtualSsbd = 345, AmdSpeculativeStoreBypassNo = 346, AmdBranchTypeConfusionNo = 349,

    // Word 11: leaf 0x80000021 EAX (AMD).
    AmdLfenceSerializing = 354, AmdNullSelectorClearsBase = 358, AmdAutomaticIbrs = 360, AmdSelectiveBranchPredictorBarrier = 379, AmdIbpbBranchType = 380, AmdSrsoNo = 381,

    // Word 12: leaf 7.2 EDX.
    PredictiveStoreForwardingDisable = 384, IndirectPredictionControl = 385, RrsbaControl = 386, BranchHistoryControl = 388,

    // Words 13 and 14: IA32_ARCH_CAPABILITIES (Intel SDM vol. 4, table 2-2).
    RdclNo = 416, IbrsAll = 417, Rsba = 418, SkipL1dFlushOnEntry = 419, SsbNo = 420, MdsNo = 421, PageSizeChangeMachineCheckNo = 422, TaaNo = 424, SbdrSsdpNo = 429, FbsdpNo = 430,
    PsdpNo = 431, FillBufferClear = 433, Rrsba = 435, BhiNo = 436, PbrsbNo = 440, GdsNo = 442, RfdsNo = 443, RfdsClear = 444, ItsNo = 478,

    // Word 15: leaf 0x40000001 EAX, KVM's paravirtual features.
    KvmClock = 480, KvmNoIoDelay = 481, KvmClock2 = 483, KvmAsyncPageFault = 484, KvmStealTime = 485, KvmEoi = 486, KvmUnhalt = 487, KvmTlbFlush = 489, KvmAsyncPageFaultExit = 490,
    KvmSendIpi = 491, KvmPollControl = 492, KvmYield = 493, KvmAsyncPageFaultInterrupt = 494, KvmClockStable = 504,
}

/// <summary>The words of <see cref="CpuFeature"/>: which register of which leaf, or which MSR, they stand for.</summary>
public enum CpuFeatureWord
{
    /// <summary>Leaf 1 ECX.</summary>
    Leaf1Ecx,

    /// <summary>Leaf 1 EDX.</summary>
    Leaf1Edx,

    /// <summary>Leaf 7, sub-leaf 0, EBX.</summary>
    Leaf7Ebx,

    /// <summary>Leaf 7, sub-leaf 0, ECX.</summary>
    Leaf7Ecx,

    /// <summary>Leaf 7, sub-leaf 0, EDX.</summary>
    Leaf7Edx,

    /// <summary>Leaf 7, sub-leaf 1, EAX.</summary>
    Leaf7Part1Eax,

    /// <summary>Leaf 0xD, sub-leaf 1, EAX.</summary>
    LeafDPart1Eax,

    /// <summary>Leaf 0x80000001 ECX.</summary>
    Extended1Ecx,

    /// <summary>Leaf 0x80000001 EDX.</summary>
    Extended1Edx,

    /// <summary>Leaf 0x80000007 EDX.</summary>
    Extended7Edx,

    /// <summary>Leaf 0x80000008 EBX.</summary>
    Extended8Ebx,

    /// <summary>Leaf 0x80000021 EAX.</summary>
    Extended21Eax,

    /// <summary>Leaf 7, sub-leaf 2, EDX.</summary>
    Leaf7Part2Edx,

    /// <summary>IA32_ARCH_CAPABILITIES, bits 0-31.</summary>
    ArchCapabilitiesLow,

    /// <summary>IA32_ARCH_CAPABILITIES, bits 32-63.</summary>
    ArchCapabilitiesHigh,

    /// <summary>Leaf 0x40000001 EAX.</summary>
    KvmFeatures,

    /// <summary>Number of words.</summary>
    Count,
}
