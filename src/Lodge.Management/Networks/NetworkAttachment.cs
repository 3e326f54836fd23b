using System.Net;
using Lodge.Network.Packets;
using Lodge.Network.Taps;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Networks;

/// <summary>
/// A card's place on a network or bridge. The tap and the lock on the machine's file go with the process; disposing takes the card off at once. What a
/// killed process leaves in the rules and files the next command on the network removes.
/// </summary>
public sealed class NetworkAttachment : IDisposable
{
    private readonly SafeFileHandle? _lock;
    private readonly Action? _leave;
    private bool _taken;

    internal NetworkAttachment(TapLink link, AttachedMachine machine, NetworkDefinition? network, SafeFileHandle? machineLock, Action? leave)
    {
        Link = link;
        Machine = machine;
        Network = network;
        _lock = machineLock;
        _leave = leave;
    }

    /// <summary>What the card is plugged into. Disposing the attachment disposes it.</summary>
    public TapLink Link { get; }

    /// <summary>The network, or null on a bridge that was named directly.</summary>
    public NetworkDefinition? Network { get; }

    /// <summary>MAC address that the card must have.</summary>
    public MacAddress Mac => Machine.Mac;

    /// <summary>IPv4 address that the machine gets by DHCP, and the only one it may use; null: not known.</summary>
    public IPAddress? Address => Machine.Address;

    /// <summary>IPv6 address that the machine gets by DHCPv6, and besides link-local ones the only one it may use; null: not known.</summary>
    public IPAddress? Address6 => Machine.Address6;

    /// <summary>Whether Lodge gives out the network's addresses, so that <see cref="Address"/> and <see cref="Address6"/> are all that is legitimate (null: none of that family).</summary>
    public bool KnowsAddresses => Network?.Dhcp == true;

    /// <summary>What is kept of it.</summary>
    public AttachedMachine Machine { get; }

    /// <summary>What was changed on the host and its user should know, one line each.</summary>
    public IReadOnlyList<string> Notes { get; internal init; } = [];

    /// <summary>What another process needs to have the card: the tap's handles, and the lock, which lasts as long as anybody has it open.</summary>
    public IReadOnlyList<SafeFileHandle> Handles => _lock is null ? Link.Handles : [.. Link.Handles, _lock];

    internal SafeFileHandle? Lock => _lock;

    /// <summary>Whether the last of <see cref="Handles"/> is a lock.</summary>
    public bool IsLocked => _lock is not null;

    /// <summary>Another process has the card now: disposing closes what is open here and leaves the card where it is.</summary>
    public void Taken() => _taken = true;

    /// <summary>Takes the card off the network.</summary>
    public void Dispose()
    {
        Link.Dispose();
        if (_lock is not null)
        {
            if (!_taken)
            {
                _leave?.Invoke();
            }
            _lock.Dispose();
        }
    }
}
