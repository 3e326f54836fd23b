using System.Collections.Concurrent;

namespace Lodge.Network.Vsock;

/// <summary>Ports of the host that this process answers itself, in front of another host that has all the others.</summary>
/// <param name="others">Who answers elsewhere, and who connects to the guest; null: nobody. Owned.</param>
public sealed class VsockPorts(IVsockHost? others) : IVsockHost
{
    private readonly ConcurrentDictionary<uint, Func<IVsockStream>> _ports = new();

    /// <summary>Answers on a port.</summary>
    /// <param name="port">The port.</param>
    /// <param name="open">Makes the host's end of each stream; on the device's worker, must not block or throw.</param>
    public void Answer(uint port, Func<IVsockStream> open) => _ports[port] = open;

    /// <inheritdoc/>
    public void Connect(Action wake) => others?.Connect(wake);

    /// <inheritdoc/>
    public IVsockStream? Open(uint port) => _ports.TryGetValue(port, out Func<IVsockStream>? open) ? open() : others?.Open(port);

    /// <inheritdoc/>
    public IVsockStream? Accept(out uint guestPort)
    {
        guestPort = 0;
        return others?.Accept(out guestPort);
    }

    /// <inheritdoc/>
    public void Dispose() => others?.Dispose();
}
