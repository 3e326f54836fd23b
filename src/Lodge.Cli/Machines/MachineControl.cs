using System.Diagnostics;
using System.Globalization;
using Lodge.Cli.Console;
using Lodge.Cli.Run;
using Lodge.Engine;
using Lodge.Engine.State;
using Lodge.Machine;
using Lodge.Machine.Saving;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.GuestAgent;
using Lodge.Management.Machines;
using Lodge.Storage.Disks;
using Lodge.Storage.Images;

namespace Lodge.Cli.Machines;

/// <summary>What a machine's process does for those who ask at its control socket. The document <c>control-api.json</c> describes each path.</summary>
/// <param name="process">The process.</param>
/// <param name="machine">Its machine.</param>
/// <param name="consoles">The machine's consoles.</param>
/// <param name="disks">The machine's disks.</param>
/// <param name="networks">The machine's network cards.</param>
/// <param name="options">What the machine was made with.</param>
/// <param name="devices">Its disks and cards that come and go.</param>
/// <param name="clock">Its guest's clock; null when the guest can have no agent.</param>
internal sealed partial class MachineControl(MachineProcess process, VirtualMachine machine, MachineConsoles consoles, RunDisks disks, RunNetworks networks, RunOptions options, MachineDevices devices, GuestClock? clock)
{
    private const long LargestInput = 24 << 20; // 16 MiB, in base64
    private static readonly TimeSpan AgentTime = TimeSpan.FromSeconds(10);
    private readonly Lock _gate = new(), _snapshotGate = devices?.Gate ?? new();
    private bool _saved; // what would run on now would not be what was saved

    /// <summary>The routes.</summary>
    public IReadOnlyList<ControlRoute> Routes =>
    [
        new("GET", "/v1/openapi.json", _ => Task.FromResult(new ControlReply { Body = ControlDocument.Read() })),
        new("GET", "/v1/machine", _ => Task.FromResult(ControlReply.Of(Describe(), ControlJson.Default.ControlMachine))),
        new("GET", "/v1/stats", _ => Task.FromResult(ControlReply.Of(Measure(), ControlJson.Default.ControlStats))),
        new("POST", "/v1/pause", _ => Do(Pause)),
        new("POST", "/v1/resume", _ => Do(Resume)),
        new("POST", "/v1/reset", _ => Do(Reset)),
        new("POST", "/v1/save", _ =>
        {
            Save();
            return Task.FromResult(ControlReply.Done with { After = () => process.Finish("saved") });
        }),
        new("POST", "/v1/snapshots", SnapshotAsync),
        new("DELETE", "/v1/snapshots/*", request => Task.Run(() => Do(() => Snapshots(maker =>
        {
            maker.Remove(request.Path);
            return true;
        })))),
        new("POST", "/v1/nmi", _ => Do(Nmi)),
        new("PUT", "/v1/processors", SetProcessors),
        new("PUT", "/v1/memory", SetMemory),
        new("GET", "/v1/devices", _ => Task.FromResult(ControlReply.Of(devices.Describe(), ControlJson.Default.ControlDevices))),
        new("POST", "/v1/devices", request =>
        {
            ControlAttachment wanted = request.Read(ControlJson.Default.ControlAttachment);
            return wanted.Files is >= 0 and <= ImageHandover.MaximumFiles
                ? Task.FromResult(new ControlReply { Files = (wanted.Files, files => Task.Run(() => devices.Attach(wanted, files))) })
                : throw new ControlException(400, $"{wanted.Files} open files are more than the {ImageHandover.MaximumFiles} that are taken");
        }),
        new("DELETE", "/v1/devices/*", request => devices.DetachAsync(request)),
        new("POST", "/v1/shutdown", ShutDownAsync),
        new("POST", "/v1/stop", _ => Task.FromResult(ControlReply.Done with { After = () => process.Finish("stopped by force") })),
        new("POST", "/v1/console", request => Task.FromResult(new ControlReply { Upgrade = Hub(request).ViewAsync })),
        new("PUT", "/v1/console/size", Size),
        new("GET", "/v1/agent", AgentAsync),
        new("POST", "/v1/agent/exec", ExecAsync) { LargestBody = LargestInput },
        new("GET", "/v1/agent/file", ReadFileAsync),
        new("PUT", "/v1/agent/file", WriteFileAsync) { LargestBody = 1L << 31 },
        new("POST", "/v1/agent/freeze", async request => { await Agent().FreezeAsync(request.Cancellation).ConfigureAwait(false); return ControlReply.Done; }),
        new("POST", "/v1/agent/thaw", async request => { await Agent().ThawAsync(request.Cancellation).ConfigureAwait(false); return ControlReply.Done; }),
    ];

