using Lodge.Cli.Console;
using Lodge.Engine.Memory;
using Lodge.Machine;
using Lodge.Machine.Devices.Storage.Nvme;
using Lodge.Machine.Devices.Virtio.Block;
using Lodge.Machine.Devices.Virtio.Scsi;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio.Transport;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Run;

/// <summary>A disk of a machine that is there.</summary>
/// <param name="Name">Its name in the machine.</param>
/// <param name="Option">What was asked for.</param>
/// <param name="Disk">What the guest's requests go to.</param>
/// <param name="Image">The image below filters; null where there is none.</param>
internal sealed record RunDisk(string Name, DiskOption Option, IDisk Disk, IImage? Image)
{
    /// <summary>Whether it is the user's, and not the system disk or the seed.</summary>
    public bool IsUsers { get; init; }

    /// <summary>The function that the guest sees; null for a target of the machine's SCSI controller.</summary>
    public PciFunction? Function { get; set; }
}

/// <summary>The disks of a run: opened before the machine is made, closed when it has ended; others come and go while it runs.</summary>
internal sealed partial class RunDisks : IDisposable
{
    // PCI class code; drivers match on the device ID only.
    private const uint ClassMassStorage = 0x018000;

    // A slow disk takes its time for what its cache holds; one that hangs is not waited for without end.
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(1);

    private readonly Lock _gate = new();
    private readonly List<RunDisk?> _places = [];   // in the order of slots; null: an empty place
    private IReadOnlyList<RunDisk> _disks = [];     // replaced as a whole, under the lock

    private RunDisks()
    {
    }

    /// <summary>All disks that there are now.</summary>
    public IReadOnlyList<RunDisk> All => _disks;

    /// <summary>Opens all disks.</summary>
    /// <exception cref="LodgeException">One cannot be opened.</exception>
    public static RunDisks Open(SystemDisk? system, IReadOnlyList<DiskOption> options, SeedDisk? seed = null)
    {
        RunDisks disks = new();
        try
        {
            IReadOnlyList<string> names = DevicePlaces.OfDisks(options, system is null ? 0 : 1, out int next);
            if (system is not null)
            {
                IDisk own = system.Open();
                disks.Add(new RunDisk(DevicePlaces.Disk(0), new DiskOption { Path = system.Image.Name.ToString(), Format = "", Bus = system.Bus, Serial = "LODGE-SYSTEM" }, own, own as IImage));
            }
            for (int i = 0; i < options.Count; i++)
            {
                if (!options[i].IsPlace)
                {
                    disks.Add(OpenOne(names[i], options[i]));
                }
                else if (options[i].Bus != DiskBus.Scsi)
                {
                    disks._places.Add(null);
                }
            }
            if (seed is not null)
            {
                // The last, so that the names of the others do not depend on it.
                disks.Add(new RunDisk(DevicePlaces.Disk(next), new DiskOption { Path = "cloud-init seed", Format = "", Bus = seed.Bus, Serial = SeedDisk.Serial, ReadOnly = true }, seed.Open(), null));
            }
            return disks;
        }
        catch (DiskException e)
        {
            disks.Dispose();
            throw new LodgeException($"a disk cannot be opened: {e.Message}");
        }
        catch
        {
            disks.Dispose();
            throw;
        }
    }

    /// <summary>Adds those that have a slot of their own to a machine that is being made; before anything takes the next free one.</summary>
    /// <param name="chipset">The machine's.</param>
    /// <param name="processors">Its processors.</param>
    /// <param name="removable">Whether the guest may be asked to eject them.</param>
    /// <exception cref="LodgeException">A slot is taken.</exception>
    public void AddPlaced(Chipset chipset, int processors, bool removable)
    {
        foreach (RunDisk disk in _disks)
        {
            if (disk.Option.Slot is { } slot)
            {
                DevicePlaces.RequireFree(chipset, slot, disk.Name);
                disk.Function = Function(disk, chipset.Memory, processors);
                disk.Function.IsRemovable = removable;
                chipset.Pci.Add(disk.Function, slot);
            }
        }
    }

