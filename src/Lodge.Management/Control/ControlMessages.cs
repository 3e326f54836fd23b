using System.Text.Json.Serialization;

namespace Lodge.Management.Control;

/// <summary>Why a request was refused.</summary>
public sealed record ControlError(string Error);

/// <summary>A running machine, <c>GET /v1/machine</c>.</summary>
public sealed record ControlMachine
{
    /// <summary>Its name.</summary>
    public required string Name { get; init; }

    /// <summary>Its identity.</summary>
    public required Guid Id { get; init; }

    /// <summary>One of <see cref="Machines.MachineStates"/>.</summary>
    public required string State { get; init; }

    /// <summary>What executes the guest.</summary>
    public required string Engine { get; init; }

    /// <summary>Number of the process.</summary>
    public required int Process { get; init; }

    /// <summary>Bytes of RAM.</summary>
    public required ulong Memory { get; init; }

    /// <summary>Bytes of RAM that the guest shall do with at present (balloon).</summary>
    public ulong MemoryTarget { get; init; }

    /// <summary>Virtual processors.</summary>
    public required int Processors { get; init; }

    /// <summary>Most that it can have while it runs.</summary>
    public int MaximumProcessors { get; init; }

    /// <summary>How many times the guest was reset.</summary>
    public int Restarts { get; init; }

    /// <summary>MAC addresses of its network cards.</summary>
    public IReadOnlyList<string> Cards { get; init; } = [];

    /// <summary>Ports of the host that lead to the guest, as text.</summary>
    public IReadOnlyList<string> Published { get; init; } = [];
}

/// <summary>What a machine uses, <c>GET /v1/stats</c>. Counters since its process began.</summary>
public sealed record ControlStats
{
    /// <summary>Nanoseconds since the machine was started.</summary>
    public long Time { get; init; }

    /// <summary>Processor time of the process in nanoseconds.</summary>
    public long ProcessorTime { get; init; }

    /// <summary>Bytes of RAM that the guest has.</summary>
    public ulong Memory { get; init; }

    /// <summary>Bytes that the process has in the host's memory, shared pages counted in part (PSS).</summary>
    public long ResidentMemory { get; init; }


    /// <summary>Bytes of frames to the guest.</summary>
    public long NetworkReceived { get; init; }

    /// <summary>Bytes of frames from the guest.</summary>
    public long NetworkSent { get; init; }

    /// <summary>Counters of the engine, added up over all processors.</summary>
    public IReadOnlyDictionary<string, long> Engine { get; init; } = new Dictionary<string, long>();
}

/// <summary>A command for the guest, <c>POST /v1/agent/exec</c>.</summary>
public sealed record ControlExec
{
    /// <summary>Program and arguments.</summary>
    public required IReadOnlyList<string> Command { get; init; }

    /// <summary>Assignments <c>NAME=VALUE</c>.</summary>
    public IReadOnlyList<string> Environment { get; init; } = [];

    /// <summary>Standard input.</summary>
    public byte[]? Input { get; init; }
}

/// <summary>How a command in the guest ended.</summary>
/// <param name="Status">Exit status, 128 + n after signal n.</param>
/// <param name="Output">Standard output.</param>
/// <param name="Error">Standard error.</param>
/// <param name="Truncated">There was more output.</param>
public sealed record ControlExecEnd(int Status, byte[] Output, byte[] Error, bool Truncated);

/// <summary>Size of a viewer's window, <c>PUT /v1/console/size</c>.</summary>
public sealed record ControlSize(int Columns, int Rows);

/// <summary>What came of asking the guest to end, <c>POST /v1/shutdown</c>.</summary>
/// <param name="Asked">Whether anything in the guest listens.</param>
public sealed record ControlShutdown(bool Asked);

/// <summary>The guest's agent, <c>GET /v1/agent</c>. The guest's word: not to be believed.</summary>
/// <param name="Version">Its version.</param>
/// <param name="Addresses">The guest's addresses with their prefix lengths.</param>
public sealed record ControlAgent(string Version, IReadOnlyList<string> Addresses);

