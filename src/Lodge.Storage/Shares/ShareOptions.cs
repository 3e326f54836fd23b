namespace Lodge.Storage.Shares;

/// <summary>How long a guest may believe what it knows of a shared folder.</summary>
public enum ShareCache
{
    /// <summary>Names and attributes for a second; content until the file is opened again after it was changed.</summary>
    Auto,

    /// <summary>Not at all: every look-up asks the host.</summary>
    None,

    /// <summary>A day: for folders that nobody else changes.</summary>
    Always,
}

/// <summary>The guest's name for a user and group.</summary>
/// <param name="User">User ID in the guest.</param>
/// <param name="Group">Group ID in the guest.</param>
public readonly record struct ShareOwner(uint User, uint Group);

/// <summary>How a folder is shared.</summary>
public sealed record ShareOptions
{
    /// <summary>Whether the guest may only read.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>
    /// Who in the guest stands for one user of the host: the one that runs this process, or for root the owner of the folder. What belongs to others shows as
    /// nobody's (65534). Null: as root everything has its real owner on both sides; for another user it is the guest's root.
    /// </summary>
    public ShareOwner? Owner { get; init; }

    /// <summary>How long the guest may cache.</summary>
    public ShareCache Cache { get; init; }

    /// <summary>Most files and folders that the guest may know at once.</summary>
    public int MaximumNodes { get; init; } = 1 << 20;

    /// <summary>
    /// Most file descriptors that are kept for what the guest knows, and as many again for what it has open. 0: a part of what the process may open.
    /// </summary>
    public int MaximumDescriptors { get; init; }

    /// <summary>How many shares divide what this process may open.</summary>
    public int Among { get; init; } = 1;

    /// <summary>Most requests that are served at once, each on a thread.</summary>
    public int Threads { get; init; } = 8;
}

/// <summary>A folder that cannot be shared; the message is one line.</summary>
public sealed class ShareException(string message) : Exception(message);
