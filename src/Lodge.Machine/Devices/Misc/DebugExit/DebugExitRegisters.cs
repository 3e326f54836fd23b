namespace Lodge.Machine.Devices.Misc.DebugExit;

/// <summary>The one register: four bytes, write-only; the exit status is (value &lt;&lt; 1) | 1, never 0, so that it differs from success.</summary>
internal static class DebugExitRegister
{
    public const int Length = 4;

    public static int ExitCode(uint value) => unchecked((int)((value << 1) | 1));
}
