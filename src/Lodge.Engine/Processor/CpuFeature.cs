namespace Lodge.Engine.Processor;

/// <summary>
/// Features that CPUID enumerates and an engine may offer. The value is the place of the bit: word * 32 + bit, where the word is a register of a
/// leaf in the order of <see cref="CpuModel"/>'s table. Features that no engine offers (AVX-512, AMX, TSX, MPX, VMX...) have no name here, so they
/// cannot be set. Bits: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.
/// </summary>
public enum CpuFeature
{
    // Word 0: leaf 1 ECX.
    Sse3 = 0, Pclmulqdq = 1, Ssse3 = 9, Fma = 12, Cmpxchg16b = 13, Pcid = 17, Sse41 = 19, Sse42 = 20, X2Apic = 21, Movbe = 22, Popcnt = 23, TscDeadline = 24,
    Aes = 25, Xsave = 26, Avx = 28, F16c = 29, Rdrand = 30, Hypervisor = 31,

    // Word 1: leaf 1 EDX.
    Fpu = 32, Vme = 33, DebuggingExtensions = 34, Pse = 35, Tsc = 36, Msr = 37, Pae = 38, MachineCheckException = 39, Cmpxchg8b = 40, Apic = 41, Sysenter = 43,
    Mtrr = 44, Pge = 45, MachineCheckArchitecture = 46, Cmov = 47, Pat = 48, Pse36 = 49, Clflush = 51, Mmx = 55, Fxsr = 56, Sse = 57, Sse2 = 58,

    // Word 2: leaf 7.0 EBX.
    FsGsBase = 64, TscAdjust = 65, Bmi1 = 67, Avx2 = 69, Smep = 71, Bmi2 = 72, Erms = 73, Invpcid = 74, FcsFdsDeprecated = 77, Rdseed = 82, Adx = 83,
    Smap = 84, ClflushOpt = 87, Clwb = 88, Sha = 93,

    // Word 3: leaf 7.0 ECX.
    Umip = 98, Pku = 99, Gfni = 104, Vaes = 105, Vpclmulqdq = 106, Rdpid = 118, Movdiri = 123,

    // Word 4: leaf 7.0 EDX.
    Fsrm = 132, SpeculationControl = 154, ArchCapabilities = 157,

    // Word 5: leaf 7.1 EAX.
    AvxVnni = 164,

    // Word 6: leaf 0xD.1 EAX.
    XsaveOpt = 192, XsaveC = 193, Xgetbv1 = 194,

    // Word 7: leaf 0x80000001 ECX.
    LahfLong = 224, Lzcnt = 229, PrefetchW = 232,

    // Word 8: leaf 0x80000001 EDX.
    Syscall = 267, Nx = 276, Page1G = 282, Rdtscp = 283, LongMode = 285,

    // Word 9: leaf 0x80000007 EDX.
    InvariantTsc = 296,

    // Word 10: leaf 0x80000008 EBX (AMD).
    AmdSpeculativeStoreBypassNo = 346, AmdBranchTypeConfusionNo = 349,

    // Word 11: leaf 0x80000021 EAX (AMD).
    AmdLfenceSerializing = 354, AmdNullSelectorClearsBase = 358, AmdAutomaticIbrs = 360, AmdSrsoNo = 381,

    // Word 12: leaf 7.2 EDX.
    BranchHistoryControl = 388,
}
