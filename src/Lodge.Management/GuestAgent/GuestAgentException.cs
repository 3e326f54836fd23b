namespace Lodge.Management.GuestAgent;

/// <summary>Why a command of the guest agent did not succeed.</summary>
public enum GuestAgentFailure
{
    /// <summary>The agent answered with an error.</summary>
    Refused,

    /// <summary>The agent does not have the command, or its configuration forbids it.</summary>
    Unsupported,

    /// <summary>No answer came in time: the agent is not there, or hangs.</summary>
    NoAnswer,

    /// <summary>What came is no answer to the command: too long, or not as the protocol has it.</summary>
    Malformed,

    /// <summary>The channel is closed.</summary>
    Closed,
}

/// <summary>A command of the guest agent did not succeed. The message may quote the guest, cut short and without control characters.</summary>
public sealed class GuestAgentException(GuestAgentFailure failure, string message, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>What went wrong.</summary>
    public GuestAgentFailure Failure { get; } = failure;
}
