namespace Lodge.Management.Sandbox;

/// <summary>What a machine's process still needs of the host's kernel once its guest runs.</summary>
/// <param name="Process">Its number: it may signal itself only.</param>
public sealed record SystemCallNeeds(int Process)
{
    /// <summary>It opens sockets of the Internet: a user network, a disk on NBD.</summary>
    public bool Internet { get; init; }

    /// <summary>It opens Unix sockets: connections of the guest's vsock to programs of the host.</summary>
    public bool UnixSockets { get; init; }

    /// <summary>Something else, Landlock, keeps its signals among its own processes: it may kill those.</summary>
    public bool KillsChildren { get; init; }

    /// <summary>It starts programs: those that take a card off a network when a run in the foreground ends.</summary>
    public bool Programs { get; init; }

    /// <summary>It serves shared folders: it makes files with the guest's owners, symbolic links and pipes.</summary>
    public bool Shares { get; init; }
}

/// <summary>
/// The system calls of a machine's process, as a program for seccomp(2): a list of what is allowed, some with conditions on their arguments. The rest is answered with EPERM, so that what a library tries
/// in vain does no harm; a number that is newer than the list with ENOSYS, so that libraries take the older call; and calls of the 32-bit and x32 tables, which nothing here makes, end the process.
/// </summary>
internal static class SystemCallFilter
{
    /// <summary>SECCOMP_RET_ALLOW.</summary>
    public const uint Allow = 0x7FFF_0000;

    /// <summary>SECCOMP_RET_KILL_PROCESS.</summary>
    public const uint Kill = 0x8000_0000;

    /// <summary>SECCOMP_RET_ERRNO with EPERM.</summary>
    public const uint Refuse = 0x0005_0000 | 1;

    /// <summary>SECCOMP_RET_ERRNO with ENOSYS.</summary>
    public const uint Absent = 0x0005_0000 | 38;

    // struct seccomp_data
    private const int NumberOffset = 0, ArchitectureOffset = 4, ArgumentOffset = 16;
    private const uint ArchitectureX8664 = 0xC000_003E, X32Bit = 0x4000_0000;

    // clone(2): all CLONE_NEW* flags, of which NEWTIME is part of the signal's byte and refused with it.
    private const uint NewNamespaces = 0x7E02_0000 | 0x80, CloneUntraced = 0x0080_0000, ClonePtrace = 0x2000;

