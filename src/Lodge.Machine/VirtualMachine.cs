using System.Diagnostics;
using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Acpi;
using Lodge.Machine.Debugging;
using Lodge.Machine.Devices.Storage;
using Lodge.Machine.Virtio.Transport;

namespace Lodge.Machine;

/// <summary>What a machine is doing.</summary>
public enum MachineRunState
{
    /// <summary>Made but not yet started.</summary>
    Created,

    /// <summary>The guest runs.</summary>
    Running,

    /// <summary>Held: processors and devices stand still and time does, too.</summary>
    Paused,

    /// <summary>Over; see <see cref="VirtualMachine.Completion"/>.</summary>
    Ended,
}

/// <summary>
/// A virtual computer: RAM, processors of some engine, chipset and devices, and its life from power-on to its outcome.
/// </summary>
/// <remarks>
/// <para>Threads: one for each virtual processor; one, the machine's own, that acts on what the guest asks for (power-off, reset, ...), so that a
/// device may ask from a processor's thread and return at once; the timers' and the devices' own.</para>
/// <para>Lock order: the machine's lifecycle lock, then a device's lock, then wires, interrupt controllers, local APICs and the timer service;
/// last the request lock and <see cref="ProcessorThreads"/>' gate. A processor's thread never takes the lifecycle lock; whoever holds it may
/// therefore wait for the processors.</para>
/// </remarks>
public sealed partial class VirtualMachine : IDebugTarget, IDisposable
{
    private const int MaximumOemStrings = 8192;

    private readonly Lock _lifecycle = new();
    private readonly MachineConfiguration _configuration;
    private readonly TaskCompletionSource<MachineOutcome> _completion = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly ProcessorThreads _threads;
    private readonly Thread _thread;
    private readonly EventListener? _events;
    private bool _awaitsState;
    private bool _poweredOn;    // and not made with another machine's memory, which holds its own tables
    private bool _disposed;
    private volatile MachineRunState _state;

    /// <summary>Makes a machine: everything is allocated and the guest is in place, ready to start. One whose memory begins as a copy needs <see cref="RestoreState"/> first.</summary>
    /// <exception cref="IOException">Guest memory or the CMOS file cannot be had.</exception>
    /// <exception cref="ArgumentException">The configuration is impossible.</exception>
    public VirtualMachine(MachineConfiguration configuration, IEngine engine)
    {
        if (configuration.ProcessorCount is < 1 or > 255)
        {
            throw new ArgumentException($"{configuration.ProcessorCount} processors: 1 to 255 are possible", nameof(configuration));
        }
        if (configuration.OemStrings.Count > byte.MaxValue || configuration.OemStrings.Sum(static s => s.Length + 1) > MaximumOemStrings)
        {
            throw new ArgumentException($"{configuration.OemStrings.Count} strings for the guest are too many or too long; {MaximumOemStrings} characters are possible", nameof(configuration));
        }
        if (configuration.MaximumProcessorCount > 255)
        {
            throw new ArgumentException($"{configuration.MaximumProcessorCount} processors at most: 255 are possible", nameof(configuration));
        }
        _configuration = configuration;
        Memory = new GuestMemory(configuration.MemorySize, configuration.Backing);
        Timers = new TimerService(Clock);
        try
        {
            Chipset = new Chipset(configuration, Memory, Timers, new Control(this));
            Partition = engine.CreatePartition(new PartitionOptions(configuration.MaximumProcessorCount, configuration.Model, Memory, Chipset.Bus, Clock) { Processor = configuration.Processor });
            Chipset.Processors.Connect(Partition, Chipset.Pic, Chipset.IoApic);
            if (Partition.Doorbells is { } doorbells)
            {
                _events = new EventListener();
                Chipset.Pci.Doorbells = new MachineDoorbells(doorbells, _events);
            }
            _awaitsState = configuration.IsRestored;
            if (!_awaitsState && configuration.Backing.CopyOf is null)
            {
                PowerOn();
            }
        }
        catch
        {
            Release();
            throw;
        }
        _threads = new ProcessorThreads(Partition.Processors, configuration.Pinning, ProcessorExited);
        for (int i = configuration.ProcessorCount; i < configuration.MaximumProcessorCount; i++)
        {
            _threads.SetPresent(i, false);
        }
        Chipset.PciHotPlug.Ejected = SlotEjected;
        Chipset.ProcessorHotPlug.Ejected = ProcessorEjected;
        _thread = new Thread(ServeRequests) { IsBackground = true, Name = "machine" };
        _thread.Start();
    }

    /// <summary>Guest RAM.</summary>
    public GuestMemory Memory { get; }

