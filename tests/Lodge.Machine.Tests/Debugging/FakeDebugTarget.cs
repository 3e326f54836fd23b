using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Machine.Debugging;

namespace Lodge.Machine.Tests.Debugging;

/// <summary>A machine that does nothing but note what the debugger does with it. Linear 0x40000000 + x maps to physical x, a page in between to a device.</summary>
internal sealed class FakeDebugTarget : IDebugTarget, IDisposable
{
    public const ulong Mapped = 0x4000_0000, Device = Mapped + 0x3000;
    private readonly TaskCompletionSource _completion = new();

    public FakeDebugTarget(int processors = 2, CpuModelName model = CpuModelName.V3)
    {
        Model = CpuModel.Create(model, processors);
        Cpus = [.. Enumerable.Range(0, processors).Select(i => new DebuggedProcessor(i))];
    }

    public DebuggedProcessor[] Cpus { get; }

    public IReadOnlyList<VirtualProcessor> Processors => Cpus;

    public GuestMemory Memory { get; } = new(1 << 20);

    public CpuModel Model { get; }

    public Task Completion => _completion.Task;

    public bool Running { get; private set; } = true;

    public int Resets { get; private set; }

    public bool StopRequested { get; private set; }

    /// <summary>Who was resumed last; null for all.</summary>
    public int[]? Resumed { get; private set; }

    public TaskCompletionSource Resuming { get; private set; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public event Action<IReadOnlyList<VirtualProcessor>>? DebugStopped;

    public void Pause() => Running = false;

    public void Resume(IReadOnlyCollection<VirtualProcessor>? processors)
    {
        Running = true;
        Resumed = processors?.Select(p => p.Index).ToArray();
        TaskCompletionSource resuming = Resuming;
        Resuming = new(TaskCreationOptions.RunContinuationsAsynchronously);
        resuming.SetResult();
    }

    public void Reset() => Resets++;

    public void RequestStop() => StopRequested = true;

    public void Complete() => _completion.SetResult();

    /// <summary>Processors stop at something.</summary>
    public void Stop(params (int Processor, DebugEvent Event)[] stops)
    {
        Running = false;
        foreach ((int processor, DebugEvent debugEvent) in stops)
        {
            Cpus[processor].Tell(debugEvent);
        }
        DebugStopped?.Invoke([.. stops.Select(s => Cpus[s.Processor])]);
    }

    public void Dispose() => Memory.Dispose();
}

internal sealed class DebuggedProcessor(int index) : VirtualProcessor
{
    public override int Index => index;

    public ProcessorState State { get; private set; } = new();

    public DebugRequest Request { get; private set; } = DebugRequest.None;

    public override IReadOnlyDictionary<string, long> Counters { get; } = new Dictionary<string, long>();

    public void Tell(DebugEvent debugEvent) => DebugEvent = debugEvent;

    public override ProcessorExit Run() => ProcessorExit.Stopped;

    public override void Stop()
    {
    }

    public override ProcessorState GetState() => State;

    public override void SetState(ProcessorState state)
    {
        if (state.Cr0 >> 32 != 0)
        {
            throw new Engine.State.SavedStateException("CR0");
        }
        State = state;
    }

    public override void SetDebug(DebugRequest request) => Request = request;

    public override bool TryTranslate(ulong linear, out ulong physical)
    {
        physical = linear - FakeDebugTarget.Mapped;
        if (physical >> 12 == 3)
        {
            physical = 0xFEC0_0000; // not RAM
        }
        return linear >= FakeDebugTarget.Mapped && linear - FakeDebugTarget.Mapped < 0x10_0000;
    }
}