    private static readonly SystemCall[] Always =
    [
        SystemCall.Read, SystemCall.Write, SystemCall.Open, SystemCall.Close, SystemCall.Stat, SystemCall.Fstat, SystemCall.Lstat, SystemCall.Poll, SystemCall.Lseek, SystemCall.Mmap, SystemCall.Mprotect,
        SystemCall.Munmap, SystemCall.Brk, SystemCall.RtSigaction, SystemCall.RtSigprocmask, SystemCall.RtSigreturn, SystemCall.Pread64, SystemCall.Pwrite64, SystemCall.Readv, SystemCall.Writev,
        SystemCall.Access, SystemCall.Pipe, SystemCall.Select, SystemCall.SchedYield, SystemCall.Mremap, SystemCall.Msync, SystemCall.Mincore, SystemCall.Madvise, SystemCall.Dup, SystemCall.Dup2,
        SystemCall.Pause, SystemCall.Nanosleep, SystemCall.Getpid, SystemCall.Sendfile, SystemCall.Connect, SystemCall.Accept, SystemCall.Sendto, SystemCall.Recvfrom, SystemCall.Sendmsg,
        SystemCall.Recvmsg, SystemCall.Shutdown, SystemCall.Bind, SystemCall.Listen, SystemCall.Getsockname, SystemCall.Getpeername, SystemCall.Setsockopt, SystemCall.Getsockopt, SystemCall.Fork,
        SystemCall.Exit, SystemCall.Wait4, SystemCall.Uname, SystemCall.Fcntl, SystemCall.Flock, SystemCall.Fsync, SystemCall.Fdatasync, SystemCall.Truncate, SystemCall.Ftruncate, SystemCall.Getdents,
        SystemCall.Getcwd, SystemCall.Chdir, SystemCall.Fchdir, SystemCall.Rename, SystemCall.Mkdir, SystemCall.Rmdir, SystemCall.Creat, SystemCall.Link, SystemCall.Unlink,
        SystemCall.Readlink, SystemCall.Chmod, SystemCall.Fchmod, SystemCall.Chown, SystemCall.Fchown, SystemCall.Lchown, SystemCall.Umask, SystemCall.Gettimeofday, SystemCall.Getrlimit,
        SystemCall.Getrusage, SystemCall.Sysinfo, SystemCall.Times, SystemCall.Getuid, SystemCall.Getgid, SystemCall.Geteuid, SystemCall.Getegid, SystemCall.Getppid, SystemCall.Getpgrp,
        SystemCall.Getgroups, SystemCall.Getresuid, SystemCall.Getresgid, SystemCall.Getpgid, SystemCall.Getsid, SystemCall.RtSigpending, SystemCall.RtSigtimedwait, SystemCall.RtSigsuspend,
        SystemCall.Sigaltstack, SystemCall.Utime, SystemCall.Statfs, SystemCall.Fstatfs, SystemCall.Getpriority, SystemCall.Setpriority, SystemCall.SchedGetparam, SystemCall.SchedGetscheduler,
        SystemCall.SchedGetPriorityMax, SystemCall.SchedGetPriorityMin, SystemCall.Mlock, SystemCall.Munlock, SystemCall.Mlockall, SystemCall.Munlockall, SystemCall.ArchPrctl, SystemCall.Gettid,
        SystemCall.Readahead, SystemCall.Setxattr, SystemCall.Lsetxattr, SystemCall.Fsetxattr, SystemCall.Getxattr, SystemCall.Lgetxattr, SystemCall.Fgetxattr, SystemCall.Listxattr,
        SystemCall.Llistxattr, SystemCall.Flistxattr, SystemCall.Removexattr, SystemCall.Lremovexattr, SystemCall.Fremovexattr, SystemCall.Time, SystemCall.Futex, SystemCall.SchedSetaffinity,
        SystemCall.SchedGetaffinity, SystemCall.EpollCreate, SystemCall.Getdents64, SystemCall.SetTidAddress, SystemCall.RestartSyscall, SystemCall.Fadvise64, SystemCall.TimerCreate,
        SystemCall.TimerSettime, SystemCall.TimerGettime, SystemCall.TimerGetoverrun, SystemCall.TimerDelete, SystemCall.ClockGettime, SystemCall.ClockGetres, SystemCall.ClockNanosleep,
        SystemCall.ExitGroup, SystemCall.EpollWait, SystemCall.EpollCtl, SystemCall.Utimes, SystemCall.Mbind, SystemCall.SetMempolicy, SystemCall.GetMempolicy, SystemCall.Waitid,
        SystemCall.InotifyInit, SystemCall.InotifyAddWatch, SystemCall.InotifyRmWatch, SystemCall.Openat, SystemCall.Mkdirat, SystemCall.Fchownat, SystemCall.Futimesat, SystemCall.Newfstatat,
        SystemCall.Unlinkat, SystemCall.Renameat, SystemCall.Linkat, SystemCall.Readlinkat, SystemCall.Fchmodat, SystemCall.Faccessat, SystemCall.Pselect6, SystemCall.Ppoll,
        SystemCall.SetRobustList, SystemCall.GetRobustList, SystemCall.Splice, SystemCall.Tee, SystemCall.SyncFileRange, SystemCall.Utimensat, SystemCall.EpollPwait, SystemCall.Signalfd,
        SystemCall.TimerfdCreate, SystemCall.Eventfd, SystemCall.Fallocate, SystemCall.TimerfdSettime, SystemCall.TimerfdGettime, SystemCall.Accept4, SystemCall.Signalfd4, SystemCall.Eventfd2,
        SystemCall.EpollCreate1, SystemCall.Dup3, SystemCall.Pipe2, SystemCall.InotifyInit1, SystemCall.Preadv, SystemCall.Pwritev, SystemCall.Recvmmsg, SystemCall.Syncfs, SystemCall.Sendmmsg,
        SystemCall.Getcpu, SystemCall.SchedGetattr, SystemCall.Renameat2, SystemCall.Getrandom, SystemCall.MemfdCreate, SystemCall.Membarrier, SystemCall.Mlock2, SystemCall.CopyFileRange,
        SystemCall.Preadv2, SystemCall.Pwritev2, SystemCall.Statx, SystemCall.Rseq, SystemCall.CloseRange, SystemCall.Openat2, SystemCall.Faccessat2, SystemCall.EpollPwait2, SystemCall.FutexWaitv,
        SystemCall.Cachestat, SystemCall.Fchmodat2,
    ];

