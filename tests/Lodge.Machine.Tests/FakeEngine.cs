using Lodge.Engine;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Tests;

/// <summary>An engine whose processors run a C# program against the bus instead of instructions.</summary>
internal sealed class FakeEngine(Action<FakeProcessor> program) : IEngine
{
    public string Name => "fake";

    public FakePartition Partition { get; private set; } = null!;

    public Partition CreatePartition(PartitionOptions options) => Partition = new FakePartition(options, program);
}

internal sealed class FakePartition : Partition
{
    private readonly List<FakeProcessor> _processors = [];

    public FakePartition(PartitionOptions options, Action<FakeProcessor> program)
    {
        Options = options;
        for (int i = 0; i < options.ProcessorCount; i++)
        {
            _processors.Add(new FakeProcessor(this, i, program));
        }
    }

    public PartitionOptions Options { get; }

    public override IReadOnlyList<VirtualProcessor> Processors => _processors;

    public int Resets { get; private set; }

    public int Nmis { get; private set; }

    public bool Disposed { get; private set; }

    public override void SignalMessage(ulong address, uint data)
    {
    }

    public override void SetExternalInterrupt(bool asserted)
    {
    }

    public override void SignalNmi() => Nmis++;

    public override void Reset()
    {
        Resets++;
        foreach (FakeProcessor processor in _processors)
        {
            processor.SetState(new ProcessorState());
        }
    }

    public override void Dispose() => Disposed = true;
}

/// <summary>Runs the program once for each <see cref="Run"/>; the program returns by <see cref="Exit"/> or waits in <see cref="Idle"/>.</summary>
internal sealed class FakeProcessor(FakePartition partition, int index, Action<FakeProcessor> program) : VirtualProcessor
{
    private readonly ManualResetEventSlim _stop = new();
    private ProcessorState _state = new();

    public FakePartition Partition => partition;

    public override int Index => index;

    public ProcessorExit Exit { get; set; }

    public bool Inside { get; private set; }

    public int Runs { get; private set; }

    public override IReadOnlyDictionary<string, long> Counters { get; } = new Dictionary<string, long>();

    /// <summary>Whether it is to leave the guest.</summary>
    public bool Stopping => _stop.IsSet;

    /// <summary>Halted until stopped.</summary>
    public void Idle() => _stop.Wait();

    public void Out(ushort port, byte value) => partition.Options.Bus.WritePort(port, [value]);

    public void Out16(ushort port, ushort value) => partition.Options.Bus.WritePort(port, BitConverter.GetBytes(value));

    public byte In(ushort port)
    {
        Span<byte> data = stackalloc byte[1];
        partition.Options.Bus.ReadPort(port, data);
        return data[0];
    }

    public void Fail(string reason)
    {
        FailureReason = reason;
        Exit = ProcessorExit.Failed;
    }

    public override ProcessorExit Run()
    {
        Inside = true;
        Runs++;
        Exit = ProcessorExit.Stopped;
        program(this);
        _stop.Reset();
        Inside = false;
        return Exit;
    }

    public override void Stop() => _stop.Set();

    /// <summary>Called when the state is asked for.</summary>
    public Action? Saving { get; set; }

    public override ProcessorState GetState()
    {
        Saving?.Invoke();
        return _state;
    }

    public override void SetState(ProcessorState state) => _state = state;

    public override void SetDebug(DebugRequest request)
    {
    }

    public override bool TryTranslate(ulong linear, out ulong physical)
    {
        physical = linear;
        return true;
    }
}
