namespace Lodge.Engine.Translation.Emission;

/// <summary>Host instructions that .NET has no intrinsic for, as emitted machine code.</summary>
internal static unsafe class HostInstructions
{
    /// <summary>RDTSC.</summary>
    public static ulong ReadTimestamp() => (ulong)System.Diagnostics.Stopwatch.GetTimestamp();
}
