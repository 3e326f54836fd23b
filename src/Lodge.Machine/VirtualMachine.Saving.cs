using System.Diagnostics;
using Lodge.Engine.State;

namespace Lodge.Machine;

// The state that is saved and restored, and holding the machine for a moment.
public sealed partial class VirtualMachine
{
    /// <summary>Saves time, devices and processors of a machine that does not run. RAM is saved apart, see <see cref="Memory"/>.</summary>
    /// <exception cref="InvalidOperationException">The machine runs or has ended.</exception>
    public byte[] SaveState()
    {
        lock (_lifecycle)
        {
            RequireStill();
            var writer = new StateWriter();
            writer.Nested(1, new MachineState
            {
                MemorySize = Memory.Size,
                Time = Clock.Now,
                Devices = [.. Chipset.Devices.Select(Save)],
                Processors = [.. Partition.Processors.Select(static processor => processor.GetState())],
                Model = _configuration.Model.Save(),
            });
            return writer.ToArray();
        }
    }

    /// <summary>Takes a saved state. On an exception the machine is to be thrown away.</summary>
    /// <exception cref="SavedStateException">The state is malformed or of another machine, or the processor that its guest saw cannot be had here.</exception>
    /// <exception cref="InvalidOperationException">The machine runs or has ended.</exception>
    public void RestoreState(ReadOnlyMemory<byte> state)
    {
        lock (_lifecycle)
        {
            RequireStill();
            MachineState saved = new StateReader(state).Nested(1, new MachineState());
            var devices = new Dictionary<string, DeviceState>(StringComparer.Ordinal);
            foreach (DeviceState device in saved.Devices)
            {
                if (!devices.TryAdd(device.Name, device))
                {
                    throw new SavedStateException($"saved state has device '{device.Name}' twice");
                }
            }
            if (saved.MemorySize != Memory.Size || saved.Processors.Count != Partition.Processors.Count)
            {
                throw new SavedStateException($"saved state is of a machine with {saved.Processors.Count} processors and {saved.MemorySize} bytes of memory");
            }
            if (saved.Devices.FirstOrDefault(device => !Chipset.Devices.Any(own => own.Name == device.Name)) is { } extra)
            {
                throw new SavedStateException($"saved state is of a machine with a device '{extra.Name}', which this one has not");
            }
            if (saved.Model is not null)
            {
                _configuration.Model.Adopt(saved.Model);
            }
            Clock.Set(saved.Time);
            // Interrupt controllers, which come first, last: they then hold what was saved whatever the other devices' wires did meanwhile.
            foreach (IDevice device in Chipset.Devices.Reverse())
            {
                if (devices.TryGetValue(device.Name, out DeviceState? own))
                {
                    device.Restore(new StateReader(own.Contents));
                }
                else if (device.IsAbsentInOldStates)
                {
                    device.Reset();
                }
                else
                {
                    throw new SavedStateException($"saved state has no device '{device.Name}'");
                }
            }
            for (int i = 0; i < saved.Processors.Count; i++)
            {
                Partition.Processors[i].SetState(saved.Processors[i]);
            }
            TakePlugged();
            _awaitsState = false;
        }
    }

    /// <summary>Does something while the machine stands still, and lets it go on if it ran. Whoever would start, stop or end it waits meanwhile. Not on a processor's thread.</summary>
    /// <param name="action">What to do; the machine is <see cref="MachineRunState.Paused"/> or never ran. Its exception comes out of here, with the machine as it was before.</param>
    /// <returns>How long the guest was held, from the begin of stopping until it went on; zero when it did not run.</returns>
    /// <exception cref="DeviceBusyException">A device waits for the host; the machine goes on, and nothing was done.</exception>
    /// <exception cref="InvalidOperationException">The run has ended.</exception>
    public TimeSpan Hold(Action action)
    {
        RefuseOnProcessor();
        lock (_lifecycle)
        {
            if (_state != MachineRunState.Running)
            {
                RequireStill();
                action();
                return TimeSpan.Zero;
            }
            long begin = Stopwatch.GetTimestamp();
            FinishRequestsOrGoOn();
            StandStill();
            _state = MachineRunState.Paused;
            try
            {
                action();
            }
            finally
            {
                Go();
                _state = MachineRunState.Running;
            }
            return Stopwatch.GetElapsedTime(begin);
        }
    }

    private static DeviceState Save(IDevice device)
    {
        var writer = new StateWriter();
        device.Save(writer);
        return new DeviceState { Name = device.Name, Contents = writer.ToArray() };
    }
}