    /// <summary>The processors.</summary>
    public Partition Partition { get; } = null!;

    /// <summary>Buses, wires and devices.</summary>
    public Chipset Chipset { get; } = null!;

    /// <summary>Machine time.</summary>
    public MachineClock Clock { get; } = new();

    /// <summary>Timers on machine time.</summary>
    public TimerService Timers { get; }

    /// <summary>What it is doing now.</summary>
    public MachineRunState State => _state;

    /// <summary>How many times the guest was reset and booted again.</summary>
    public int Restarts { get; private set; }

    /// <summary>Completes with the outcome when the run has ended and everything stands still.</summary>
    public Task<MachineOutcome> Completion => _completion.Task;

    /// <summary>
    /// Processors reached a breakpoint, watchpoint or step; the machine is paused. On the machine's thread, which must not be held up; go on
    /// with <see cref="Resume"/>, from any thread.
    /// </summary>
    public event Action<IReadOnlyList<VirtualProcessor>>? DebugStopped;

    /// <summary>The guest's kernel panicked but hands over to a crash kernel. On a processor's thread: must return at once.</summary>
    public event Action? CrashKernelStarting;

    /// <summary>Starts a machine that was made or restored.</summary>
    public void Start() => Resume();

    /// <summary>Lets a made or paused machine run. Nothing happens when it runs already or has ended.</summary>
    /// <param name="processors">The processors that run, for debuggers; null for all.</param>
    public void Resume(IReadOnlyCollection<VirtualProcessor>? processors = null)
    {
        lock (_lifecycle)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_awaitsState)
            {
                throw new InvalidOperationException("the machine was made to be restored and was not");
            }
            if (_state is MachineRunState.Created or MachineRunState.Paused)
            {
                Go(processors);
                _state = MachineRunState.Running;
            }
        }
    }

    IReadOnlyList<VirtualProcessor> IDebugTarget.Processors => Partition.Processors;

    CpuModel IDebugTarget.Model => _configuration.Model;

    Task IDebugTarget.Completion => Completion;

    /// <summary>Holds a running machine; returns when processors and devices stand still. Not on a processor's thread.</summary>
    /// <exception cref="DeviceBusyException">A device waits for the host; the machine goes on.</exception>
    public void Pause()
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            if (_state == MachineRunState.Running)
            {
                FinishRequestsOrGoOn();
                StandStill();
                _state = MachineRunState.Paused;
            }
        }
    }

    /// <summary>Resets the machine as its reset button would and boots it again, running or paused as before. Not on a processor's thread.</summary>
    public void Reset()
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            if (_state is not MachineRunState.Ended)
            {
                Restart();
            }
        }
    }

    /// <summary>Presses the power button. Any thread. False when the guest does not listen, so that only <see cref="Stop"/> will help.</summary>
    public bool PressPowerButton() => Chipset.PowerManagement.PressPowerButton();

    /// <summary>Raises an NMI on all processors unless the guest masks NMIs at the clock's index port. Any thread.</summary>
    /// <returns>Whether it was raised.</returns>
    public bool SignalNmi()
    {
        if (Chipset.Rtc.NmiMasked)
        {
            return false;
        }
        Partition.SignalNmi();
        return true;
    }

    /// <summary>
    /// Says that the guest's past is used again (a clone, a snapshot that is gone back to): the guest finds another generation identifier, hears of it as soon
    /// as it runs, and draws new random seeds (Linux from 5.18 on with CONFIG_VMGENID). Paused or running; not on a processor's thread.
    /// </summary>
    /// <param name="generation">An identifier that no other machine with this past has.</param>
    public void NewGeneration(Guid generation)
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            Chipset.Generation.Change(generation);
        }
    }

    /// <summary>Asks for the end of the run, as if the plug were pulled. Any thread; returns at once. <see cref="Completion"/> follows.</summary>
    public void RequestStop() => Request(new MachineOutcome(MachineOutcomeKind.Stopped));

    /// <summary>Ends the run, as if the plug were pulled, and waits until everything stands still. Not on a processor's thread.</summary>
    public void Stop()
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            End(new MachineOutcome(MachineOutcomeKind.Stopped));
        }
    }

    /// <summary>Ends the run if need be and frees everything. Not on a processor's thread.</summary>
    public void Dispose()
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            if (_disposed)
            {
                return;
            }
            _disposed = true;
            End(new MachineOutcome(MachineOutcomeKind.Stopped));
        }
        lock (_requestGate)
        {
            _disposing = true;
            Monitor.PulseAll(_requestGate);
        }
        if (Thread.CurrentThread != _thread)
        {
            _thread.Join();
        }
        _threads.Dispose();
        Release();
    }

    private void RefuseOnProcessor()
    {
        if (_threads.IsCurrent)
        {
            throw new InvalidOperationException("a processor's thread cannot wait for itself; use RequestStop");
        }
    }

    private void RequireStill()
    {
        if (_state is not (MachineRunState.Created or MachineRunState.Paused) || _disposed)
        {
            throw new InvalidOperationException($"the machine is {_state}");
        }
    }

    /// <summary>Tables and guest into memory, memory types set on all processors, processor 0 at its entry.</summary>
    private void PowerOn()
    {
        _poweredOn = true;
        WriteTables();
        Chipset.Generation.WriteMemory();
        foreach (VirtualProcessor processor in Partition.Processors)
        {
            ProcessorState state = processor.GetState();
            Boot.MemoryTypeRanges.Apply(state, _configuration.Model.PhysicalBits);
            if (processor.Index == 0)
            {
                _configuration.Boot(Memory, state);
            }
            processor.SetState(state);
        }
    }

    private void WriteTables()
    {
        AcpiTables.Write(Memory, Chipset.Acpi);
        ManagementTables.Write(Memory, ProcessorCount, _configuration.OemStrings);
    }

    private void Go(IReadOnlyCollection<VirtualProcessor>? processors = null)
    {
        Clock.Start();
        foreach (IDevice device in Chipset.Devices)
        {
            device.Start();
        }
        _threads.Permit(processors);
    }

    /// <summary>Before a stand still after which the guest goes on: it must see no errors of requests that were given up.</summary>
    private void FinishRequestsOrGoOn()
    {
        _threads.Halt();
        long begin = Stopwatch.GetTimestamp();
        List<IDevice> finished = [];
        foreach (IHostRequests device in Chipset.Devices.OfType<IHostRequests>().Reverse())
        {
            TimeSpan left = DiskRequestQueue.Patience - Stopwatch.GetElapsedTime(begin);
            if (!device.TryFinish(left > TimeSpan.Zero ? left : TimeSpan.Zero))
            {
                finished.ForEach(static one => one.Start());
                _threads.PermitAgain();
                throw new DeviceBusyException(device.Name, Stopwatch.GetElapsedTime(begin));
            }
            finished.Add(device);
        }
    }

    private void StandStill()
    {
        _threads.Halt();
        FinishEjections();
        Clock.Stop();
        foreach (IDevice device in Chipset.Devices.Reverse())
        {
            device.Stop();
        }
    }

    /// <summary>Power-on again, with the lifecycle lock held.</summary>
    private void Restart()
    {
        bool running = _state == MachineRunState.Running;
        if (running)
        {
            StandStill();
        }
        TakeRequest(out MachineOutcome? late, out _);
        if (late is { Kind: not MachineOutcomeKind.Reset })
        {
            _state = running ? MachineRunState.Paused : _state; // everything stands still already
            End(late);
            return;
        }
        FinishRequests();
        try
        {
            Partition.Reset();
            foreach (IDevice device in Chipset.Devices)
            {
                device.Reset();
            }
            Memory.FinishLoading();
            foreach (MemorySlot slot in Memory.Slots)
            {
                Memory.TryDiscard(slot.Address, slot.Length);
            }
            PowerOn();
            _awaitsState = false;
        }
        catch (Exception e) when (e is IOException or InvalidOperationException or UnauthorizedAccessException or Boot.BootException)
        {
            _state = MachineRunState.Paused; // everything stands still already
            End(new MachineOutcome(MachineOutcomeKind.EngineFailure, Text: $"cannot boot again: {e.Message}"));
            return;
        }
        Restarts++;
        if (running)
        {
            Go();
        }
    }

    /// <summary>Ends the run, with the lifecycle lock held. Nothing happens when it has ended already.</summary>
    private void End(MachineOutcome outcome)
    {
        if (_state == MachineRunState.Ended)
        {
            return;
        }
        if (_state == MachineRunState.Running)
        {
            StandStill();
        }
        else
        {
            foreach (IDevice device in Chipset.Devices.Reverse())
            {
                device.Stop(); // a machine that never ran still writes what outlives it
            }
        }
        _state = MachineRunState.Ended;
        CancelRequests();
        _completion.TrySetResult(outcome);
    }

    private void Release()
    {
        foreach (IDevice device in Chipset?.Devices ?? [])
        {
            (device as IDisposable)?.Dispose();
        }
        Timers.Dispose();
        _events?.Dispose(); // before the devices' memory goes: its thread calls them
        Partition?.Dispose();
        Memory.Dispose();
    }
}
