using Lodge.Engine;
using Lodge.Engine.State;
using Lodge.Machine.Buses;
using Lodge.Machine.Interrupts;
using static Lodge.Machine.Devices.Interrupts.Pic8259.Pic8259Registers;

namespace Lodge.Machine.Devices.Interrupts.Pic8259;

/// <summary>
/// The PC's pair of 8259A interrupt controllers at 0x20 and 0xA0 with the edge/level control registers at 0x4D0.
/// <para>
/// Its lock is held for register work only. INTR is driven after the lock was released, so that a processor may acknowledge from within
/// its own locks; the last change always wins (see <see cref="Publish"/>).
/// </para>
/// </summary>
public sealed class Pic8259 : IDevice, IInterruptController, IExternalInterruptSource
{
    private readonly Lock _gate = new();
    private readonly Pic8259Chip _master = new(1 << CascadeInput, Elcr1Mask);
    private readonly Pic8259Chip _slave = new(0, Elcr2Mask);
    private readonly IInterruptLine _intr;
    private bool _output; // level of the master's INT

    /// <summary>Creates the pair.</summary>
    /// <param name="intr">The processors' INTR input (<see cref="Partition.SetExternalInterrupt"/>).</param>
    /// <param name="name">Name of the device.</param>
    public Pic8259(IInterruptLine intr, string name = "pic")
    {
        _intr = intr;
        Name = name;
        Claims =
        [
            new RegionClaim($"{name}-master", RegionSpace.Port, MasterPort, 2, new ByteWideRegion(new ChipPorts(this, _master))),
            new RegionClaim($"{name}-slave", RegionSpace.Port, SlavePort, 2, new ByteWideRegion(new ChipPorts(this, _slave))),
            new RegionClaim($"{name}-elcr", RegionSpace.Port, ElcrPort, 2, new ByteWideRegion(new ElcrPorts(this))),
        ];
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public void SetInput(int input, bool asserted)
    {
        if (input is < 0 or > 15 or CascadeInput)
        {
            return;
        }
        lock (_gate)
        {
            (input < 8 ? _master : _slave).SetInput(input & 7, asserted);
            Update();
        }
        Publish();
    }

    /// <inheritdoc/>
    public byte Acknowledge()
    {
        byte vector;
        lock (_gate)
        {
            int input = _master.Acknowledge();
            if (input == CascadeInput)
            {
                int slaveInput = _slave.Acknowledge();
                vector = (byte)(_slave.VectorBase | (slaveInput >= 0 ? slaveInput : SpuriousInput));
            }
            else
            {
                vector = (byte)(_master.VectorBase | (input >= 0 ? input : SpuriousInput));
            }
            Update();
        }
        Publish();
        return vector;
    }

    /// <inheritdoc/>
    public void Start() => Publish();

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <inheritdoc/>
    public void Reset()
    {
        lock (_gate)
        {
            _master.Reset();
            _slave.Reset();
            Update();
        }
        Publish();
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new Pic8259State(_master.Save(), _slave.Save()));
        }
    }

    /// <inheritdoc/>
    public void Restore(StateReader reader)
    {
        Pic8259State state = reader.Nested(1, new Pic8259State(new Pic8259ChipState(), new Pic8259ChipState()));
        lock (_gate)
        {
            _master.Restore(state.Master);
            _slave.Restore(state.Slave);
            Update();
        }
        Publish();
    }

    /// <summary>Wires the slave's INT to the master and takes the master's INT. Under the lock.</summary>
    private void Update()
    {
        _master.SetInput(CascadeInput, _slave.Granted >= 0);
        Volatile.Write(ref _output, _master.Granted >= 0);
    }

    /// <summary>
    /// Drives INTR, without the lock. Two threads may drive in the wrong order; whoever drove a level that is no longer true repeats, so that
    /// the last level driven is the true one.
    /// </summary>
    private void Publish()
    {
        bool level;
        do
        {
            level = Volatile.Read(ref _output);
            _intr.Set(level);
            Interlocked.MemoryBarrier();
        }
        while (Volatile.Read(ref _output) != level);
    }

    private sealed class ChipPorts(Pic8259 pair, Pic8259Chip chip) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            byte value;
            lock (pair._gate)
            {
                value = chip.Read((int)offset & 1);
                pair.Update(); // a poll acknowledges
            }
            pair.Publish();
            return value;
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (pair._gate)
            {
                chip.Write((int)offset & 1, value);
                pair.Update();
            }
            pair.Publish();
        }
    }

    private sealed class ElcrPorts(Pic8259 pair) : IByteWideDevice
    {
        public byte ReadByte(ulong offset)
        {
            lock (pair._gate)
            {
                return (offset == 0 ? pair._master : pair._slave).Elcr;
            }
        }

        public void WriteByte(ulong offset, byte value)
        {
            lock (pair._gate)
            {
                (offset == 0 ? pair._master : pair._slave).Elcr = value;
                pair.Update();
            }
            pair.Publish();
        }
    }
}