    /// <summary>The program for some needs.</summary>
    public static BpfInstruction[] Assemble(SystemCallNeeds needs)
    {
        Rule[] rules = new Rule[(int)SystemCall.Last + 1];
        rules.AsSpan().Fill(Rule.Refused);
        foreach (SystemCall call in Always)
        {
            rules[(int)call] = Rule.Allowed;
        }
        foreach ((SystemCall call, Rule rule) in Conditional(needs))
        {
            rules[(int)call] = rule;
        }
        BpfAssembler code = new();
        int foreign = code.NewLabel(), refuse = code.NewLabel(), allow = code.NewLabel(), absent = code.NewLabel();
        List<(Rule Rule, int Label)> checks = [];
        code.Load(ArchitectureOffset);
        code.JumpUnless(BpfInstruction.JumpEqual, ArchitectureX8664, foreign);
        code.Load(NumberOffset);
        code.JumpIf(BpfInstruction.JumpAnySet, X32Bit, foreign);
        // Ranges of numbers that are answered alike, searched by halves.
        List<(uint First, int Label)> ranges = [];
        for (int number = 0; number <= (int)SystemCall.Last; number++)
        {
            Rule rule = rules[number];
            int label = rule == Rule.Allowed ? allow : rule == Rule.Refused ? refuse : rule == Rule.NotThere ? absent : code.NewLabel();
            if (label != allow && label != refuse && label != absent)
            {
                checks.Add((rule, label));
            }
            if (ranges.Count == 0 || ranges[^1].Label != label)
            {
                ranges.Add(((uint)number, label));
            }
        }
        ranges.Add(((uint)SystemCall.Last + 1, absent));
        Search(code, ranges, 0, ranges.Count);
        foreach ((Rule rule, int label) in checks)
        {
            code.Place(label);
            rule.Write(code, allow, refuse);
        }
        code.Place(allow);
        code.Return(Allow);
        code.Place(refuse);
        code.Return(Refuse);
        code.Place(absent);
        code.Return(Absent);
        code.Place(foreign);
        code.Return(Kill);
        return code.Assemble();
    }

    private static void Search(BpfAssembler code, List<(uint First, int Label)> ranges, int from, int to)
    {
        if (to - from == 1)
        {
            code.Jump(ranges[from].Label);
            return;
        }
        int middle = (from + to) / 2, upper = code.NewLabel();
        code.JumpIf(BpfInstruction.JumpNotBelow, ranges[middle].First, upper);
        Search(code, ranges, from, middle);
        code.Place(upper);
        Search(code, ranges, middle, to);
    }

