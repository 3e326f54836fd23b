using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>
/// Permission for guests to use state components that the kernel allocates on demand (Linux Documentation/arch/x86/xstate.rst): AMX's tiles. Without it KVM does not
/// offer them. To be asked for before the first virtual processor is made.
/// </summary>
internal static partial class DynamicState
{
    private const long ArchPrctl = 158;
    private const nuint RequestGuestPermission = 0x1025, TileData = 18;

    /// <summary>Asks for it; on a processor or kernel without AMX nothing happens.</summary>
    public static void Permit() => syscall(ArchPrctl, RequestGuestPermission, TileData);

    [LibraryImport("libc")]
    private static partial long syscall(long number, nuint argument0, nuint argument1);
}
