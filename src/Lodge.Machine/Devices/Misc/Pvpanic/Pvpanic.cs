using Lodge.Engine.State;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Misc.Pvpanic;

/// <summary>Tells the host that the guest's kernel panicked (ISA form of pvpanic, one port).</summary>
public sealed class Pvpanic : IDevice, IByteWideDevice
{
    private readonly IMachineControl _machine;

    /// <summary>Creates the device.</summary>
    public Pvpanic(IMachineControl machine)
    {
        _machine = machine;
        Claims = [new RegionClaim(Name, RegionSpace.Port, PortMap.Pvpanic, 1, new ByteWideRegion(this))];
    }

    /// <inheritdoc/>
    public string Name => "pvpanic";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public byte ReadByte(ulong offset) => (byte)PvpanicEvent.Supported;

    /// <inheritdoc/>
    public void WriteByte(ulong offset, byte value)
    {
        var told = (PvpanicEvent)value;
        if ((told & PvpanicEvent.Panicked) != 0)
        {
            _machine.ReportPanic(crashKernelLoaded: false);
        }
        else if ((told & PvpanicEvent.CrashLoaded) != 0)
        {
            _machine.ReportPanic(crashKernelLoaded: true);
        }
        else if ((told & PvpanicEvent.Shutdown) != 0)
        {
            _machine.RequestPowerOff();
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
    }

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <inheritdoc/>
    public void Reset()
    {
    }

    /// <inheritdoc/>
    public void Save(StateWriter writer) => writer.Nested(1, new PvpanicState());

    /// <inheritdoc/>
    public void Restore(StateReader reader) => reader.Nested(1, new PvpanicState());
}