    /// <summary>Method and path of each, as the document has them.</summary>
    public static IEnumerable<string> RouteNames => new MachineControl(null!, null!, null!, null!, null!, null!, null!, null).Routes.Select(route => $"{route.Method} {route.Path.Replace("/*", route.Path.StartsWith("/v1/devices", StringComparison.Ordinal) ? "/{name}" : "/{id}", StringComparison.Ordinal)}");

    private static Task<ControlReply> Do(Action action)
    {
        action();
        return Task.FromResult(ControlReply.Done);
    }

    private ControlMachine Describe() => new()
    {
        Name = process.Folder.Name,
        Id = process.Definition.Id,
        State = process.State,
        Engine = process.EngineName,
        Process = Environment.ProcessId,
        Memory = options.Memory,
        MemoryTarget = options.Memory - Math.Min(options.Memory, machine.Balloon?.TargetBytes ?? 0),
        Processors = machine.ProcessorCount,
        MaximumProcessors = machine.MaximumProcessorCount,
        Restarts = machine.Restarts,
        Cards = [.. networks.All.Select(card => card.Option.Mac.ToString()!)],
        Published = networks.Published,
    };

    private ControlStats Measure()
    {
        using Process own = Process.GetCurrentProcess();
        SortedDictionary<string, long> sums = new(StringComparer.Ordinal);
        foreach (VirtualProcessor processor in machine.Partition.Processors)
        {
            foreach ((string name, long value) in processor.Counters)
            {
                sums[name] = sums.GetValueOrDefault(name) + value;
            }
        }
        return new ControlStats
        {
            Time = (long)(DateTimeOffset.Now - process.StartTime).TotalNanoseconds,
            ProcessorTime = (long)own.TotalProcessorTime.TotalNanoseconds,
            Memory = options.Memory,
            ResidentMemory = ProportionalMemory() ?? own.WorkingSet64,
            NetworkReceived = networks.ReceivedBytes,
            NetworkSent = networks.SentBytes,
            Engine = sums,
        };
    }

    private static long? ProportionalMemory()
    {
        const string field = "Pss:";
        try
        {
            foreach (string line in File.ReadLines("/proc/self/smaps_rollup"))
            {
                if (line.StartsWith(field, StringComparison.Ordinal))
                {
                    return long.Parse(line.AsSpan(field.Length).TrimEnd("kB ").Trim(), NumberStyles.None, CultureInfo.InvariantCulture) << 10;
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            // The working set must do.
        }
        return null;
    }

    private void Pause()
    {
        lock (_gate)
        {
            if (process.State == MachineStates.Running)
            {
                Hold("paused");
                process.Tell(MachineStates.Paused);
                process.Record("paused", null);
            }
            else if (process.State != MachineStates.Paused)
            {
                throw new ControlException(409, $"it is {process.State} and cannot be paused");
            }
        }
    }

    private void Hold(string what)
    {
        try
        {
            machine.Pause();
        }
        catch (DeviceBusyException e)
        {
            throw new ControlException(500, $"it cannot be {what}: {e.Message}");
        }
    }

    private void Resume()
    {
        lock (_gate)
        {
            RefuseSaved();
            if (process.State == MachineStates.Paused)
            {
                machine.Resume();
                process.Tell(MachineStates.Running);
                process.Record("resumed", null);
                clock?.SetSoon();
            }
            else if (process.State != MachineStates.Running)
            {
                throw new ControlException(409, $"it is {process.State} and cannot go on");
            }
        }
    }

    private void Reset()
    {
        lock (_gate)
        {
            RefuseSaved();
            machine.Reset();
            process.Record("reset", null);
        }
    }

    private void RefuseSaved()
    {
        if (_saved)
        {
            throw new ControlException(409, "it has just been saved, and its process ends");
        }
    }

    /// <summary>Saves the machine, whose process then ends; a machine that cannot be saved goes on.</summary>
    private void Save()
    {
        lock (_snapshotGate) // one that is being written comes first
            lock (_gate)
            {
                RefuseSaved();
                bool ran = process.State == MachineStates.Running;
                if (!ran && process.State != MachineStates.Paused)
                {
                    throw new ControlException(409, $"it is {process.State} and cannot be saved");
                }
                try
                {
                    disks.Flush(); // the most of it while the guest goes on
                }
                catch (DiskException e)
                {
                    throw new ControlException(500, $"it cannot be saved: {e.Message}");
                }
                Hold("saved");
                try
                {
                    disks.Flush(); // what the guest has written must be there when it goes on
                    MachineImage.Save(machine, process.Folder.Saved, new SaveOptions { Name = process.Folder.Name, Version = Program.Version });
                }
                catch (Exception e)
                {
                    if (ran)
                    {
                        machine.Resume();
                        clock?.SetSoon();
                    }
                    if (e is IOException or DiskException or NotSupportedException or InvalidOperationException or SavedStateException)
                    {
                        throw new ControlException(500, $"it cannot be saved: {e.Message}");
                    }
                    throw;
                }
                _saved = true;
                process.Record("saved", null);
            }
    }

    private async Task<ControlReply> SnapshotAsync(ControlRequest request)
    {
        SnapshotRequest wanted = request.Read(SnapshotJson.Default.SnapshotRequest);
        if (!wanted.Freeze)
        {
            return await Task.Run(MakeAndSetClock).ConfigureAwait(false);
        }
        if (wanted.Memory)
        {
            throw new ControlException(400, "file systems are held for a snapshot without memory: one with memory would go on with them held");
        }
        GuestAgentClient agent = Agent();
        await agent.FreezeAsync(request.Cancellation).ConfigureAwait(false);
        try
        {
            return await Task.Run(Make).ConfigureAwait(false);
        }
        finally
        {
            await agent.ThawAsync(CancellationToken.None).ConfigureAwait(false);
            clock?.SetSoon();
        }

        ControlReply MakeAndSetClock()
        {
            try
            {
                return Make();
            }
            finally
            {
                if (process.State == MachineStates.Running)
                {
                    clock?.SetSoon(); // it stood for a moment, and many moments are a while
                }
            }
        }

        ControlReply Make() => ControlReply.Of(Snapshots(maker => maker.Create(wanted)), SnapshotJson.Default.SnapshotRecord);
    }

    private T Snapshots<T>(Func<SnapshotMaker, T> action)
    {
        lock (_snapshotGate)
        {
            if (process.State is not (MachineStates.Running or MachineStates.Paused))
            {
                throw new ControlException(409, $"it is {process.State}");
            }
            try
            {
                return action(new SnapshotMaker(process.Folder, disks, machine, [.. devices.Describe().Devices.Select(device => device.Name)]));
            }
            catch (ManagementException e)
            {
                throw new ControlException(500, e.Message);
            }
        }
    }

    private void Nmi()
    {
        if (!machine.SignalNmi())
        {
            throw new ControlException(409, "its guest masks NMIs");
        }
    }

    /// <summary>Plugs processors in at once; asks the guest to give some up, which it does or does not.</summary>
    private Task<ControlReply> SetProcessors(ControlRequest request)
    {
        int count = request.Read(ControlJson.Default.ControlProcessors).Count;
        if (count < 1 || count > machine.MaximumProcessorCount)
        {
            throw new ControlException(409, $"it can have 1 to {machine.MaximumProcessorCount} CPUs while it runs, not {count}; 'lodge edit --max-cpus' makes room at its next start");
        }
        _ = machine.SetProcessorCount(count);
        process.Record("processors", $"{count}");
        return Task.FromResult(ControlReply.Done);
    }

    /// <summary>Asks the guest to give memory up, or gives it back (balloon).</summary>
    private Task<ControlReply> SetMemory(ControlRequest request)
    {
        ulong bytes = request.Read(ControlJson.Default.ControlMemory).Bytes;
        if (machine.Balloon is not { } balloon)
        {
            throw new ControlException(409, "it has no balloon");
        }
        if (bytes < RunOptions.MinMemory || bytes > options.Memory)
        {
            throw new ControlException(409, $"it can have {RunOptions.MinMemory >> 20}M to {options.Memory >> 20}M while it runs, not {bytes >> 20}M");
        }
        balloon.TargetBytes = options.Memory - bytes;
        process.Record("memory", $"{bytes >> 20}M");
        return Task.FromResult(ControlReply.Done);
    }

    /// <summary>Asks the guest to turn its power off: by the power button, and where nobody listens to that by its agent.</summary>
    private async Task<ControlReply> ShutDownAsync(ControlRequest request)
    {
        Resume();
        bool asked = machine.PressPowerButton() || consoles.DefaultSystem?.RequestEnd() == true;
        if (!asked && consoles.Agent is { } agent)
        {
            try
            {
                await agent.ShutdownAsync(GuestShutdownMode.PowerDown, request.Cancellation).ConfigureAwait(false);
                asked = true;
            }
            catch (GuestAgentException)
            {
                // Then nobody listens.
            }
        }
        return ControlReply.Of(new ControlShutdown(asked), ControlJson.Default.ControlShutdown);
    }

    private ConsoleHub Hub(ControlRequest request) => request.Query.GetValueOrDefault("device") switch
    {
        null or "" => consoles.Virtio ?? consoles.Serial,
        "serial" => consoles.Serial,
        "virtio" => consoles.Virtio ?? throw new ControlException(404, "it has no virtio console"),
        { } other => throw new ControlException(400, $"there is no console '{other}'; serial and virtio are"),
    };

    private Task<ControlReply> Size(ControlRequest request)
    {
        ControlSize size = request.Read(ControlJson.Default.ControlSize);
        if (size.Columns is < 1 or > ushort.MaxValue || size.Rows is < 1 or > ushort.MaxValue)
        {
            throw new ControlException(400, $"a window of {size.Columns} by {size.Rows} characters is none");
        }
        Hub(request).Resize(size.Columns, size.Rows);
        return Task.FromResult(ControlReply.Done);
    }
}
