namespace Lodge.Engine.Kvm.Probing;

/// <summary>What came of one thing that was tried.</summary>
public enum ProbeOutcome
{
    /// <summary>It works.</summary>
    Passed,

    /// <summary>It does not.</summary>
    Failed,

    /// <summary>It had not ended when its time was over.</summary>
    TimedOut,

    /// <summary>The processor does not offer it, so no kernel uses it.</summary>
    NotOffered,
}

/// <summary>One thing that was tried.</summary>
/// <param name="Name">What.</param>
/// <param name="Purpose">What kernels need it for.</param>
/// <param name="Outcome">What came of it.</param>
/// <param name="Detail">What went wrong; empty when nothing did.</param>
public sealed record ProbeResult(string Name, string Purpose, ProbeOutcome Outcome, string Detail);

/// <summary>Whether a real kernel can run on this host's KVM.</summary>
/// <param name="Results">All that was tried.</param>
/// <param name="Time">When.</param>
/// <param name="Duration">How long it took.</param>
public sealed record ProbeReport(IReadOnlyList<ProbeResult> Results, DateTimeOffset Time, TimeSpan Duration)
{
    private const int Named = 3;

    /// <summary>What does not work.</summary>
    public IReadOnlyList<ProbeResult> Failures => [.. Results.Where(result => result.Outcome is ProbeOutcome.Failed or ProbeOutcome.TimedOut)];

    /// <summary>Whether another try would find the same: a host that was busy is no reason.</summary>
    public bool IsLasting => Failures.Count == 0 || Failures.Any(result => result.Outcome == ProbeOutcome.Failed);

    /// <summary>Why no real kernel can run, in one line; null when one can.</summary>
    public string? Problem
    {
        get
        {
            IReadOnlyList<ProbeResult> failures = Failures;
            return failures.Count == 0 ? null
                : "this host's KVM cannot run a real kernel: it fails at "
                    + string.Join(", ", failures.Take(Named).Select(result => result.Name)) + (failures.Count > Named ? $" and {failures.Count - Named} more" : "");
        }
    }
}
