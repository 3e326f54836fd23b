namespace Lodge.Machine.Devices.Misc.Pvpanic;

/// <summary>The one register of the pvpanic device (its public interface document): read tells which events are known, write tells one.</summary>
[Flags]
internal enum PvpanicEvent : byte
{
    Panicked = 1 << 0,
    CrashLoaded = 1 << 1,
    Shutdown = 1 << 2,
    Supported = Panicked | CrashLoaded | Shutdown,
}
