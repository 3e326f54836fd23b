using Lodge.Cli.Run;
using Lodge.Machine;
using Lodge.Machine.Pci;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Lodge.Network;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>
/// Disks and network cards that come and go while a machine runs: the side of its process. It opens nothing by a name; the command that attaches a device has opened what it consists of.
/// </summary>
internal sealed class MachineDevices
{
    private static readonly TimeSpan LongestWait = TimeSpan.FromHours(720), AskAgain = TimeSpan.FromSeconds(4);
    private readonly MachineProcess _process;
    private readonly VirtualMachine _machine;
    private readonly RunDisks _disks;
    private readonly RunNetworks _networks;
    private readonly RunOptions _options;

    public MachineDevices(MachineProcess process, VirtualMachine machine, RunDisks disks, RunNetworks networks, RunOptions options)
    {
        (_process, _machine, _disks, _networks, _options) = (process, machine, disks, networks, options);
        machine.FunctionDetached += Closed;
    }

    /// <summary>Held while devices come; nobody takes a snapshot then.</summary>
    public required Lock Gate { get; init; }

    /// <summary>Whether the process may open sockets of the Internet, as a user network does.</summary>
    public required bool Internet { get; init; }

    private int Processors => _options.MaximumProcessors ?? _options.Processors;

    /// <summary>What can be attached and detached.</summary>
    public ControlDevices Describe()
    {
        IReadOnlyList<int> free = _machine.FreeSlots;
        return new ControlDevices(
            [
                .. _disks.All.Where(disk => disk.IsUsers).Select(disk => new ControlDevice(disk.Name, "disk", disk.Option.Path, disk.Function?.Address.Device, disk.Function is not null && _machine.CanDetach(disk.Name))),
                .. _networks.All.Select(card => new ControlDevice(card.Name, "card", card.Option.Title, card.Function?.Address.Device, _machine.CanDetach(card.Name))),
            ],
            free);
    }

    /// <summary>Plugs a device in.</summary>
    /// <exception cref="ControlException">It is refused; all that was handed over is closed.</exception>
    public ControlReply Attach(ControlAttachment wanted, IReadOnlyList<SafeFileHandle> files)
    {
        bool owned = false; // an image owns its files, also when opening it fails
        try
        {
            lock (Gate)
            {
                RequireAlive();
                switch (wanted)
                {
                    case { Disk: { } text, Card: null } when DiskOption.Parse(text) is { IsPlace: false } disk:
                        owned = true;
                        IImage image = HandedFiles.OpenAsync(
                            [.. wanted.Images.Select(image => new HandedImage(image.Name, image.Format, image.Parts, image.Backing))], files, RunDisks.Opening(disk)).AsTask().GetAwaiter().GetResult();
                        _disks.Attach(_machine, wanted.Name, disk, image, wanted.Slot, Processors);
                        break;
                    case { Card: { } text, Disk: null } when NetworkOption.Parse(text) is { Mac: not null, Capture: null } card && card.Kind != NetworkKind.None && card.Kind == NetworkKind.User == (wanted.Tap is null):
                        if (wanted.Tap is null && !Internet)
                        {
                            throw new ControlException(409, "it was started without a user network, and its sandbox keeps it from the Internet; attach the card while it does not run");
                        }
                        owned = wanted.Tap is not null;
                        _networks.Attach(_machine, card with { Device = wanted.Name }, wanted.Tap, files, _process.Folder.Name, wanted.Slot, Processors);
                        break;
                    default:
                        throw new ControlException(400, "that is no disk and no network card that can be attached");
                }
            }
        }
        catch (Exception e) when (e is FormatException or DiskException or NetworkException or ArgumentException or InvalidOperationException or LodgeException)
        {
            throw new ControlException(409, e.Message);
        }
        finally
        {
            foreach (SafeFileHandle file in owned ? [] : files)
            {
                file.Dispose();
            }
        }
        _process.Record("attached", wanted.Name);
        return ControlReply.Of(Describe().Devices.FirstOrDefault(device => device.Name == wanted.Name) ?? throw new ControlException(409, $"its guest has ejected {wanted.Name} at once"), ControlJson.Default.ControlDevice);
    }

