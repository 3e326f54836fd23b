namespace Lodge.Engine;

/// <summary>What a machine's processors shall have besides their model, on request. An engine that cannot do one refuses in one line (<see cref="NotSupportedException"/>).</summary>
public sealed record ProcessorOptions
{
    /// <summary>Nothing asked for.</summary>
    public static ProcessorOptions None { get; } = new();

    /// <summary>Hyper-V's enlightenments, which Windows guests use (Microsoft, Hypervisor Top Level Functional Specification).</summary>
    public bool HyperV { get; init; }

    /// <summary>VMX or SVM: the guest can be a hypervisor itself.</summary>
    public bool Nested { get; init; }

    /// <summary>Performance counters.</summary>
    public bool PerformanceMonitoring { get; init; }

    /// <summary>
    /// Whether model-specific registers that are not part of the saved state are kept from the guest: an access is #GP and counted. Where the host cannot filter, the
    /// kernel decides alone.
    /// </summary>
    public bool FilterModelSpecificRegisters { get; init; } = true;

    /// <summary>Frequency of the guest's time stamp counter in Hz, which needs TSC scaling when the host's differs; 0: the host's.</summary>
    public long TimestampFrequency { get; init; }
}
