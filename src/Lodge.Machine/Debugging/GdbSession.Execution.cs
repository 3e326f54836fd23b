using Lodge.Engine;

namespace Lodge.Machine.Debugging;

// Resuming and stop replies. In all-stop mode a resumed machine runs until one processor stops, which stops all.
internal sealed partial class GdbSession
{
    private enum ThreadAction
    {
        Stand,
        Continue,
        Step,
    }

    /// <summary><c>c</c>, <c>s</c>, <c>C</c>, <c>S</c>: all continue, or the selected one steps. A signal has no meaning for a processor; there is nobody to take it.</summary>
    private string? ResumeSimply(char command, ReadOnlySpan<char> text)
    {
        bool signal = char.IsUpper(command), step = char.ToLowerInvariant(command) == 's';
        VirtualProcessor selected = _stepped ?? _current;
        ReadOnlySpan<char> address = text;
        if (signal)
        {
            int semicolon = text.IndexOf(';');
            if (!HexText.TryNumber(semicolon < 0 ? text : text[..semicolon], out _))
            {
                return Invalid;
            }
            address = semicolon < 0 ? [] : text[(semicolon + 1)..];
        }
        if (!address.IsEmpty)
        {
            if (!HexText.TryNumber(address, out ulong at))
            {
                return Invalid;
            }
            Engine.Processor.ProcessorState state = selected.GetState();
            state.InstructionPointer = at;
            selected.SetState(state);
        }
        return Resume([.. _target.Processors.Select(p => p == selected && step ? ThreadAction.Step : ThreadAction.Continue)]);
    }

    /// <summary><c>vCont;action[:thread];...</c>: for each thread the first action that names it, or the one without a thread.</summary>
    private string? ResumeByThread(string text)
    {
        ThreadAction?[] actions = new ThreadAction?[_target.Processors.Count];
        foreach (string part in text.Split(';'))
        {
            int colon = part.IndexOf(':');
            ReadOnlySpan<char> action = colon < 0 ? part : part.AsSpan(0, colon);
            ThreadAction? what = action switch
            {
                "c" => ThreadAction.Continue,
                "s" => ThreadAction.Step,
                "t" => ThreadAction.Stand,
                ['C', .. var signal] when HexText.TryNumber(signal, out _) => ThreadAction.Continue,
                ['S', .. var signal] when HexText.TryNumber(signal, out _) => ThreadAction.Step,
                _ => null,
            };
            if (what is null)
            {
                return Invalid;
            }
            ReadOnlySpan<char> thread = colon < 0 ? "-1" : part.AsSpan(colon + 1);
            if (thread is "-1")
            {
                for (int i = 0; i < actions.Length; i++)
                {
                    actions[i] ??= what;
                }
            }
            else if (TryThread(thread is "0" ? "1" : thread, out VirtualProcessor? processor))
            {
                actions[ThreadOf(processor) - 1] ??= what;
            }
            else
            {
                return Invalid;
            }
        }
        return Resume([.. actions.Select(a => a ?? ThreadAction.Stand)]);
    }

    private string? Resume(ThreadAction[] actions)
    {
        if (_over)
        {
            return Exited;
        }
        List<VirtualProcessor> resumed = [];
        for (int i = 0; i < actions.Length; i++)
        {
            if (actions[i] != ThreadAction.Stand)
            {
                resumed.Add(_target.Processors[i]);
            }
        }
        if (resumed.Count == 0)
        {
            return Invalid;
        }
        // A watchpoint that another processor hit at the moment of the last stop is told of now.
        foreach (VirtualProcessor processor in resumed)
        {
            if (_pending.Remove(processor, out DebugEvent stop) && _breakpoints.Explains(stop))
            {
                ReportStop(5, processor, _breakpoints.Reason(stop, _softwareStops, _hardwareStops));
                return null;
            }
        }
        for (int i = 0; i < actions.Length; i++)
        {
            try
            {
                _target.Processors[i].SetDebug(_breakpoints.Request(actions[i] == ThreadAction.Step));
            }
            catch (NotSupportedException e)
            {
                return $"E.{e.Message}"; // more watchpoints than the engine has
            }
        }
        _running = true;
        _target.Resume(resumed.Count == actions.Length ? null : resumed);
        return null; // the stop reply follows
    }

    private void ReportStop(VirtualProcessor processor) =>
        ReportStop(5, processor, _breakpoints.Reason(processor.DebugEvent, _softwareStops, _hardwareStops));

    private void ReportStop(int signal, VirtualProcessor processor, string reason)
    {
        _current = processor;
        _lastStop = StopReply(signal, processor, reason);
        Send(_lastStop);
    }

    private string StopReply(int signal, VirtualProcessor processor, string reason) => $"T{signal:x2}thread:{ThreadOf(processor):x};{reason}";
}
