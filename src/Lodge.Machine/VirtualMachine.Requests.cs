using Lodge.Engine;

namespace Lodge.Machine;

// What devices and processors ask for, and the machine's own thread, which acts on it.
public sealed partial class VirtualMachine
{
    private readonly object _requestGate = new();
    private readonly List<VirtualProcessor> _debugStops = [];
    private MachineOutcome? _request;
    private bool _disposing;

    /// <summary>Ends the run because the machine itself cannot go on. Any thread; the processors are told to stop when this returns.</summary>
    internal void Fail(string reason) => Request(new MachineOutcome(MachineOutcomeKind.EngineFailure, Text: reason));

    private void Request(MachineOutcome outcome)
    {
        lock (_requestGate)
        {
            // The first word counts, except that an end comes before a reset.
            if (_request is null || (_request.Kind == MachineOutcomeKind.Reset && outcome.Kind != MachineOutcomeKind.Reset))
            {
                _request = outcome;
                Monitor.PulseAll(_requestGate);
            }
        }
        _threads.Interrupt();
    }

    private void ProcessorExited(VirtualProcessor processor, ProcessorExit exit, string? failure)
    {
        switch (exit)
        {
            case ProcessorExit.Shutdown:
                Request(new MachineOutcome(MachineOutcomeKind.TripleFault, processor.Index));
                break;
            case ProcessorExit.Debug:
                lock (_requestGate)
                {
                    _debugStops.Add(processor);
                    Monitor.PulseAll(_requestGate);
                }
                break;
            default:
                Request(new MachineOutcome(MachineOutcomeKind.EngineFailure, Text: $"processor {processor.Index}: {failure}"));
                break;
        }
    }

    private void TakeRequest(out MachineOutcome? request, out IReadOnlyList<VirtualProcessor> debugStops)
    {
        lock (_requestGate)
        {
            (request, debugStops) = (_request, [.. _debugStops]);
            _request = null;
            _debugStops.Clear();
        }
    }

    /// <summary>The machine's own thread: acts on requests until the machine is disposed.</summary>
    private void ServeRequests()
    {
        while (true)
        {
            lock (_requestGate)
            {
                while (_request is null && _debugStops.Count == 0 && _ejected.Count == 0 && _detached.Count == 0 && !_disposing)
                {
                    Monitor.Wait(_requestGate);
                }
                if (_disposing)
                {
                    return;
                }
            }
            IReadOnlyList<VirtualProcessor> stopped;
            lock (_lifecycle)
            {
                FinishEjections();
                stopped = Serve();
            }
            TellDetached();
            if (stopped.Count != 0)
            {
                DebugStopped?.Invoke(stopped);
            }
        }
    }

    private IReadOnlyList<VirtualProcessor> Serve()
    {
        TakeRequest(out MachineOutcome? request, out IReadOnlyList<VirtualProcessor> debugStops);
        if (request is { Kind: MachineOutcomeKind.Reset } && _configuration.RestartOnReset && _state != MachineRunState.Ended)
        {
            Restart();
            return [];
        }
        if (request is not null)
        {
            End(request);
            return [];
        }
        if (debugStops.Count == 0 || _state == MachineRunState.Ended)
        {
            return [];
        }
        if (_state == MachineRunState.Running)
        {
            StandStill();
            _state = MachineRunState.Paused;
        }
        lock (_requestGate)
        {
            debugStops = [.. debugStops, .. _debugStops]; // others that stopped before they were held
            _debugStops.Clear();
        }
        return debugStops;
    }

    /// <summary>The machine as devices see it.</summary>
    private sealed class Control(VirtualMachine machine) : IMachineControl
    {
        public void RequestPowerOff() => machine.Request(new MachineOutcome(MachineOutcomeKind.PowerOff));

        public void RequestReset() => machine.Request(new MachineOutcome(MachineOutcomeKind.Reset));

        public void ReportPanic(bool crashKernelLoaded)
        {
            if (crashKernelLoaded)
            {
                machine.CrashKernelStarting?.Invoke();
            }
            else
            {
                machine.Request(new MachineOutcome(MachineOutcomeKind.Panic));
            }
        }

        public void RequestExit(int code) => machine.Request(new MachineOutcome(MachineOutcomeKind.DebugExit, code));
    }
}
