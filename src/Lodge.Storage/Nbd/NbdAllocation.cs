using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>How a disk's block status becomes the flags of metadata contexts, and back.</summary>
internal static class NbdAllocation
{
    /// <summary>Whether a range reads as zeroes.</summary>
    public static bool IsZero(BlockState state) => (state & BlockState.Zero) != 0 || (state & BlockState.Data) == 0;

    /// <summary>Flags of <c>base:allocation</c>.</summary>
    public static NbdState Flags(BlockState state) =>
        ((state & BlockState.Data) == 0 ? NbdState.Hole : 0) | (IsZero(state) ? NbdState.Zero : 0);

    /// <summary>The block status for flags of <c>base:allocation</c>; a hole that does not read as zeroes must be read as data.</summary>
    public static BlockState State(NbdState flags) => (flags & (NbdState.Hole | NbdState.Zero)) switch
    {
        NbdState.Hole | NbdState.Zero => BlockState.Zero,
        NbdState.Zero => BlockState.Zero | BlockState.Data | BlockState.Allocated,
        _ => BlockState.Data | BlockState.Allocated,
    };

    /// <summary>Value of <c>qemu:allocation-depth</c>: 0 allocated nowhere, 1 in the disk itself, 2 in its backing image, and so on.</summary>
    public static uint Depth(BlockExtent extent) => extent.State == BlockState.None ? 0 : (uint)Math.Max(extent.Depth, 0) + 1;
}
