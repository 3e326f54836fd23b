using System.Runtime.InteropServices;

namespace Lodge.Management.Sandbox;

/// <summary>
/// What a process gives up for good once all is open and before the first instruction of its guest: other users' rights, core dumps, and the system calls that it does not need. For all its threads.
/// </summary>
public static unsafe partial class ProcessSeal
{
    private const int SetNoNewPrivileges = 38, SetDumpable = 4;                                    // PR_*
    private const nint SetModeFilter = 1, SynchronizeThreads = 1, AllowSpeculation = 4;            // SECCOMP_*
    private const int CoreLimit = 4, ProcessLimit = 6, FileLimit = 7;                              // RLIMIT_*
    private const ulong MostFiles = 1 << 16, MostProcesses = 4096;

    /// <summary>Whether this kernel confines to files (Landlock), and whether signals and abstract sockets too.</summary>
    public static (bool Files, bool Signals) Landlock => (LandlockRules.Version >= 1, LandlockRules.Version >= 6);

    /// <summary>Lowers the limits of resources.</summary>
    /// <param name="ownUser">No other process has its user: then processes are limited as well.</param>
    public static void LimitResources(bool ownUser)
    {
        Lower(CoreLimit, 0);
        Lower(FileLimit, MostFiles);
        if (ownUser)
        {
            Lower(ProcessLimit, MostProcesses);
        }
    }

    /// <summary>Becomes another user, for good, with all threads and without groups.</summary>
    /// <param name="user">Number of the user and of its group.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Become(uint user)
    {
        // libc does it on every thread (nptl(7)).
        if (setgroups(0, null) != 0 || setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0)
        {
            throw new IOException($"the process cannot become user {user}: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        // Otherwise its own /proc would be root's. Others of its user, of which there are none, could trace it.
        _ = prctl(SetDumpable, 1, 0, 0, 0);
    }

    /// <summary>Installs the filter of system calls on all threads; with it goes that no program gives more privileges.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void FilterSystemCalls(SystemCallNeeds needs)
    {
        BpfInstruction[] code = SystemCallFilter.Assemble(needs);
        if (prctl(SetNoNewPrivileges, 1, 0, 0, 0) != 0)
        {
            throw new IOException($"the process cannot give up privileges: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        fixed (BpfInstruction* first = code)
        {
            FilterProgram program = new() { Length = (ushort)code.Length, Code = first };
            // Where a filter would turn on a mitigation of Spectre v4 (kernels before 5.16) it does not: generated code would be slower, and is not protected by it (threat-model.md).
            long result = syscall((long)SystemCall.Seccomp, SetModeFilter, SynchronizeThreads | AllowSpeculation, (nint)(&program));
            if (result != 0)
            {
                throw new IOException(result > 0 ? "a thread of the process has another filter of system calls" : $"the filter of system calls is refused: {Marshal.GetLastPInvokeErrorMessage()}");
            }
        }
    }

    private static void Lower(int resource, ulong most)
    {
        Limit limit;
        if (getrlimit(resource, &limit) == 0)
        {
            limit = new Limit { Soft = Math.Min(limit.Soft, most), Hard = Math.Min(limit.Hard, most) };
            _ = setrlimit(resource, &limit);
        }
    }

    /// <summary>struct sock_fprog.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct FilterProgram
    {
        public ushort Length;
        public BpfInstruction* Code;
    }

    /// <summary>struct rlimit.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Limit
    {
        public ulong Soft;
        public ulong Hard;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int prctl(int option, nuint second, nuint third, nuint fourth, nuint fifth);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long syscall(long number, nint first, nint second, nint third);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setgroups(nuint count, uint* groups);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setresgid(uint real, uint effective, uint saved);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setresuid(uint real, uint effective, uint saved);

    [LibraryImport("libc")]
    private static partial int getrlimit(int resource, Limit* limit);

    [LibraryImport("libc")]
    private static partial int setrlimit(int resource, Limit* limit);
}
