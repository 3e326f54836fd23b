using System.Runtime.InteropServices;

namespace Lodge.Machine;

/// <summary>The host's CPUs: which this process may use, and binding a thread to one (sched_setaffinity(2)).</summary>
public static partial class HostProcessors
{
    /// <summary>Numbers of CPUs are below this.</summary>
    public const int Limit = MaskBytes * 8;

    private const int MaskBytes = 1024;

    /// <summary>CPUs on which this process may run, ascending; empty when the host does not tell.</summary>
    public static unsafe IReadOnlyList<int> Allowed()
    {
        byte* mask = stackalloc byte[MaskBytes];
        new Span<byte>(mask, MaskBytes).Clear();
        int bytes = sched_getaffinity(Environment.ProcessId, MaskBytes, mask);
        if (bytes < 0)
        {
            return [];
        }
        List<int> allowed = [];
        for (int i = 0; i < Limit; i++)
        {
            if ((mask[i / 8] >> (i % 8) & 1) != 0)
            {
                allowed.Add(i);
            }
        }
        return allowed;
    }

    /// <summary>Binds the calling thread to one CPU.</summary>
    /// <returns>Why it cannot be; null when it is bound.</returns>
    public static unsafe string? BindThread(int cpu)
    {
        if (cpu is < 0 or >= Limit)
        {
            return $"CPU {cpu} of the host does not exist";
        }
        byte* mask = stackalloc byte[MaskBytes];
        new Span<byte>(mask, MaskBytes).Clear();
        mask[cpu / 8] = (byte)(1 << (cpu % 8));
        return sched_setaffinity(0, MaskBytes, mask) == 0 ? null : $"a processor's thread cannot be bound to CPU {cpu} of the host: error {Marshal.GetLastPInvokeError()}";
    }

    [LibraryImport("libc", SetLastError = true)]
    private static unsafe partial int sched_getaffinity(int process, nuint size, byte* mask);

    [LibraryImport("libc", SetLastError = true)]
    private static unsafe partial int sched_setaffinity(int thread, nuint size, byte* mask);
}