    /// <summary>Adds the controllers with their disks to a machine that is being made.</summary>
    /// <param name="chipset">The machine's.</param>
    /// <param name="processors">Its processors.</param>
    /// <param name="removable">Whether the guest may be asked to eject the user's.</param>
    public void AddDevices(Chipset chipset, int processors, bool removable)
    {
        List<ScsiTargetConfiguration> targets = [];
        foreach (RunDisk? disk in _places)
        {
            if (disk is null)
            {
                chipset.Pci.SkipPlace();
            }
            else if (disk.Option.Bus == DiskBus.Scsi)
            {
                targets.Add(Target(disk));
            }
            else
            {
                disk.Function = Function(disk, chipset.Memory, processors);
                disk.Function.IsRemovable = removable && disk.IsUsers;
                chipset.Pci.Add(disk.Function);
            }
        }
        if (targets.Count != 0)
        {
            chipset.Pci.Add(Controller("scsi0", chipset.Memory, targets, processors));
        }
    }

    /// <summary>Plugs a disk into a machine that runs.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="name">The disk's name.</param>
    /// <param name="option">What it is to be.</param>
    /// <param name="image">The image, which belongs to this from now on, also when it fails.</param>
    /// <param name="slot">A free PCI slot.</param>
    /// <param name="processors">The machine's processors.</param>
    /// <exception cref="ArgumentException">The name is taken.</exception>
    /// <exception cref="InvalidOperationException">The slot is taken, or the machine has ended.</exception>
    public void Attach(VirtualMachine machine, string name, DiskOption option, IImage image, int slot, int processors)
    {
        RunDisk disk = Filtered(name, option, image);
        disk.Function = Function(disk, machine.Memory, processors);
        lock (_gate)
        {
            _disks = [.. _disks, disk];
        }
        try
        {
            machine.Attach(disk.Function, slot);
        }
        catch
        {
            Closed(disk.Function);
            throw;
        }
    }

    /// <summary>Closes the disk of a function that is gone.</summary>
    /// <returns>Its name; null when it is none of these.</returns>
    public string? Closed(PciFunction function)
    {
        lock (_gate)
        {
            if (_disks.FirstOrDefault(disk => disk.Function == function) is not { } gone)
            {
                return null;
            }
            _disks = [.. _disks.Where(disk => disk != gone)];
            Close(gone);
            return gone.Name;
        }
    }

    /// <summary>Makes durable what was written, of a machine that stands still.</summary>
    /// <exception cref="DiskException">A disk fails; the message names it.</exception>
    /// <exception cref="DeviceBusyException">A disk does not answer.</exception>
    public void Flush()
    {
        lock (_gate)
        {
            foreach (RunDisk disk in _disks.Where(disk => !disk.Disk.IsReadOnly))
            {
                try
                {
                    Flush(disk.Name, disk.Disk);
                }
                catch (DiskException e)
                {
                    throw new DiskException(e.Error, $"disk '{disk.Option.Path}': {e.Message}", e);
                }
            }
        }
    }