    /// <summary>Asks the guest to eject a device and waits; or pulls it out.</summary>
    /// <exception cref="ControlException">There is no such device, it cannot be detached, or the guest does not do it.</exception>
    public async Task<ControlReply> DetachAsync(ControlRequest request)
    {
        string name = request.Path;
        ControlDevice device = Describe().Devices.FirstOrDefault(device => device.Name == name) ?? throw new ControlException(404, $"it has no disk or network card '{name}'");
        RequireAlive();
        if (!device.Removable)
        {
            throw new ControlException(409, $"{name} {(device.Slot is null ? "shares its SCSI controller with others" : "has been there since its guest booted and cannot be ejected")}: stop it, or take {name} away with its next start (lodge edit)");
        }
        try
        {
            if (request.Query.GetValueOrDefault("force") == "true")
            {
                await Task.Run(() => _machine.PullOut(name)).ConfigureAwait(false);
                Closed(name);
            }
            else
            {
                await AskAsync(name, request).ConfigureAwait(false);
            }
        }
        catch (ArgumentException)
        {
            // It is gone by now.
        }
        catch (Exception e) when (e is InvalidOperationException or OperationCanceledException)
        {
            throw new ControlException(409, e is OperationCanceledException ? "it has ended, or another command asks for the same" : e.Message);
        }
        return ControlReply.Done;
    }

    private async Task AskAsync(string name, ControlRequest request)
    {
        if (_process.State == MachineStates.Paused)
        {
            throw new ControlException(409, $"it is paused and its guest cannot let go of {name}; let it go on: lodge resume {_process.Folder.Name}");
        }
        TimeSpan patience = double.TryParse(request.Query.GetValueOrDefault("wait"), System.Globalization.CultureInfo.InvariantCulture, out double seconds) && seconds >= 0 && seconds <= LongestWait.TotalSeconds
            ? TimeSpan.FromSeconds(seconds)
            : throw new ControlException(400, "wait= is the number of seconds that the guest has");
        Task gone = _machine.RequestDetach(name);
        try
        {
            // Asked again now and then: a guest that boots does not hear, and one that was busy may be so no longer.
            for (TimeSpan left = patience; ; left -= AskAgain)
            {
                try
                {
                    await gone.WaitAsync(left < AskAgain ? left : AskAgain, request.Cancellation).ConfigureAwait(false);
                    break;
                }
                catch (TimeoutException) when (left > AskAgain)
                {
                    gone = _machine.RequestDetach(name);
                }
            }
            Closed(name);
        }
        catch (TimeoutException)
        {
            _machine.WithdrawDetach(name);
            if (_machine.HasDevice(name))
            {
                throw new ControlException(503, $"its guest has not let go of {name} for {patience.TotalSeconds:0} s, perhaps something in it uses it; it stays attached. Wait longer (--timeout), or pull it out, "
                    + $"which the guest sees as errors: lodge detach --force {_process.Folder.Name} {name}");
            }
        }
    }

    private void RequireAlive()
    {
        if (_process.State is not (MachineStates.Running or MachineStates.Paused))
        {
            throw new ControlException(409, $"it is {_process.State}");
        }
    }

    /// <summary>Closes what devices that are gone were connected to, also of those that the guest ejected unasked.</summary>
    private void Closed(PciFunction function)
    {
        if ((_disks.Closed(function) ?? _networks.Closed(function)) is { } name)
        {
            _process.Record("detached", name);
        }
    }

    /// <summary>The same at once for one that has been stopped: who waited for it to go may use its files.</summary>
    private void Closed(string name)
    {
        if ((_disks.All.FirstOrDefault(disk => disk.Name == name)?.Function ?? _networks.All.FirstOrDefault(card => card.Name == name)?.Function) is { } function && !_machine.HasDevice(name))
        {
            Closed(function);
        }
    }
}
