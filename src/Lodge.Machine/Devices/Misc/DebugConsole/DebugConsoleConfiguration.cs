namespace Lodge.Machine.Devices.Misc.DebugConsole;

/// <summary>Where the debug console lies.</summary>
/// <param name="Port">Its port: 0xE9 by custom, 0x402 for firmware builds.</param>
public sealed record DebugConsoleConfiguration(ushort Port = PortMap.DebugConsole);