/// <summary>Processors that the machine shall have, <c>PUT /v1/processors</c>.</summary>
public sealed record ControlProcessors(int Count);

/// <summary>Memory that the guest shall do with, <c>PUT /v1/memory</c>.</summary>
public sealed record ControlMemory(ulong Bytes);

/// <summary>A disk or network card of a machine that runs.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Kind"><c>disk</c> or <c>card</c>.</param>
/// <param name="What">What it is connected to: a path, a network.</param>
/// <param name="Slot">Its PCI slot; null: a target of the SCSI controller.</param>
/// <param name="Removable">Whether it can be detached while the machine runs.</param>
public sealed record ControlDevice(string Name, string Kind, string What, int? Slot, bool Removable);

/// <summary>What can be attached and detached, <c>GET /v1/devices</c>.</summary>
/// <param name="Devices">Disks and network cards.</param>
/// <param name="FreeSlots">PCI slots in which nothing is.</param>
public sealed record ControlDevices(IReadOnlyList<ControlDevice> Devices, IReadOnlyList<int> FreeSlots);

/// <summary>An image of a chain whose files are handed over.</summary>
/// <param name="Name">How messages name it.</param>
/// <param name="Format">Its format.</param>
/// <param name="Parts">Names of its parts as the image has them; their files follow its own.</param>
/// <param name="Backing">Name of its parent as the image has it.</param>
public sealed record ControlImage(string Name, string Format, IReadOnlyList<string> Parts, string? Backing = null);

/// <summary>A tap that is handed over.</summary>
/// <param name="Name">The interface.</param>
/// <param name="Vlan">802.1Q tag that frames have on it; 0: none.</param>
/// <param name="KnowsAddresses">Whether the addresses are all that the machine may use.</param>
/// <param name="Addresses">Addresses that the machine has.</param>
/// <param name="Mac">The card's address, by which its network knows it.</param>
/// <param name="Locked">Whether the last of the open files is a lock, which is held as long as the card is there.</param>
public sealed record ControlTap(string Name, int Vlan, bool KnowsAddresses, IReadOnlyList<string> Addresses, string Mac, bool Locked);

/// <summary>A disk or network card to plug in, <c>POST /v1/devices</c>. Its open files follow status 101.</summary>
public sealed record ControlAttachment
{
    /// <summary>Its name, which no other has.</summary>
    public required string Name { get; init; }

    /// <summary>The free PCI slot that it gets.</summary>
    public required int Slot { get; init; }

    /// <summary>The value of <c>--disk</c>, for a disk.</summary>
    public string? Disk { get; init; }

    /// <summary>The images that the disk consists of, the top first.</summary>
    public IReadOnlyList<ControlImage> Images { get; init; } = [];

    /// <summary>The value of <c>--net</c>, for a network card. It has the card's address.</summary>
    public string? Card { get; init; }

    /// <summary>The tap that the card is plugged into; null for a user network.</summary>
    public ControlTap? Tap { get; init; }

    /// <summary>How many open files follow.</summary>
    public int Files { get; init; }
}

/// <summary>JSON of the control socket.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(ControlError))]
[JsonSerializable(typeof(ControlMachine))]
[JsonSerializable(typeof(ControlStats))]
[JsonSerializable(typeof(ControlExec))]
[JsonSerializable(typeof(ControlExecEnd))]
[JsonSerializable(typeof(ControlSize))]
[JsonSerializable(typeof(ControlShutdown))]
[JsonSerializable(typeof(ControlAgent))]
[JsonSerializable(typeof(ControlProcessors))]
[JsonSerializable(typeof(ControlMemory))]
[JsonSerializable(typeof(ControlDevice))]
[JsonSerializable(typeof(ControlDevices))]
[JsonSerializable(typeof(ControlAttachment))]
[JsonSerializable(typeof(ControlTap))]
[JsonSerializable(typeof(Dictionary<string, ControlStats>))]
public sealed partial class ControlJson : JsonSerializerContext;
