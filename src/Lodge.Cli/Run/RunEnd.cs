namespace Lodge.Cli.Run;

/// <summary>How a run ended.</summary>
/// <param name="Status">Exit status of the process.</param>
/// <param name="Line">What to tell the user on standard error, or null.</param>
internal sealed record RunOutcome(int Status, string? Line);

/// <summary>The end of a run, which many may bring about: the machine, a signal, the user, the command, a timer. The first one counts.</summary>
internal sealed class RunEnd
{
    private readonly ManualResetEventSlim _set = new();
    private RunOutcome? _outcome;

    /// <summary>Ends the run. Any thread, returns at once.</summary>
    public void Finish(int status, string? line)
    {
        if (Interlocked.CompareExchange(ref _outcome, new RunOutcome(status, line), null) is null)
        {
            _set.Set();
        }
    }

    /// <summary>Whether the run has ended.</summary>
    public bool Finished => _set.IsSet;

    /// <summary>Waits for the end, at most for <paramref name="timeout"/>.</summary>
    public RunOutcome Wait(TimeSpan? timeout)
    {
        if (!_set.Wait(timeout ?? Timeout.InfiniteTimeSpan))
        {
            Finish(ExitStatus.Timeout, $"the machine was still running after {timeout!.Value.TotalSeconds:0.###} s and was ended (--timeout)");
        }
        return _outcome!;
    }
}
