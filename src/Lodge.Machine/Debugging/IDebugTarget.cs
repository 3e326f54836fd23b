using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Debugging;

/// <summary>A machine as a debugger sees it.</summary>
public interface IDebugTarget
{
    /// <summary>The processors, which the debugger shows as threads. Their state is read and set while the machine stands still.</summary>
    IReadOnlyList<VirtualProcessor> Processors { get; }

    /// <summary>Guest RAM.</summary>
    GuestMemory Memory { get; }

    /// <summary>CPU model, which says what registers there are.</summary>
    CpuModel Model { get; }

    /// <summary>
    /// Processors reached breakpoints, watchpoints or ends of steps (<see cref="VirtualProcessor.DebugEvent"/>) and all of the machine stands still.
    /// Handlers return at once.
    /// </summary>
    event Action<IReadOnlyList<VirtualProcessor>>? DebugStopped;

    /// <summary>Completes when the machine's run is over and everything stands still.</summary>
    Task Completion { get; }

    /// <summary>Holds the machine; returns when every processor stands still. Nothing happens when it does already.</summary>
    void Pause();

    /// <summary>Lets the machine run. Nothing happens when it runs or is over.</summary>
    /// <param name="processors">The processors that take part; null for all. The others stand still.</param>
    void Resume(IReadOnlyCollection<VirtualProcessor>? processors);

    /// <summary>Resets the machine, which stays as it is, paused or running.</summary>
    void Reset();

    /// <summary>Asks for the end of the machine's run; returns at once.</summary>
    void RequestStop();
}
