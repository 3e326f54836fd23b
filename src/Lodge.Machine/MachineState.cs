using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Machine;

/// <summary>Saved state of a machine without its RAM: time, devices by name, processors.</summary>
public sealed record MachineState : ISavedState<MachineState>
{
    private const int MaximumDevices = 4096;
    private const int MaximumProcessors = 255;

    /// <summary>Bytes of RAM of the machine that was saved.</summary>
    public ulong MemorySize { get; init; }

    /// <summary>Machine time in nanoseconds.</summary>
    public long Time { get; init; }

    /// <summary>Devices.</summary>
    public IReadOnlyList<DeviceState> Devices { get; init; } = [];

    /// <summary>Processors by index.</summary>
    public IReadOnlyList<ProcessorState> Processors { get; init; } = [];

    /// <summary>The processor that the guest saw; null in states that were saved before it was kept.</summary>
    public CpuModelState? Model { get; init; }

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, MemorySize);
        writer.Int64(2, Time);
        foreach (DeviceState device in Devices)
        {
            writer.Nested(3, device);
        }
        foreach (ProcessorState processor in Processors)
        {
            writer.Nested(4, processor);
        }
        if (Model is not null)
        {
            writer.Nested(5, Model);
        }
    }

    /// <inheritdoc/>
    public static MachineState Read(StateReader reader) => new()
    {
        MemorySize = reader.UInt64(1),
        Time = (long)reader.UInt64(2, 0, long.MaxValue),
        Devices = reader.NestedList<DeviceState>(3, MaximumDevices),
        Processors = reader.NestedList<ProcessorState>(4, MaximumProcessors),
        Model = reader.Has(5) ? reader.Nested(5, new CpuModelState()) : null,
    };
}

/// <summary>Saved state of one device, in the device's own form.</summary>
public sealed record DeviceState : ISavedState<DeviceState>
{
    private const int MaximumName = 256;
    private const int MaximumLength = 1 << 26;

    /// <summary>The device's name.</summary>
    public string Name { get; init; } = "";

    /// <summary>What it wrote.</summary>
    public byte[] Contents { get; init; } = [];

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Text(1, Name);
        writer.Bytes(2, Contents);
    }

    /// <inheritdoc/>
    public static DeviceState Read(StateReader reader) => new() { Name = reader.Text(1, MaximumName), Contents = reader.Bytes(2, MaximumLength) };
}
