using Lodge.Engine;

namespace Lodge.Machine;

/// <summary>
/// A thread for each virtual processor, which runs it while that is permitted. Lock order: the gate here is the last lock; nothing is called
/// with it held.
/// </summary>
internal sealed class ProcessorThreads : IDisposable
{
    private readonly object _gate = new();
    private readonly IReadOnlyList<VirtualProcessor> _processors;
    private readonly IReadOnlyList<int> _pinning;
    private readonly Action<VirtualProcessor, ProcessorExit, string?> _exited;
    private readonly Lock _startGate = new();
    private readonly Thread?[] _threads;
    private readonly bool[] _absent;
    private bool _permitted;
    private IReadOnlyCollection<VirtualProcessor>? _chosen;
    private bool _ending;
    private int _running;

    /// <summary>Creates the threads' keeper; they are started by the first <see cref="Permit"/>.</summary>
    /// <param name="processors">The virtual processors.</param>
    /// <param name="pinning">CPUs of the host for the threads, see <see cref="MachineConfiguration.Pinning"/>.</param>
    /// <param name="exited">
    /// Called on a processor's thread when its run ended other than by a stop: the exit and, if it failed, the reason. No processor is entered
    /// again from then on until <see cref="Permit"/>.
    /// </param>
    public ProcessorThreads(IReadOnlyList<VirtualProcessor> processors, IReadOnlyList<int> pinning, Action<VirtualProcessor, ProcessorExit, string?> exited)
    {
        _processors = processors;
        _pinning = pinning;
        _exited = exited;
        _threads = new Thread?[processors.Count];
        _absent = new bool[processors.Count];
    }

    /// <summary>Whether the caller is one of the threads.</summary>
    public bool IsCurrent => Array.IndexOf(_threads, Thread.CurrentThread) >= 0;

    /// <summary>
    /// Lets a processor take part, or keeps it out: one that is absent is not entered, whatever the guest sends it, and has no thread before it was present
    /// once. All are present at first. Returns at once; any thread, a processor's own among them when it becomes absent.
    /// </summary>
    public void SetPresent(int processor, bool present)
    {
        bool start;
        lock (_gate)
        {
            _absent[processor] = !present;
            start = present && _permitted;
            Monitor.PulseAll(_gate);
        }
        if (!present)
        {
            _processors[processor].Stop();
        }
        else if (start)
        {
            StartThreads();
        }
    }

    /// <summary>Lets the processors run, or only some of them.</summary>
    public void Permit(IReadOnlyCollection<VirtualProcessor>? chosen = null)
    {
        lock (_gate)
        {
            _permitted = !_ending;
            _chosen = chosen;
            Monitor.PulseAll(_gate);
        }
        StartThreads();
    }

    /// <summary>Lets those run that ran before <see cref="Halt"/>.</summary>
    public void PermitAgain() => Permit(_chosen);

    /// <summary>Makes every processor leave the guest soon. Returns at once; any thread, a processor's own among them.</summary>
    public void Interrupt()
    {
        lock (_gate)
        {
            _permitted = false;
        }
        foreach (VirtualProcessor processor in _processors)
        {
            processor.Stop();
        }
    }

    /// <summary>Makes every processor leave the guest and waits for that. Not on a processor's thread.</summary>
    public void Halt()
    {
        Interrupt();
        lock (_gate)
        {
            while (_running != 0)
            {
                Monitor.Wait(_gate);
            }
        }
    }

    /// <summary>Ends the threads and waits for them.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _ending = true;
            Monitor.PulseAll(_gate);
        }
        Interrupt();
        foreach (Thread? thread in _threads)
        {
            thread?.Join();
        }
    }

    private void StartThreads()
    {
        lock (_startGate)
        {
            for (int i = 0; i < _threads.Length; i++)
            {
                lock (_gate)
                {
                    if (_threads[i] is not null || _absent[i] || _ending)
                    {
                        continue;
                    }
                }
                int number = i;
                int? cpu = _pinning.Count == 0 ? null : _pinning[i % _pinning.Count];
                _threads[i] = new Thread(() => Loop(number, cpu)) { IsBackground = true, Name = $"vcpu{i}" };
                _threads[i]!.Start();
            }
        }
    }

    private void Loop(int index, int? cpu)
    {
        VirtualProcessor processor = _processors[index];
        string? unbound = cpu is { } number ? HostProcessors.BindThread(number) : null;
        while (true)
        {
            lock (_gate)
            {
                while ((!_permitted || _absent[index] || _chosen?.Contains(processor) == false) && !_ending)
                {
                    Monitor.Wait(_gate);
                }
                if (_ending)
                {
                    return;
                }
                _running++;
            }
            ProcessorExit exit;
            string? failure = null;
            try
            {
                exit = unbound is null ? processor.Run() : ProcessorExit.Failed;
                failure = exit == ProcessorExit.Failed ? unbound ?? processor.FailureReason ?? "unknown reason" : null;
            }
            catch (Exception e)
            {
                exit = ProcessorExit.Failed; // an engine that breaks must end its machine, not the host's process
                failure = e.ToString();
            }
            if (exit != ProcessorExit.Stopped)
            {
                Interrupt();
                _exited(processor, exit, failure); // so that whoever has waited for this processor knows
            }
            lock (_gate)
            {
                _running--;
                Monitor.PulseAll(_gate);
            }
        }
    }
}
