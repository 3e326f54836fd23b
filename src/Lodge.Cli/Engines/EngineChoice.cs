using Lodge.Engine;
using Lodge.Engine.Kvm;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Probing;
using Lodge.Engine.Translation;
using Lodge.Management;
using Lodge.Management.Host;
using Lodge.Management.Host.Inventory;

namespace Lodge.Cli.Engines;

/// <summary>Which engine a machine runs on, and what this host's engines say of themselves.</summary>
internal static class EngineChoice
{
    private const string CacheFile = "kvm-probe";

    /// <summary>The engine for <c>--engine</c>.</summary>
    /// <param name="name"><c>auto</c>, <c>kvm</c> or <c>translate</c>.</param>
    /// <param name="tell">Told, in one line, when the hardware was wanted where possible and is not used.</param>
    /// <exception cref="LodgeException"><c>kvm</c> was asked for and cannot be used.</exception>
    public static IEngine Choose(string name, Action<string> tell) => Choose(name, KnownProblem, tell);

    /// <summary>Finds out what a process that may not write the cache will ask.</summary>
    public static void Prepare(string name)
    {
        if (name != "translate")
        {
            KvmProblem(anew: false, out _);
        }
    }

    /// <summary>The same with a verdict of KVM's, which is asked for only when it is needed.</summary>
    internal static IEngine Choose(string name, Func<string?> kvmProblem, Action<string> tell)
    {
        if (name == "translate")
        {
            return new TranslationEngine();
        }
        if (kvmProblem() is not { } problem)
        {
            return new KvmEngine();
        }
        if (name == "kvm")
        {
            throw new LodgeException($"--engine kvm: {problem} (see 'lodge host'); without --engine the software engine is used");
        }
        tell($"on the software engine: {problem} (see 'lodge host')");
        return new TranslationEngine();
    }

    /// <summary>What the engines say, the one first that <c>auto</c> takes.</summary>
    /// <param name="anew">Whether KVM is tried again although a verdict is kept.</param>
    public static IReadOnlyList<EngineReport> Reports(bool anew)
    {
        string? problem = KvmProblem(anew, out ProbeReport? probe), translation = TranslationEngine.Unusable();
        EngineReport kvm = new("kvm", problem is null, problem, problem is null ? null : Advice(probe), [.. (probe?.Results ?? []).Select(Check)])
        {
            Checked = probe?.Time,
            CheckMilliseconds = probe?.Duration.TotalMilliseconds,
        };
        EngineReport translate = new("translate", translation is null, translation, null, []);
        return problem is null ? [kvm, translate] : [translate, kvm];
    }

    /// <summary>Why KVM cannot be used, or null; what was found out since the host's start is believed.</summary>
    private static string? KnownProblem()
    {
        VerdictMemo memo = new();
        if (memo.Problem() is { } known)
        {
            return known;
        }
        string? problem = KvmProblem(anew: false, out ProbeReport? report);
        if (report is { IsLasting: true } && problem is not null)
        {
            memo.Keep(problem);
        }
        return problem;
    }

    /// <summary>Why KVM cannot be used, or null.</summary>
    private static string? KvmProblem(bool anew, out ProbeReport? report)
    {
        report = null;
        if (KvmEngine.Unusable() is { } reason)
        {
            return reason;
        }
        ProbeCache? cache = Cache();
        report = anew ? null : cache?.Read();
        if (report is null)
        {
            try
            {
                report = KvmProbe.Run();
            }
            catch (Exception e) when (e is KvmException or OutOfMemoryException)
            {
                return $"this host's KVM cannot be tried: {e.Message}";
            }
            if (report.IsLasting)
            {
                cache?.Write(report);
            }
        }
        return report.Problem;
    }

    private static ProbeCache? Cache()
    {
        try
        {
            return new ProbeCache(Path.Combine(HostFolders.Cache, CacheFile), KvmIdentity.Read(HostTree.OfHost, Program.Version));
        }
        catch (ManagementException)
        {
            return null; // no home directory: probed at each start
        }
    }

    private static EngineCheck Check(ProbeResult result) => result.Outcome switch
    {
        ProbeOutcome.Passed => new(result.Name, true, result.Purpose),
        ProbeOutcome.NotOffered => new(result.Name, null, "not offered to guests"),
        _ => new(result.Name, false, result.Detail),
    };

    private static string? Advice(ProbeReport? probe)
    {
        if (probe is null)
        {
            return null; // the problem itself says what to do
        }
        VirtualizationInventory host = VirtualizationInventory.Read(HostTree.OfHost, CpuInventory.Read(HostTree.OfHost));
        return host is { Virtual: true, Extension: null }
            ? "this host is itself a virtual machine without VT-x or AMD-V: turn on nested virtualization where it runs"
            : "look for a newer kernel, or for what takes the processor's virtualization away (another hypervisor, the firmware)";
    }
}
