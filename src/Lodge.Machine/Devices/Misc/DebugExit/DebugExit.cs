using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.DebugExit;

/// <summary>Ends the run with a status of the guest's choice; for test kernels.</summary>
public sealed class DebugExit : IDevice, IIoHandler
{
    private readonly IMachineControl _machine;

    /// <summary>Creates the device.</summary>
    public DebugExit(DebugExitConfiguration configuration, IMachineControl machine)
    {
        _machine = machine;
        Claims = [new RegionClaim(Name, RegionSpace.Port, configuration.Port, DebugExitRegister.Length, this)];
    }

    /// <inheritdoc/>
    public string Name => "debug-exit";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public IoResult Read(ulong offset, Span<byte> data)
    {
        data.Clear();
        return IoResult.Done;
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        uint value = 0;
        for (int i = 0; i < data.Length && i < DebugExitRegister.Length; i++)
        {
            value |= (uint)data[i] << (i * 8);
        }
        _machine.RequestExit(DebugExitRegister.ExitCode(value));
        return IoResult.Done;
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
    public void Save(StateWriter writer) => writer.Nested(1, new DebugExitState());

    /// <inheritdoc/>
    public void Restore(StateReader reader) => reader.Nested(1, new DebugExitState());
}
