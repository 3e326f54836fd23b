namespace Lodge.Machine.Devices.Misc.DebugConsole;

/// <summary>The one register: a write prints, a read gives a value by which the console is recognised.</summary>
internal static class DebugConsoleRegister
{
    public const byte Presence = 0xE9;
}
