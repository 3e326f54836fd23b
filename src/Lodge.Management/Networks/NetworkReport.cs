using System.Net;

namespace Lodge.Management.Networks;

/// <summary>A network as <c>lodge network list --json</c> shows it.</summary>
public sealed record NetworkReport
{
    /// <summary>What it is to be.</summary>
    public required NetworkDefinition Network { get; init; }

    /// <summary><c>up</c>, <c>stopped</c>, or <c>failed</c> when it is to be up and is not.</summary>
    public required string State { get; init; }

    /// <summary>Why it failed.</summary>
    public string? Problem { get; init; }

    /// <summary>The machines on it.</summary>
    public IReadOnlyList<AttachedMachine> Machines { get; init; } = [];
}

/// <summary>An address that a network gave, as <c>lodge network leases --json</c> shows it.</summary>
public sealed record NetworkLease
{
    /// <summary>The network.</summary>
    public required string Network { get; init; }

    /// <summary>The address.</summary>
    public required IPAddress Address { get; init; }

    /// <summary>MAC address of the card, where it is known.</summary>
    public string? Mac { get; init; }

    /// <summary>Name in DNS.</summary>
    public string? Name { get; init; }

    /// <summary>When the lease ends; null for an address that is kept for a machine but not leased now.</summary>
    public DateTimeOffset? Expires { get; init; }

    /// <summary>Whether <c>network create --lease</c> set it.</summary>
    public bool Static { get; init; }

    /// <summary>The machine that runs with it, or null.</summary>
    public string? Machine { get; init; }
}
