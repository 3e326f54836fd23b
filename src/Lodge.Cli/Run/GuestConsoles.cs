using Lodge.Machine;

namespace Lodge.Cli.Run;

/// <summary>What the character devices of a machine are connected to.</summary>
/// <param name="Serial">The first serial port.</param>
/// <param name="HostConsole">The first virtio console (hvc0); null: it goes nowhere.</param>
/// <param name="Ports">Named virtio console ports.</param>
internal sealed record GuestConsoles(ICharacterBackend Serial, ICharacterBackend? HostConsole, IReadOnlyList<(string Name, ICharacterBackend Backend)> Ports);
