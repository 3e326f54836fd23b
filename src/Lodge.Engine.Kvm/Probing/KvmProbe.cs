using System.Diagnostics;
using Lodge.Engine.Kvm.Interop;

namespace Lodge.Engine.Kvm.Probing;

/// <summary>
/// Tries whether this host's KVM runs what kernels need. A KVM may be there and yet emulate ring 0 incompletely (where the host is itself a virtual machine without
/// hardware support), so that small guests work and no kernel boots. Each thing is tried in a virtual machine of its own, all side by side, with a time limit: some
/// never come back by themselves.
/// </summary>
public static class KvmProbe
{
    // The second is for hosts that were busy: each program alone, and only when nothing else is wrong.
    private static readonly TimeSpan s_limit = TimeSpan.FromMilliseconds(250), s_secondLimit = TimeSpan.FromSeconds(1), s_patience = TimeSpan.FromSeconds(10);

    /// <summary>Changes with what is tried: part of what a kept verdict depends on.</summary>
    public static string Fingerprint { get; } = FingerprintOf(ProbePrograms.All);

    /// <summary>Tries. Takes some tens of milliseconds where all is well, and a few tenths of a second otherwise.</summary>
    /// <exception cref="KvmException">KVM cannot be used at all, see <see cref="KvmEngine.Unusable"/>.</exception>
    public static ProbeReport Run() => Run(ProbePrograms.All, s_limit);

    /// <summary>Tries some programs, for tests.</summary>
    internal static ProbeReport Run(IReadOnlyList<ProbeProgram> programs, TimeSpan limit)
    {
        DateTimeOffset time = DateTimeOffset.UtcNow;
        long start = Stopwatch.GetTimestamp();
        using var system = new KvmSystem();
        KickSignal.Install();
        KvmCpuidEntry[] features = system.GetSupportedCpuid();
        ProbeProgram[] mine = [.. programs.Where(program => program.Vendor is not { } vendor || vendor == VendorOf(features))];
        ProbeResult[] results = Together(system, features, mine, limit);
        if (!new ProbeReport(results, time, default).IsLasting)
        {
            for (int i = 0; i < results.Length; i++)
            {
                if (results[i].Outcome == ProbeOutcome.TimedOut)
                {
                    results[i] = Together(system, features, [mine[i]], s_secondLimit)[0];
                }
            }
        }
        return new ProbeReport(results, time, Stopwatch.GetElapsedTime(start));
    }

    private static ProbeResult[] Together(KvmSystem system, KvmCpuidEntry[] features, ProbeProgram[] programs, TimeSpan limit)
    {
        var attempts = new Attempt?[programs.Length];
        for (int i = 0; i < programs.Length; i++)
        {
            if (programs[i].Feature is not { } feature || Offers(features, feature))
            {
                attempts[i] = new Attempt(system, features, programs[i]);
            }
        }
        long start = Stopwatch.GetTimestamp();
        foreach (Attempt? attempt in attempts)
        {
            TimeSpan left = limit - Stopwatch.GetElapsedTime(start);
            attempt?.Await(left > TimeSpan.Zero ? left : TimeSpan.Zero);
        }
        foreach (Attempt? attempt in attempts)
        {
            attempt?.End(s_patience);
        }
        return [.. programs.Select((program, i) => attempts[i]?.Result(limit) ?? new ProbeResult(program.Name, program.Purpose, ProbeOutcome.NotOffered, ""))];
    }

    private static bool Offers(KvmCpuidEntry[] features, ProbeFeature feature)
    {
        KvmCpuidEntry leaf = Array.Find(features, entry => entry.Function == feature.Leaf && entry.Index == 0);
        uint word = feature.Register switch
        {
            'b' => leaf.Ebx,
            'c' => leaf.Ecx,
            _ => leaf.Edx,
        };
        return (word >> feature.Bit & 1) != 0;
    }

    private static char VendorOf(KvmCpuidEntry[] features)
    {
        const uint Amd = 0x6874_7541, Hygon = 0x6F67_7948; // "Auth", "Hygo"
        return Array.Find(features, entry => entry.Function == 0).Ebx is Amd or Hygon ? 'A' : 'I';
    }

    private static string FingerprintOf(IEnumerable<ProbeProgram> programs)
    {
        ProbeDigest digest = new();
        foreach (ProbeProgram program in programs)
        {
            digest.Add($"{program.Name}\n{program.Purpose}\n{program.Feature}\n{program.Vendor}\n{program.Mode}\n{program.Xcr0}");
            digest.Add(program.Code);
            digest.Add(program.UserCode);
        }
        return digest.ToString();
    }

    /// <summary>One program on a thread of its own.</summary>
    private sealed class Attempt
    {
        private readonly ProbeProgram _program;
        private readonly Thread _thread;
        private readonly Lock _gate = new();
        private ProbeMachine? _machine; // guarded by _gate
        private bool _over;             // guarded by _gate
        private (ProbeOutcome Outcome, string Detail)? _verdict;

        public Attempt(KvmSystem system, KvmCpuidEntry[] features, ProbeProgram program)
        {
            const int StackSize = 256 << 10;
            _program = program;
            _thread = new Thread(() => Try(system, features), StackSize) { IsBackground = true, Name = "probe" };
            _thread.Start();
        }

        public void Await(TimeSpan time) => _thread.Join(time);

        /// <summary>Ends it if need be. A thread that cannot be got out of the kernel is left behind.</summary>
        public void End(TimeSpan patience)
        {
            long start = Stopwatch.GetTimestamp();
            while (_thread.IsAlive && Stopwatch.GetElapsedTime(start) < patience)
            {
                lock (_gate)
                {
                    _over = true;
                    _machine?.End();
                }
                _thread.Join(1);
            }
        }

        public ProbeResult Result(TimeSpan limit)
        {
            (ProbeOutcome outcome, string detail) = _thread.IsAlive ? (ProbeOutcome.Failed, "it hangs and cannot be interrupted") : _verdict!.Value;
            return new ProbeResult(_program.Name, _program.Purpose, outcome, outcome == ProbeOutcome.TimedOut ? $"{detail} within {limit.TotalMilliseconds} ms" : detail);
        }

        private void Try(KvmSystem system, KvmCpuidEntry[] features)
        {
            try
            {
                using var machine = new ProbeMachine(system, features, _program);
                lock (_gate)
                {
                    _machine = machine;
                    if (_over)
                    {
                        machine.End();
                    }
                }
                try
                {
                    _verdict = machine.Run();
                }
                finally
                {
                    lock (_gate)
                    {
                        _machine = null;
                    }
                }
            }
            catch (IOException e)
            {
                _verdict = (ProbeOutcome.Failed, e.Message);
            }
        }
    }
}
