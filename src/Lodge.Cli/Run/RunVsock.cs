using System.Diagnostics;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Machine;
using Lodge.Machine.Devices.Virtio.Vsock;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network;
using Lodge.Network.Vsock;

namespace Lodge.Cli.Run;

/// <summary>
/// Sockets between guest and host: those that the user asked for, and for a stored image a port on which systemd tells that the system is up (its credential
/// <c>vmm.notify_socket</c>, systemd 254 and newer; others do not look).
/// </summary>
internal sealed class RunVsock : IDisposable
{
    // PCI class code; drivers match on the device ID only.
    private const uint ClassOtherCommunication = 0x078000;
    private const uint NotifyPort = 0x4C4F_4447; // "LODG"
    private const int LongestNotification = 4096;

    private readonly VsockPorts? _ports;
    private readonly uint _cid;
    private readonly Stopwatch _time = Stopwatch.StartNew();

    private RunVsock(VsockPorts? ports, uint cid)
    {
        _ports = ports;
        _cid = cid;
    }

    /// <summary>The guest has told that its system is up; the time since the run began. On any thread.</summary>
    public event Action<TimeSpan>? SystemUp;

    /// <summary>OEM strings that the machine shows to the guest.</summary>
    public IReadOnlyList<string> OemStrings { get; private init; } = [];

    /// <summary>Opens what is asked for.</summary>
    /// <param name="option">The user's socket, or null.</param>
    /// <param name="notifies">The guest is a stored image, whose system may tell when it is up.</param>
    /// <exception cref="LodgeException">The socket cannot be made.</exception>
    public static RunVsock Open(VsockOption? option, bool notifies)
    {
        if (option is null && !notifies)
        {
            return new RunVsock(null, 0);
        }
        try
        {
            VsockPorts ports = new(option is null ? null : new UnixVsockHost(option.Path));
            RunVsock sockets = new(ports, option?.Cid ?? VsockOption.DefaultCid)
            {
                OemStrings = notifies ? [$"io.systemd.credential:vmm.notify_socket=vsock-stream:2:{NotifyPort}"] : [],
            };
            ports.Answer(NotifyPort, () => new MessageStream(LongestNotification, sockets.Notified));
            return sockets;
        }
        catch (NetworkException e)
        {
            throw new LodgeException(e.Message);
        }
    }

    /// <summary>Adds the device to a machine that is being made.</summary>
    public void AddDevices(Chipset chipset)
    {
        if (_ports is not null)
        {
            VirtioVsockConfiguration configuration = new(_ports) { GuestCid = _cid };
            chipset.Pci.Add(new VirtioPciFunction("vsock0", new VirtioVsock(chipset.Memory, configuration), ClassOtherCommunication));
        }
    }

    /// <summary>Closes the sockets; after the machine has been disposed.</summary>
    public void Dispose() => _ports?.Dispose();

    /// <summary>A message as sd_notify(3) has it: assignments, one in a line. From the guest, so hostile: nothing of it is shown.</summary>
    private void Notified(ReadOnlyMemory<byte> message)
    {
        foreach (Range line in message.Span.Split((byte)'\n'))
        {
            if (message.Span[line].SequenceEqual("READY=1"u8))
            {
                Interlocked.Exchange(ref SystemUp, null)?.Invoke(_time.Elapsed);      // once
            }
        }
    }
}
