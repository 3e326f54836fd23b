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
[JsonSerializable(typeof(Dictionary<string, ControlStats>))]
public sealed partial class ControlJson : JsonSerializerContext;
