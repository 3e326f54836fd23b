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
    private Thread[] _threads = [];
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
    }

    /// <summary>Whether the caller is one of the threads.</summary>
    public bool IsCurrent => Array.IndexOf(_threads, Thread.CurrentThread) >= 0;

    /// <summary>Lets the processors run, or only some of them.</summary>
    public void Permit(IReadOnlyCollection<VirtualProcessor>? chosen = null)
    {
        lock (_gate)
        {
            _permitted = !_ending;
            _chosen = chosen;
            Monitor.PulseAll(_gate);
        }
        if (_threads.Length == 0)
        {
            _threads = new Thread[_processors.Count];
            for (int i = 0; i < _threads.Length; i++)
            {
                VirtualProcessor processor = _processors[i];
                int? cpu = _pinning.Count == 0 ? null : _pinning[i % _pinning.Count];
                _threads[i] = new Thread(() => Loop(processor, cpu)) { IsBackground = true, Name = $"vcpu{i}" };
            }
            foreach (Thread thread in _threads)
            {
                thread.Start();
            }
        }
    }

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
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }
    }

    private void Loop(VirtualProcessor processor, int? cpu)
    {
        string? unbound = cpu is { } number ? HostProcessors.BindThread(number) : null;
        while (true)
        {
            lock (_gate)
            {
                while ((!_permitted || _chosen?.Contains(processor) == false) && !_ending)
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
