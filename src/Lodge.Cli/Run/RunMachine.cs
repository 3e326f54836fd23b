using Lodge.Cli.Console;
using Lodge.Engine;
using Lodge.Engine.Processor;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Lodge.Machine.Devices.Virtio.Balloon;
using Lodge.Machine.Devices.Virtio.Console;
using Lodge.Machine.Devices.Virtio.Rng;
using Lodge.Machine.Virtio.Transport;

namespace Lodge.Cli.Run;

/// <summary>Makes the machine of a run: chipset, serial port, and the virtio devices.</summary>
internal static class RunMachine
{
    // PCI class codes; drivers match on the device ID only.
    private const uint ClassSimpleCommunication = 0x078000;
    private const uint ClassUnassigned = 0xFF0000;

    /// <summary>Makes it; with <paramref name="restored"/> nothing boots and a saved machine is to be put into it.</summary>
    /// <exception cref="LodgeException">The kernel cannot be loaded, or the host refuses.</exception>
    public static VirtualMachine Create(IEngine engine, RunOptions options, RunPlan plan, GuestConsoles consoles, RunDisks disks, RunNetworks networks, RunShares shares, RunVsock sockets, bool restored = false)
    {
        MachineConfiguration configuration = new()
        {
            MemorySize = options.Memory,
            Backing = options.Backing,
            Pinning = options.Pin,
            IsRestored = restored,
            ProcessorCount = options.Processors,
            MaximumProcessorCount = options.MaximumProcessors ?? options.Processors,
            Model = Model(options, engine),
            Processor = options.Processor,
            Boot = (memory, state) => KernelLoader.Load(memory, new BootOptions(plan.Kernel, plan.Modules, plan.CommandLine, MemoryMap.RootPointer)).Apply(state),
            SerialPorts = [consoles.Serial],
            RestartOnReset = options.Folder is not null,
            CmosPath = options.Named && (options.WorkFolder ?? StateFolder.Of(options.Name)) is { } state ? Path.Combine(state, "cmos") : null,
            DebugExitPort = options.DebugExitPort,
            OemStrings = sockets.OemStrings,
            AddDevices = chipset =>
            {
                // By the most that it can have: what devices have stays the same when processors come and go, also between a save and a restore.
                int processors = options.MaximumProcessors ?? options.Processors;
                // Only a kept machine can be asked for it, and that may be a clone of what another run of the image made.
                bool removable = options.Folder is not null || options.Image is not null;
                disks.AddPlaced(chipset, processors, removable);
                networks.AddPlaced(chipset, processors, removable);
                AddDevices(chipset, consoles);
                disks.AddDevices(chipset, processors, removable);
                networks.AddDevices(chipset, processors, removable);
                shares.AddDevices(chipset, processors);
                sockets.AddDevices(chipset);
            },
        };
        try
        {
            return new VirtualMachine(configuration, engine);
        }
        catch (BootException e)
        {
            throw new LodgeException(e.Message);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException or OutOfMemoryException)
        {
            throw new LodgeException($"the machine cannot be made: {e.Message}");
        }
    }

    /// <summary>The processor that the guest sees.</summary>
    /// <exception cref="LodgeException">It cannot be had.</exception>
    internal static CpuModel Model(RunOptions options, IEngine engine)
    {
        try
        {
            return CpuModel.Create(options.Cpu, options.MaximumProcessors ?? options.Processors, engine.CpuOffer, options.Processor);
        }
        catch (NotSupportedException e)
        {
            throw new LodgeException(e.Message);
        }
    }

    private static void AddDevices(Chipset chipset, GuestConsoles console)
    {
        List<ConsolePortConfiguration> ports = [new("", true, console.HostConsole)];
        ports.AddRange(console.Ports.Select(p => new ConsolePortConfiguration(p.Name, false, p.Backend)));
        (int columns, int rows) = Terminal.Size() ?? (80, 25);
        // Debian's kernels have the specification's order since the correction of Linux 6.15 went into the stable series.
        VirtioConsoleConfiguration consoles = new(ports, Columns: (ushort)columns, Rows: (ushort)rows, ResizeOrder: ResizeOrder.Specification);
        chipset.Pci.Add(new VirtioPciFunction("console0", new VirtioConsole(chipset.Memory, consoles), ClassSimpleCommunication));
        chipset.Pci.Add(new VirtioPciFunction("rng0", new VirtioRng(chipset.Memory, new VirtioRngConfiguration()), ClassUnassigned));
        chipset.Pci.Add(new VirtioPciFunction("balloon0", new VirtioBalloon(chipset.Memory, chipset.Timers, new VirtioBalloonConfiguration()), ClassUnassigned));
    }
}
