using Lodge.Machine.Devices.Power.HotPlug;
using Lodge.Machine.Devices.Virtio.Balloon;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio.Transport;

namespace Lodge.Machine;

/// <summary>What changes while the machine runs: PCI functions and processors come and go (ACPI), the balloon.</summary>
/// <remarks>
/// An ejection arrives on a processor's thread. A function is out of the guest's reach there and then; the machine's thread stops and disposes it, or
/// whoever makes the machine stand still before. A processor is held by the keeper of its thread.
/// </remarks>
public sealed partial class VirtualMachine
{
    private const ulong MessageBase = 0xFEE0_0000;              // Intel SDM vol. 3, 11.11.1
    private const uint MessageInit = (5 << 8) | (1 << 14);      // 11.11.2: delivery mode INIT, level assert
    private readonly Dictionary<string, TaskCompletionSource> _detaching = new(StringComparer.Ordinal);     // lifecycle lock
    private readonly Queue<PciFunction> _ejected = [];      // request lock; as many as there are slots at most, since a slot is filled under the lifecycle lock only
    private readonly Queue<PciFunction> _detached = [];     // request lock; to be told of
    private readonly Lock _countGate = new();
    private TaskCompletionSource? _countReached;
    private int _countWanted;

    /// <summary>
    /// A function that was plugged in is gone: stopped, disposed if it can be, out of the guest's reach. Also when the guest ejected it unasked. On the
    /// machine's thread, no lock held; what the function was connected to may be closed now.
    /// </summary>
    public event Action<PciFunction>? FunctionDetached;

    /// <summary>PCI slots (device numbers on bus 0) that are free for <see cref="Attach"/>.</summary>
    public IReadOnlyList<int> FreeSlots => [.. Chipset.PciHotPlug.RemovablePlaces.Where(slot => !Chipset.PciHotPlug.IsPresent(slot))];

    /// <summary>Whether there is a PCI function of that name.</summary>
    public bool HasDevice(string name) => Chipset.Pci.Functions.Any(function => function.Name == name);

    /// <summary>Whether there is a PCI function of that name which can be detached.</summary>
    public bool CanDetach(string name) => Chipset.Pci.Functions.FirstOrDefault(function => function.Name == name) is { } function && Chipset.PciHotPlug.IsRemovable(function.Address.Device);

    /// <summary>Most processors that the machine can have.</summary>
    public int MaximumProcessorCount => Partition.Processors.Count;

    /// <summary>Processors that the machine has now: those that the guest has not ejected.</summary>
    public int ProcessorCount => Chipset.ProcessorHotPlug.PresentPlaces.Count;

    /// <summary>The first balloon, by which the guest's memory is made smaller and larger; null when there is none.</summary>
    public VirtioBalloon? Balloon => Chipset.Pci.Functions.OfType<VirtioPciFunction>().Select(static function => function.Device).OfType<VirtioBalloon>().FirstOrDefault();