    private static IEnumerable<(SystemCall, Rule)> Conditional(SystemCallNeeds needs)
    {
        const uint unix = 1, inet = 2, inet6 = 10, netlink = 16; // AF_*
        const uint stream = 1, datagram = 2, raw = 3; // SOCK_*
        const uint typeMask = ~(0x800u | 0x80000u); // SOCK_NONBLOCK, SOCK_CLOEXEC
        const uint injectInput = 0x5412, lineDiscipline = 0x5423, linuxConsole = 0x541C; // TIOCSTI, TIOCSETD, TIOCLINUX
        uint self = (uint)needs.Process;

        // Programs need vfork and new flags in structures that cannot be looked at: libc takes clone when clone3 is not there.
        yield return (SystemCall.Clone3, Rule.NotThere);
        yield return (SystemCall.Clone, new Rule([[new Check(0, NewNamespaces | CloneUntraced | ClonePtrace, [0])]]));
        Check[] itself = [new Check(0, uint.MaxValue, [self])];
        // The process that keeps memory for a snapshot is ended by SIGKILL.
        yield return (SystemCall.Kill, new Rule(needs.KillsChildren ? [itself, [new Check(1, uint.MaxValue, [9])]] : [itself]));
        yield return (SystemCall.Tgkill, new Rule([[new Check(0, uint.MaxValue, [self])]]));
        yield return (SystemCall.Ioctl, new Rule([[new Check(1, uint.MaxValue, [injectInput, lineDiscipline, linuxConsole], Differs: true)]]));
        // Its own limits, which it can only lower, and nobody else's.
        yield return (SystemCall.Prlimit64, new Rule([[new Check(0, uint.MaxValue, [0, self])]]));
        // PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_CAPBSET_READ, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_GET_NO_NEW_PRIVS, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE, PR_SET_VMA
        yield return (SystemCall.Prctl, new Rule([[new Check(0, uint.MaxValue, [1, 3, 15, 16, 23, 29, 30, 39, 41, 42, 0x53564D41])]]));
        // Pairs are connected to each other; one of datagrams could send to any socket of the host.
        yield return (SystemCall.Socketpair, new Rule([[new Check(0, uint.MaxValue, [unix]), new Check(1, typeMask, [stream])]]));
        List<Check[]> sockets = [];
        if (needs.Internet)
        {
            // Protocols: the type's own, ICMP, TCP, UDP, ICMPv6. Datagrams of ICMP are the kernel's "ping sockets".
            sockets.Add([new Check(0, uint.MaxValue, [inet, inet6]), new Check(1, typeMask, [stream, datagram]), new Check(2, uint.MaxValue, [0, 1, 6, 17, 58])]);
            sockets.Add([new Check(0, uint.MaxValue, [netlink]), new Check(1, typeMask, [raw, datagram]), new Check(2, uint.MaxValue, [0])]); // addresses of the host, asked for when names are looked up
        }
        if (needs.UnixSockets)
        {
            sockets.Add([new Check(0, uint.MaxValue, [unix]), new Check(1, typeMask, [stream])]);
        }
        if (sockets.Count != 0)
        {
            yield return (SystemCall.Socket, new Rule([.. sockets]));
        }
        if (needs.Programs)
        {
            yield return (SystemCall.Execve, Rule.Allowed);
            yield return (SystemCall.Vfork, Rule.Allowed);
            yield return (SystemCall.Setsid, Rule.Allowed);
            yield return (SystemCall.Kill, Rule.Allowed);
        }
        if (needs.Shares)
        {
            yield return (SystemCall.Setfsuid, Rule.Allowed);
            yield return (SystemCall.Setfsgid, Rule.Allowed);
            yield return (SystemCall.Symlinkat, Rule.Allowed);
            yield return (SystemCall.Mknodat, Rule.Allowed); // pipes and sockets; devices need a capability that it has not
        }
    }

    /// <summary>A condition on the lower half of an argument; those of the calls here are 32 bits wide.</summary>
    /// <param name="Argument">Its place, from 0.</param>
    /// <param name="Mask">Bits that are looked at.</param>
    /// <param name="Values">What they may be.</param>
    /// <param name="Differs">They may be anything but that.</param>
    private sealed record Check(int Argument, uint Mask, uint[] Values, bool Differs = false);

    /// <summary>When a call is allowed: when all conditions of one of the alternatives hold.</summary>
    private sealed class Rule(Check[][] alternatives)
    {
        public static readonly Rule Allowed = new([]), Refused = new([]), NotThere = new([]);

        public void Write(BpfAssembler code, int allow, int refuse)
        {
            foreach (Check[] checks in alternatives)
            {
                int next = code.NewLabel();
                foreach (Check check in checks)
                {
                    code.Load(ArgumentOffset + (check.Argument * 8));
                    if (check.Mask != uint.MaxValue)
                    {
                        code.And(check.Mask);
                    }
                    int found = code.NewLabel();
                    foreach (uint value in check.Values)
                    {
                        code.JumpIf(BpfInstruction.JumpEqual, value, check.Differs ? next : found);
                    }
                    if (!check.Differs)
                    {
                        code.Jump(next);
                    }
                    code.Place(found);
                }
                code.Jump(allow);
                code.Place(next);
            }
            code.Jump(refuse);
        }
    }
}
