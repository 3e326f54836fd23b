using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Misc.DebugConsole;

/// <summary>A port that prints what is written to it; for firmware and small kernels. What the backend cannot keep up with is lost.</summary>
public sealed class DebugConsole : IDevice, IByteWideDevice, ICharacterReceiver
{
    private readonly CharacterOutput _output;

    /// <summary>Creates the console.</summary>
    public DebugConsole(DebugConsoleConfiguration configuration, ICharacterBackend backend, TimerService timers)
    {
        _output = new CharacterOutput(backend, timers, static () => { });
        Claims = [new RegionClaim(Name, RegionSpace.Port, configuration.Port, 1, new ByteWideRegion(this))];
        backend.Connect(this);
    }

    /// <inheritdoc/>
    public string Name => "debug-console";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public byte ReadByte(ulong offset) => DebugConsoleRegister.Presence;

    /// <inheritdoc/>
    public void WriteByte(ulong offset, byte value)
    {
        if (_output.TryAdd(value, out bool flush) && flush)
        {
            _output.Flush();
        }
    }

    /// <summary>The console has no input.</summary>
    public int Receive(ReadOnlySpan<byte> data) => data.Length;

    /// <inheritdoc/>
    public void OutputReady() => _output.Ready();

    /// <inheritdoc/>
    public void Resize(int columns, int rows)
    {
    }

    /// <inheritdoc/>
    public void SetConnected(bool connected)
    {
    }

    /// <inheritdoc/>
    public void Start() => _output.Flush();

    /// <inheritdoc/>
    public void Stop() => _output.Drain();

    /// <inheritdoc/>
    public void Reset() => _output.Pending = [];

    /// <inheritdoc/>
    public void Save(StateWriter writer) => writer.Nested(1, new DebugConsoleState { Output = _output.Pending });

    /// <inheritdoc/>
    public void Restore(StateReader reader) => _output.Pending = reader.Nested(1, new DebugConsoleState()).Output;
}
