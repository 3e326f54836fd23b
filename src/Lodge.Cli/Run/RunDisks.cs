using System.Globalization;
using Lodge.Cli.Console;
using Lodge.Machine;
using Lodge.Machine.Devices.Storage.Nvme;
using Lodge.Machine.Devices.Virtio.Block;
using Lodge.Machine.Devices.Virtio.Scsi;
using Lodge.Machine.Virtio.Transport;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Run;

/// <summary>The disks of a run: opened before the machine is made, closed when it has ended.</summary>
internal sealed partial class RunDisks : IDisposable
{
    // PCI class code; drivers match on the device ID only.
    private const uint ClassMassStorage = 0x018000;
    private readonly List<(DiskOption Option, IDisk Disk)> _disks = [];

    private RunDisks()
    {
    }

    /// <summary>Opens all disks.</summary>
    /// <exception cref="LodgeException">One cannot be opened.</exception>
    public static RunDisks Open(SystemDisk? system, IReadOnlyList<DiskOption> options, SeedDisk? seed = null)
    {
        RunDisks disks = new();
        try
        {
            if (system is not null)
            {
                IDisk own = system.Open();
                disks.Add(new DiskOption { Path = system.Image.Name.ToString(), Format = "", Bus = system.Bus, Serial = "LODGE-SYSTEM" }, own, own as IImage);
            }
            foreach (DiskOption option in options)
            {
                disks.Add(option, Open(option, out IImage image), image);
            }
            if (seed is not null)
            {
                // The last, so that the names of the others do not depend on it.
                disks.Add(new DiskOption { Path = "cloud-init seed", Format = "", Bus = seed.Bus, Serial = SeedDisk.Serial, ReadOnly = true }, seed.Open(), null);
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

    /// <summary>Adds the controllers with their disks to a machine that is being made.</summary>
    public void AddDevices(Chipset chipset, int processors)
    {
        List<ScsiTargetConfiguration> targets = [];
        for (int i = 0; i < _disks.Count; i++)
        {
            (DiskOption option, IDisk disk) = _disks[i];
            string name = string.Create(CultureInfo.InvariantCulture, $"disk{i}");
            Action<Exception> failed = failure => HostFile.Error($"lodge: {name} ({option.Path}): {failure.Message}; the guest sees errors");
            string serial = option.Serial ?? $"LODGE-{i:d4}";
            if (option.Bus == DiskBus.Scsi)
            {
                targets.Add(new ScsiTargetConfiguration(disk, option.CdRom)
                {
                    Serial = serial,
                    ReadOnly = option.ReadOnly,
                    BlockSize = option.BlockSize,
                    Discard = option.Discard,
                });
                continue;
            }
            if (option.Bus == DiskBus.Nvme)
            {
                NvmeConfiguration nvme = new(disk)
                {
                    Serial = serial,
                    ReadOnly = option.ReadOnly,
                    BlockSize = option.BlockSize,
                    Queues = processors,
                    Discard = option.Discard,
                    Failed = failed,
                };
                chipset.Pci.Add(new NvmeController(name, chipset.Memory, nvme));
                continue;
            }
            VirtioBlockConfiguration block = new(disk)
            {
                Serial = serial,
                ReadOnly = option.ReadOnly,
                BlockSize = option.BlockSize,
                Queues = processors,
                Discard = option.Discard,
                Failed = failed,
            };
            chipset.Pci.Add(new VirtioPciFunction(name, new VirtioBlock(chipset.Memory, block), ClassMassStorage));
        }
        if (targets.Count != 0)
        {
            VirtioScsiConfiguration scsi = new(targets)
            {
                Queues = processors,
                Failed = failure => HostFile.Error($"lodge: scsi0: {failure.Message}; the guest sees errors"),
            };
            chipset.Pci.Add(new VirtioPciFunction("scsi0", new VirtioScsi(chipset.Memory, scsi), ClassMassStorage));
        }
    }

    /// <summary>Makes durable what was written, of a machine that stands still.</summary>
    /// <exception cref="DiskException">A disk fails; the message names it.</exception>
    public void Flush()
    {
        foreach ((DiskOption option, IDisk disk) in _disks)
        {
            if (!disk.IsReadOnly)
            {
                try
                {
                    disk.FlushAsync().AsTask().GetAwaiter().GetResult();
                }
                catch (DiskException e)
                {
                    throw new DiskException(e.Error, $"disk '{option.Path}': {e.Message}", e);
                }
            }
        }
    }

    /// <summary>Closes the images; after the machine has been disposed.</summary>
    public void Dispose()
    {
        foreach ((DiskOption option, IDisk disk) in _disks)
        {
            try
            {
                disk.DisposeAsync().AsTask().GetAwaiter().GetResult();
            }
            catch (DiskException e)
            {
                HostFile.Error($"lodge: disk '{option.Path}' could not be closed: {e.Message}");
            }
        }
        _disks.Clear();
    }

    private void Add(DiskOption option, IDisk disk, IImage? image)
    {
        _disks.Add((option, disk));
        _images.Add((option, image));
    }

    private static IDisk Open(DiskOption option, out IImage image)
    {
        image = ImageOpener.OpenAsync(option.Path, new ImageOpenOptions
        {
            ReadOnly = option.ReadOnly,
            Format = option.Format,
            Cache = option.Cache,
            Discard = option.Discard,
            AllowedFolders = option.AllowedFolders,
        }).AsTask().GetAwaiter().GetResult();
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
        return option.Limits == DiskLimits.None ? disk : new RateLimitedDisk(disk, option.Limits);
    }
}
