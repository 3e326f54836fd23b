using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>
/// Which model-specific registers the guest may access: those that are part of the saved state, so that nothing of a guest is left behind when it moves, and those that
/// kernels read or command and that hold nothing. All others are #GP and counted, whatever the kernel would make of them.
/// </summary>
internal static class MsrFilter
{
    // Without state: old machine check, platform and microcode, feature and MTRR capabilities, prediction and cache commands, machine check banks, second names of kvmclock.
    private static readonly (uint First, uint Last)[] s_stateless =
    [
        (0x0, 0x1), (0x11, 0x12), (0x17, 0x17), (0x2A, 0x2A), (0x34, 0x34), (0x3A, 0x3A), (0x49, 0x49), (0x79, 0x79), (0x8B, 0x8B), (0xCE, 0xCE), (0xFE, 0xFE), (0x10A, 0x10B),
        (0x179, 0x17B), (0x198, 0x198), (0x1D9, 0x1DE), (0x400, 0x47F), (0x4B56_4D07, 0x4B56_4D07),
        (0xC001_0010, 0xC001_0010), (0xC001_0015, 0xC001_0015), (0xC001_001F, 0xC001_0020), (0xC001_0055, 0xC001_0055), (0xC001_0058, 0xC001_0058), (0xC001_0111, 0xC001_0114),
        (0xC001_0140, 0xC001_0141), (0xC001_1022, 0xC001_1023), (0xC001_1029, 0xC001_102A),
    ];

    // State that goes by other calls: counter, APIC base, deadline, x2APIC registers, EFER, FS and GS base.
    private static readonly (uint First, uint Last)[] s_elsewhere = [(0x10, 0x10), (0x1B, 0x1B), (0x3B, 0x3B), (0x6E0, 0x6E0), (0x800, 0x8FF), (0xC000_0080, 0xC000_0080), (0xC000_0100, 0xC000_0103)];

    /// <summary>Registers of performance counters, which are state only of guests that have them.</summary>
    public static bool IsPerformance(uint index) => s_performance.Any(r => index >= r.First && index <= r.Last);

    private static readonly (uint First, uint Last)[] s_performance =
    [
        (0xC1, 0xC8), (0x186, 0x18D), (0x309, 0x30C), (0x345, 0x345), (0x38D, 0x391), (0x3F1, 0x3F1), (0xC000_0300, 0xC000_0303), (0xC001_0000, 0xC001_0007), (0xC001_0200, 0xC001_020B),
    ];

    private static readonly (uint First, uint Last)[] s_vmx = [(0x480, 0x491)];

    private static readonly (uint First, uint Last)[] s_hyperV = [(0x4000_0000, 0x4000_01FF)];

    /// <summary>The bitmaps for a guest.</summary>
    /// <param name="state">Registers of the saved state.</param>
    /// <param name="model">The guest's processor.</param>
    /// <param name="performance">Whether it has performance counters.</param>
    public static IReadOnlyList<MsrBitmap> Build(IEnumerable<uint> state, CpuModel model, bool performance)
    {
        MsrBitmap[] bitmaps = [new(0, 0x2000), new(0x4000_0000, 0x200), new(0x4B56_4D00, 0x20), new(0xC000_0000, 0x2000), new(0xC001_0000, 0x2000)];
        void Allow(uint index) => Array.Find(bitmaps, b => b.Contains(index))?.Allow(index);
        foreach (uint index in state.Where(i => performance || !IsPerformance(i)))
        {
            Allow(index);
        }
        (uint First, uint Last)[] ranges =
            [.. s_stateless, .. s_elsewhere, .. performance ? s_performance : [], .. model.Has(CpuFeature.Vmx) ? s_vmx : [], .. model.HasHyperV ? s_hyperV : []];
        foreach ((uint first, uint last) in ranges)
        {
            for (uint index = first; index <= last; index++)
            {
                Allow(index);
            }
        }
        return bitmaps;
    }
}
