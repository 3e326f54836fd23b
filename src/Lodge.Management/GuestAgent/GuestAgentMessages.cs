using System.Text.Json.Serialization;

namespace Lodge.Management.GuestAgent;

/// <summary>What the agent is (reply of <c>guest-info</c>).</summary>
/// <param name="Version">Its version, as it tells it.</param>
/// <param name="SupportedCommands">Commands that it has, enabled or not.</param>
public sealed record GuestAgentInfo(
    string Version,
    [property: JsonPropertyName("supported_commands")] IReadOnlyList<GuestAgentCommandInfo> SupportedCommands);

/// <summary>A command of an agent.</summary>
/// <param name="Name">For example <c>guest-exec</c>.</param>
/// <param name="Enabled">Whether its configuration allows it.</param>
public sealed record GuestAgentCommandInfo(string Name, bool Enabled);

/// <summary>A process that the agent started (reply of <c>guest-exec-status</c>). After the reply that says that it exited the agent forgets it.</summary>
public sealed record GuestProcessStatus
{
    /// <summary>Whether it has ended.</summary>
    public bool Exited { get; init; }

    /// <summary>Its exit status, when it ended by itself.</summary>
    [JsonPropertyName("exitcode")]
    public int? ExitCode { get; init; }

    /// <summary>The signal that killed it.</summary>
    public int? Signal { get; init; }

    /// <summary>Its standard output, when it ended and the output was captured.</summary>
    [JsonPropertyName("out-data")]
    public byte[]? Output { get; init; }

    /// <summary>Its standard error, likewise.</summary>
    [JsonPropertyName("err-data")]
    public byte[]? Error { get; init; }

    /// <summary>Whether there was more output than the agent keeps.</summary>
    [JsonPropertyName("out-truncated")]
    public bool OutputTruncated { get; init; }

    /// <summary>Whether there was more on standard error than the agent keeps.</summary>
    [JsonPropertyName("err-truncated")]
    public bool ErrorTruncated { get; init; }
}

/// <summary>A network interface of the guest (reply of <c>guest-network-get-interfaces</c>).</summary>
public sealed record GuestNetworkInterface
{
    /// <summary>Its name in the guest.</summary>
    public required string Name { get; init; }

    /// <summary>Its MAC address; null for what has none.</summary>
    [JsonPropertyName("hardware-address")]
    public string? HardwareAddress { get; init; }

    /// <summary>Its addresses.</summary>
    [JsonPropertyName("ip-addresses")]
    public IReadOnlyList<GuestAddress> Addresses { get; init; } = [];
}

/// <summary>An address of a network interface.</summary>
/// <param name="Address">The address as text.</param>
/// <param name="Kind"><c>ipv4</c> or <c>ipv6</c>.</param>
/// <param name="Prefix">Length of the network's prefix.</param>
public sealed record GuestAddress(
    [property: JsonPropertyName("ip-address")] string Address,
    [property: JsonPropertyName("ip-address-type")] string Kind,
    int Prefix);

/// <summary>A process to start in the guest.</summary>
/// <param name="Path">Program; searched in the agent's PATH when it has no slash.</param>
public sealed record GuestCommand(string Path)
{
    /// <summary>Its arguments.</summary>
    [JsonPropertyName("arg")]
    public IReadOnlyList<string> Arguments { get; init; } = [];

    /// <summary>Its environment, <c>NAME=VALUE</c>, in place of the agent's; null for the agent's.</summary>
    [JsonPropertyName("env")]
    public IReadOnlyList<string>? Environment { get; init; }

    /// <summary>Its standard input; null for none.</summary>
    [JsonPropertyName("input-data")]
    public byte[]? Input { get; init; }

    /// <summary>Whether the agent keeps its output (up to 16 MiB of each stream) for its status.</summary>
    [JsonPropertyName("capture-output")]
    public bool CaptureOutput { get; init; } = true;
}

/// <summary>State of the guest's file systems (reply of <c>guest-fsfreeze-status</c>).</summary>
public enum GuestFreezeState
{
    /// <summary>Writes go on.</summary>
    Thawed,

    /// <summary>Writes wait: the disks hold a consistent state.</summary>
    Frozen,
}

/// <summary>How the guest is asked to end.</summary>
public enum GuestShutdownMode
{
    /// <summary>Turn the power off.</summary>
    PowerDown,

    /// <summary>Halt.</summary>
    Halt,

    /// <summary>Start again.</summary>
    Reboot,
}

internal sealed record GuestAgentRequest<T>(string Execute, T? Arguments);

internal sealed record GuestAgentReply<T>(T? Return, GuestAgentError? Error);

internal sealed record GuestAgentError(string? Class, string? Desc);

internal sealed record GuestNothing;

internal sealed record GuestSyncArguments(long Id);

internal sealed record GuestPidArguments(long Pid);

internal sealed record GuestPid(long Pid);

internal sealed record GuestModeArguments(string Mode);

internal sealed record GuestTimeArguments(long? Time);

internal sealed record GuestOpenArguments(string Path, string Mode);

internal sealed record GuestHandleArguments(long Handle);

internal sealed record GuestReadArguments(long Handle, int Count);

internal sealed record GuestWriteArguments(long Handle, [property: JsonPropertyName("buf-b64")] byte[] Data);

internal sealed record GuestRead(long Count, [property: JsonPropertyName("buf-b64")] byte[]? Data, bool Eof);

internal sealed record GuestWritten(long Count, bool Eof);

/// <summary>Source-generated JSON of the protocol. Answers are the guest's: bounded in depth, members that are not known are passed over.</summary>
[JsonSourceGenerationOptions(
    PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    MaxDepth = 16,
    RespectRequiredConstructorParameters = false)]
[JsonSerializable(typeof(GuestAgentRequest<GuestNothing>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestSyncArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestCommand>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestPidArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestModeArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestTimeArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestOpenArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestHandleArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestReadArguments>))]
[JsonSerializable(typeof(GuestAgentRequest<GuestWriteArguments>))]
[JsonSerializable(typeof(GuestAgentReply<GuestNothing>))]
[JsonSerializable(typeof(GuestAgentReply<long?>))]
[JsonSerializable(typeof(GuestAgentReply<string>))]
[JsonSerializable(typeof(GuestAgentReply<GuestAgentInfo>))]
[JsonSerializable(typeof(GuestAgentReply<GuestPid>))]
[JsonSerializable(typeof(GuestAgentReply<GuestProcessStatus>))]
[JsonSerializable(typeof(GuestAgentReply<GuestRead>))]
[JsonSerializable(typeof(GuestAgentReply<GuestWritten>))]
[JsonSerializable(typeof(GuestAgentReply<List<GuestNetworkInterface>>))]
internal sealed partial class GuestAgentJson : JsonSerializerContext;