    /// <summary>
    /// Plugs a function in, whether the machine runs, is paused or not started yet. It is the machine's from now on: stopped, saved and, if it can be,
    /// disposed with it. A running guest is told by ACPI. Not on a processor's thread.
    /// </summary>
    /// <param name="function">A function that is on no bus, with a name of its own.</param>
    /// <param name="slot">One of <see cref="FreeSlots"/>; null for the first.</param>
    /// <returns>Where it sits.</returns>
    /// <exception cref="ArgumentException">The machine has a device of that name.</exception>
    /// <exception cref="InvalidOperationException">The slot is not free, no slot is, no address is left for a BAR, or the machine has ended.</exception>
    public PciAddress Attach(PciFunction function, int? slot = null)
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            RequireAlive();
            FinishEjections();
            HotPlugController slots = Chipset.PciHotPlug;
            int at = slot ?? FreeSlots.Append(-1).First();
            if (!slots.IsRemovable(at) || slots.IsPresent(at))
            {
                throw new InvalidOperationException(slot is null ? "all PCI slots are taken" : $"PCI slot {at} is not free for a device to be plugged in");
            }
            Chipset.Plug(function, at, decode: _state == MachineRunState.Created, start: _state == MachineRunState.Running);
            if (_state == MachineRunState.Created)
            {
                slots.Fill(at);
            }
            else
            {
                slots.Arrive(at);
            }
            return function.Address;
        }
    }

    /// <summary>
    /// Asks the guest to eject a function; once more if it was asked before. A machine that was not started loses it at once, and one that is reset
    /// meanwhile with the reset. Not on a processor's thread.
    /// </summary>
    /// <param name="name">Name of the function.</param>
    /// <returns>
    /// Completes when the function is gone, which only the guest decides: wait with a limit. Cancelled when the machine ends before.
    /// </returns>
    /// <exception cref="ArgumentException">The machine has no such function.</exception>
    /// <exception cref="InvalidOperationException">It was there when the machine was made, or the machine has ended.</exception>
    public Task RequestDetach(string name)
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            RequireAlive();
            FinishEjections();
            (PciFunction function, int slot) = Removable(name);
            if (_state == MachineRunState.Created)
            {
                Remove(function);
                return Task.CompletedTask;
            }
            if (!_detaching.TryGetValue(name, out TaskCompletionSource? pending))
            {
                pending = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                _detaching[name] = pending;
            }
            Chipset.PciHotPlug.AskToLeave(slot);
            return pending.Task;
        }
    }

    /// <summary>Takes a request back: a reset does not carry it out. A guest that was told of it may still eject the function. Not on a processor's thread.</summary>
    /// <param name="name">Name of the function; one that nobody was asked for is no mistake.</param>
    public void WithdrawDetach(string name)
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            if (_detaching.Remove(name, out TaskCompletionSource? pending))
            {
                pending.TrySetCanceled();
                if (Chipset.Pci.Functions.FirstOrDefault(function => function.Name == name) is { } function)
                {
                    Chipset.PciHotPlug.Stay(function.Address.Device);
                }
            }
        }
    }

    /// <summary>
    /// Pulls a function out, whatever the guest does with it, as a cable is pulled: its driver sees errors, and is told afterwards that it shall let go. Not on a processor's thread.
    /// </summary>
    /// <param name="name">Name of the function.</param>
    /// <exception cref="ArgumentException">The machine has no such function.</exception>
    /// <exception cref="InvalidOperationException">It was there when the machine was made and cannot be removed, or the machine has ended.</exception>
    public void PullOut(string name)
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            RequireAlive();
            FinishEjections();
            (PciFunction function, int slot) = Removable(name);
            if (_state == MachineRunState.Created)
            {
                Chipset.PciHotPlug.Clear(slot);
            }
            else
            {
                Chipset.PciHotPlug.Vanish(slot);
            }
            if (Chipset.Pci.Remove(function))
            {
                Discard(function);
            }
            else
            {
                FinishEjections(); // the guest has ejected it just now
            }
        }
    }

    private (PciFunction Function, int Slot) Removable(string name)
    {
        PciFunction function = Chipset.Pci.Functions.FirstOrDefault(function => function.Name == name)
            ?? throw new ArgumentException($"the machine has no PCI device '{name}'");
        int slot = function.Address.Device;
        return Chipset.PciHotPlug.IsRemovable(slot)
            ? (function, slot)
            : throw new InvalidOperationException($"the device '{name}' was there when the machine started and cannot be unplugged");
    }

    /// <summary>
    /// Plugs processors in, or asks the guest to eject some: the highest first, never processor 0. Processors that come are there at once, what the guest
    /// does with them is its affair (Linux without udev rules: <c>echo 1 &gt; /sys/devices/system/cpu/cpuN/online</c>). A later call replaces an earlier
    /// one. Not on a processor's thread.
    /// </summary>
    /// <param name="count">1 to <see cref="MaximumProcessorCount"/>.</param>
    /// <returns>
    /// Completes when the machine has that many: at once when none goes, otherwise when the guest has ejected them, which only it decides: wait with a
    /// limit. Cancelled when another call replaces this one, or the machine ends before.
    /// </returns>
    /// <exception cref="ArgumentOutOfRangeException">The machine cannot have that many.</exception>
    /// <exception cref="InvalidOperationException">The machine has ended.</exception>
    public Task SetProcessorCount(int count)
    {
        RefuseOnProcessor();
        if (count < 1 || count > MaximumProcessorCount)
        {
            throw new ArgumentOutOfRangeException(nameof(count), $"{count} processors: the machine was made for 1 to {MaximumProcessorCount}");
        }
        lock (_lifecycle)
        {
            RequireAlive();
            HotPlugController places = Chipset.ProcessorHotPlug;
            TaskCompletionSource reached = new(TaskCreationOptions.RunContinuationsAsynchronously);
            lock (_countGate)
            {
                _countReached?.TrySetCanceled();
                (_countReached, _countWanted) = (reached, count);
            }
            IReadOnlyList<int> present = places.PresentPlaces;
            foreach (int place in present.Take(count))
            {
                places.Stay(place);
            }
            foreach (int place in present.Skip(count).Reverse())
            {
                if (_state == MachineRunState.Created)
                {
                    places.Clear(place);
                    _threads.SetPresent(place, false);
                }
                else
                {
                    places.AskToLeave(place);
                }
            }
            foreach (int place in Enumerable.Range(0, MaximumProcessorCount).Except(present).Take(count - present.Count))
            {
                Plug(place);
            }
            if (_state == MachineRunState.Created && _poweredOn)
            {
                WriteTables();
            }
            CountChanged();
            return reached.Task;
        }
    }

    private void Plug(int processor)
    {
        if (_state == MachineRunState.Created)
        {
            Chipset.ProcessorHotPlug.Fill(processor);
        }
        else
        {
            // Whatever reached it while it was not there (a start-up message to all, for example) is forgotten: it waits for its own.
            Partition.SignalMessage(MessageBase | ((ulong)processor << 12), MessageInit);
            Chipset.ProcessorHotPlug.Arrive(processor);
        }
        _threads.SetPresent(processor, true);
    }

    /// <summary>The guest ejected a processor; on a processor's thread, perhaps its own.</summary>
    private void ProcessorEjected(int processor)
    {
        _threads.SetPresent(processor, false);
        Partition.SignalMessage(MessageBase | ((ulong)processor << 12), MessageInit);
        CountChanged();
    }

    private void CountChanged()
    {
        lock (_countGate)
        {
            if (_countReached is { } reached && ProcessorCount == _countWanted)
            {
                reached.TrySetResult();
                _countReached = null;
            }
        }
    }

    /// <summary>The guest ejected what is in a slot; on a processor's thread.</summary>
    private void SlotEjected(int slot)
    {
        foreach (PciFunction function in Chipset.Pci.Functions.Where(function => function.Address.Device == slot))
        {
            if (Chipset.Pci.Remove(function))
            {
                lock (_requestGate)
                {
                    _ejected.Enqueue(function);
                    Monitor.PulseAll(_requestGate);
                }
            }
        }
    }

    /// <summary>Stops and disposes what the guest ejected, with the lifecycle lock held.</summary>
    private void FinishEjections()
    {
        while (true)
        {
            PciFunction? function;
            lock (_requestGate)
            {
                if (!_ejected.TryDequeue(out function))
                {
                    return;
                }
            }
            Discard(function);
        }
    }

    /// <summary>Removes a function without the guest's doing, with the lifecycle lock held. One that the guest ejects just now is in the queue.</summary>
    private void Remove(PciFunction function)
    {
        Chipset.PciHotPlug.Clear(function.Address.Device);
        if (Chipset.Pci.Remove(function))
        {
            Discard(function);
        }
    }

    private void Discard(PciFunction function)
    {
        function.Stop();
        Chipset.Forget(function);
        (function as IDisposable)?.Dispose();
        if (_detaching.Remove(function.Name, out TaskCompletionSource? pending))
        {
            pending.TrySetResult();
        }
        lock (_requestGate)
        {
            _detached.Enqueue(function);
            Monitor.PulseAll(_requestGate);
        }
    }

    /// <summary>A reset carries out what the guest was asked for and has not done: it does not know of that any more. Everything stands still.</summary>
    private void FinishRequests()
    {
        foreach (PciFunction function in Chipset.Pci.Functions.Where(function => _detaching.ContainsKey(function.Name)).ToList())
        {
            Remove(function);
        }
        int surplus;
        lock (_countGate)
        {
            surplus = _countReached is null ? 0 : ProcessorCount - _countWanted;
        }
        foreach (int place in Chipset.ProcessorHotPlug.PresentPlaces.TakeLast(Math.Max(surplus, 0)))
        {
            Chipset.ProcessorHotPlug.Clear(place);
            _threads.SetPresent(place, false);
        }
        CountChanged();
    }

    /// <summary>Nobody will eject anything any more.</summary>
    private void CancelRequests()
    {
        foreach (TaskCompletionSource pending in _detaching.Values)
        {
            pending.TrySetCanceled();
        }
        _detaching.Clear();
        lock (_countGate)
        {
            _countReached?.TrySetCanceled();
            _countReached = null;
        }
    }

    /// <summary>After a restore: what is plugged in must be what the guest knows.</summary>
    /// <exception cref="Engine.State.SavedStateException">It is not.</exception>
    private void TakePlugged()
    {
        IReadOnlyList<int> saved = Chipset.PciHotPlug.PresentPlaces;
        HashSet<int> own = [.. Chipset.Pci.Functions.Select(static function => (int)function.Address.Device).Where(Chipset.PciHotPlug.IsRemovable)];
        int different = saved.Where(slot => !own.Contains(slot)).Concat(own.Except(saved)).Append(-1).First();
        if (different >= 0)
        {
            throw new Engine.State.SavedStateException(own.Contains(different)
                ? $"saved state has nothing in PCI slot {different}, where this machine has a device"
                : $"saved state has a device in PCI slot {different}, where this machine has none");
        }
        for (int i = 0; i < MaximumProcessorCount; i++)
        {
            _threads.SetPresent(i, Chipset.ProcessorHotPlug.IsPresent(i));
        }
    }

    private void TellDetached()
    {
        while (true)
        {
            PciFunction? function;
            lock (_requestGate)
            {
                if (!_detached.TryDequeue(out function))
                {
                    return;
                }
            }
            FunctionDetached?.Invoke(function);
        }
    }

    private void RequireAlive()
    {
        if (_disposed || _state == MachineRunState.Ended)
        {
            throw new InvalidOperationException("the machine has ended");
        }
    }
}
