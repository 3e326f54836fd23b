namespace Lodge.Machine.Devices.Misc.DebugExit;

/// <summary>Where the debug exit device lies.</summary>
/// <param name="Port">First of four ports.</param>
public sealed record DebugExitConfiguration(ushort Port = PortMap.DebugExit);
