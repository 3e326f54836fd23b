using Lodge.Engine.Processor;

namespace Lodge.Engine;

/// <summary>Why <see cref="VirtualProcessor.Run"/> returned.</summary>
public enum ProcessorExit
{
    /// <summary><see cref="VirtualProcessor.Stop"/> was called.</summary>
    Stopped,

    /// <summary>Triple fault.</summary>
    Shutdown,

    /// <summary>Breakpoint, watchpoint or completed single step, see <see cref="VirtualProcessor.DebugEvent"/>.</summary>
    Debug,

    /// <summary>The engine itself failed; <see cref="VirtualProcessor.FailureReason"/> says how.</summary>
    Failed,
}

/// <summary>A watched range of linear addresses.</summary>
/// <param name="Address">First linear address.</param>
/// <param name="Length">1, 2, 4 or 8 bytes (aligned) or any range of up to a page.</param>
/// <param name="OnRead">Stops on loads.</param>
/// <param name="OnWrite">Stops on stores.</param>
public readonly record struct Watchpoint(ulong Address, int Length, bool OnRead, bool OnWrite);

/// <summary>What a debugger asks of a processor. Independent of the guest's own debug registers.</summary>
/// <param name="SingleStep">Stop after one instruction.</param>
/// <param name="Breakpoints">Linear addresses of instructions before which to stop.</param>
/// <param name="Watchpoints">Data accesses after which to stop.</param>
public sealed record DebugRequest(bool SingleStep, IReadOnlyCollection<ulong> Breakpoints, IReadOnlyCollection<Watchpoint> Watchpoints)
{
    /// <summary>Nothing asked.</summary>
    public static DebugRequest None { get; } = new(false, [], []);
}

/// <summary>Kind of a debug stop.</summary>
public enum DebugEventKind
{
    /// <summary>A single step completed.</summary>
    Step,

    /// <summary>About to execute an instruction with a breakpoint.</summary>
    Breakpoint,

    /// <summary>A watched access was made.</summary>
    Watchpoint,
}

/// <summary>A debug stop.</summary>
/// <param name="Kind">What happened.</param>
/// <param name="Address">Instruction address, or address of the watched access.</param>
/// <param name="IsWrite">For a watchpoint: a store.</param>
public readonly record struct DebugEvent(DebugEventKind Kind, ulong Address, bool IsWrite);

/// <summary>
/// One virtual processor. <see cref="Run"/> is called on the thread that the machine dedicates to it; state is read and set while it is not
/// running. Everything that the guest needs from outside goes through <see cref="IMachineBus"/> on that thread.
/// </summary>
public abstract class VirtualProcessor
{
    /// <summary>Index in the partition; also the initial APIC ID.</summary>
    public abstract int Index { get; }

    /// <summary>Runs the guest until something in <see cref="ProcessorExit"/> happens. Waits without using CPU time while the processor is halted.</summary>
    public abstract ProcessorExit Run();

    /// <summary>Makes a current or the next <see cref="Run"/> return <see cref="ProcessorExit.Stopped"/> soon. Any thread.</summary>
    public abstract void Stop();

    /// <summary>The architectural state, including the local APIC, in the form shared by all engines. Only while not running.</summary>
    public abstract ProcessorState GetState();

    /// <summary>Replaces the architectural state. Only while not running.</summary>
    public abstract void SetState(ProcessorState state);

    /// <summary>Sets what the debugger wants. Only while not running.</summary>
    /// <exception cref="NotSupportedException">The engine cannot watch so much; the message says what it can.</exception>
    public abstract void SetDebug(DebugRequest request);

    /// <summary>The stop that ended the last <see cref="Run"/> with <see cref="ProcessorExit.Debug"/>.</summary>
    public DebugEvent DebugEvent { get; protected set; }

    /// <summary>Text for <see cref="ProcessorExit.Failed"/>.</summary>
    public string? FailureReason { get; protected set; }

    /// <summary>Translates a linear address with the current page tables without setting accessed or dirty bits, for debuggers.</summary>
    /// <returns>False when not mapped.</returns>
    public abstract bool TryTranslate(ulong linear, out ulong physical);

    /// <summary>Counters for <c>--trace</c> and metrics: name and value.</summary>
    public abstract IReadOnlyDictionary<string, long> Counters { get; }
}