    /// <summary>Closes the images; after the machine has been disposed.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            foreach (RunDisk disk in _disks)
            {
                Close(disk);
            }
            _disks = [];
        }
    }

    /// <summary>Makes durable what was written to a disk, for which it has a minute.</summary>
    /// <exception cref="DiskException">It fails.</exception>
    /// <exception cref="DeviceBusyException">It does not answer: a server or a file system hangs.</exception>
    internal static void Flush(string name, IDisk disk, TimeSpan? patience = null)
    {
        TimeSpan time = patience ?? Patience;
        Task flush = Task.Run(() => disk.FlushAsync().AsTask()); // on another thread: one of a file takes its thread's time
        if (Task.WaitAny([flush], time) < 0)
        {
            throw new DeviceBusyException(name, time);
        }
        flush.GetAwaiter().GetResult();
    }

    /// <summary>How an image is opened for a disk.</summary>
    public static ImageOpenOptions Opening(DiskOption option) => new()
    {
        ReadOnly = option.ReadOnly,
        Format = option.Format,
        Cache = option.Cache,
        Discard = option.Discard,
        AllowedFolders = option.AllowedFolders,
    };

    private static void Close(RunDisk disk)
    {
        try
        {
            disk.Disk.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
        catch (DiskException e)
        {
            HostFile.Error($"lodge: disk '{disk.Option.Path}' could not be closed: {e.Message}");
        }
    }

    private void Add(RunDisk disk)
    {
        _disks = [.. _disks, disk];
        if (disk.Option.Slot is null)
        {
            _places.Add(disk);
        }
    }

    private static RunDisk OpenOne(string name, DiskOption option) => Filtered(name, option, ImageOpener.OpenAsync(option.Path, Opening(option)).AsTask().GetAwaiter().GetResult());

    private static RunDisk Filtered(string name, DiskOption option, IImage image)
    {
        int block = option.CdRom ? 2048 : option.BlockSize;
        if (image.Length % block is not 0 and var rest)
        {
            HostFile.Error($"lodge: the last {rest} bytes of disk '{option.Path}' are not a whole block and not visible to the guest");
        }
        IDisk disk = image;
        if (option.Faults.Count != 0)
        {
            disk = new FaultInjectingDisk(disk, option.Faults);
        }
        return new RunDisk(name, option, option.Limits == DiskLimits.None ? disk : new RateLimitedDisk(disk, option.Limits), image) { IsUsers = true };
    }

    /// <summary>What the guest sees of a disk that is a function of its own.</summary>
    private static PciFunction Function(RunDisk disk, GuestMemory memory, int processors)
    {
        DiskOption option = disk.Option;
        string serial = option.Serial ?? DevicePlaces.Serial(disk.Name);
        Action<Exception> failed = failure => HostFile.Error($"lodge: {disk.Name} ({option.Path}): {failure.Message}; the guest sees errors");
        switch (option.Bus)
        {
            case DiskBus.Scsi:
                return Controller(disk.Name, memory, [Target(disk)], processors);
            case DiskBus.Nvme:
                NvmeConfiguration nvme = new(disk.Disk)
                {
                    Serial = serial,
                    ReadOnly = option.ReadOnly,
                    BlockSize = option.BlockSize,
                    Queues = processors,
                    Discard = option.Discard,
                    Failed = failed,
                };
                return new NvmeController(disk.Name, memory, nvme);
            default:
                VirtioBlockConfiguration block = new(disk.Disk)
                {
                    Serial = serial,
                    ReadOnly = option.ReadOnly,
                    BlockSize = option.BlockSize,
                    Queues = processors,
                    Discard = option.Discard,
                    Failed = failed,
                };
                return new VirtioPciFunction(disk.Name, new VirtioBlock(memory, block), ClassMassStorage);
        }
    }

    private static ScsiTargetConfiguration Target(RunDisk disk) => new(disk.Disk, disk.Option.CdRom)
    {
        Serial = disk.Option.Serial ?? DevicePlaces.Serial(disk.Name),
        ReadOnly = disk.Option.ReadOnly,
        BlockSize = disk.Option.BlockSize,
        Discard = disk.Option.Discard,
    };

    private static VirtioPciFunction Controller(string name, GuestMemory memory, IReadOnlyList<ScsiTargetConfiguration> targets, int processors)
    {
        VirtioScsiConfiguration scsi = new(targets)
        {
            Queues = processors,
            Failed = failure => HostFile.Error($"lodge: {name}: {failure.Message}; the guest sees errors"),
        };
        return new VirtioPciFunction(name, new VirtioScsi(memory, scsi), ClassMassStorage);
    }
}
