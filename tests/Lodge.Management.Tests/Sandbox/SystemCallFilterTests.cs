using Lodge.Management.Sandbox;
using Xunit;

namespace Lodge.Management.Tests.Sandbox;

/// <summary>The filter's program, run by an interpreter of classic BPF of the tests' own.</summary>
public sealed class SystemCallFilterTests
{
    private const uint X8664 = 0xC000_003E, I386 = 0x4000_0003;
    private const int Self = 4711;
    private static readonly SystemCallNeeds _least = new(Self), _internet = new(Self) { Internet = true }, _unix = new(Self) { UnixSockets = true }, _programs = new(Self) { Programs = true }, _shares = new(Self) { Shares = true };

    [Fact]
    public void CallsThatDotNetNeedsAreAllowed()
    {
        foreach (int number in new[] { 0, 1, 3, 9, 10, 11, 13, 14, 15, 28, 39, 56, 60, 202, 228, 231, 232, 257, 262, 281, 302, 318, 319, 324, 332, 334, 437 })
        {
            Assert.Equal(SystemCallFilter.Allow, Run(_least, number));
        }
    }

    [Theory]
    [InlineData(41, "socket")]
    [InlineData(57 + 2, "execve")]
    [InlineData(58, "vfork")]
    [InlineData(101, "ptrace")]
    [InlineData(105, "setuid")]
    [InlineData(117, "setresuid")]
    [InlineData(122, "setfsuid")]
    [InlineData(126, "capset")]
    [InlineData(133, "mknod")]
    [InlineData(155, "pivot_root")]
    [InlineData(161, "chroot")]
    [InlineData(165, "mount")]
    [InlineData(166, "umount2")]
    [InlineData(175, "init_module")]
    [InlineData(29, "shmget")]
    [InlineData(248, "add_key")]
    [InlineData(250, "keyctl")]
    [InlineData(259, "mknodat")]
    [InlineData(88, "symlink")]
    [InlineData(266, "symlinkat")]
    [InlineData(272, "unshare")]
    [InlineData(297, "rt_tgsigqueueinfo")]
    [InlineData(298, "perf_event_open")]
    [InlineData(304, "open_by_handle_at")]
    [InlineData(308, "setns")]
    [InlineData(310, "process_vm_readv")]
    [InlineData(311, "process_vm_writev")]
    [InlineData(317, "seccomp")]
    [InlineData(321, "bpf")]
    [InlineData(322, "execveat")]
    [InlineData(323, "userfaultfd")]
    [InlineData(424, "pidfd_send_signal")]
    [InlineData(425, "io_uring_setup")]
    [InlineData(428, "open_tree")]
    [InlineData(434, "pidfd_open")]
    [InlineData(438, "pidfd_getfd")]
    [InlineData(446, "landlock_restrict_self")]
    public void CallsThatNothingNeedsAreRefused(int number, string name)
    {
        Assert.True(Run(_least, number) == SystemCallFilter.Refuse, name);
        Assert.True(Run(_least, number, 1, 1, 1, 1, 1, 1) == SystemCallFilter.Refuse, name);
    }

    [Fact]
    public void NewerCallsAreNotThere()
    {
        Assert.Equal(SystemCallFilter.Absent, Run(_least, 435)); // clone3
        Assert.Equal(SystemCallFilter.Absent, Run(_least, (int)SystemCall.Last + 1));
        Assert.Equal(SystemCallFilter.Absent, Run(_least, 100_000));
    }

    [Fact]
    public void ForeignTablesEndTheProcess()
    {
        Assert.Equal(SystemCallFilter.Kill, Run(SystemCallFilter.Assemble(_least), 1, I386, []));
        Assert.Equal(SystemCallFilter.Kill, Run(_least, 0x4000_0000 | 1));
        Assert.Equal(SystemCallFilter.Kill, Run(_least, -1));
    }

    [Theory]
    [InlineData(0x0011u, true)] // SIGCHLD
    [InlineData(0x003D_0F00u, true)] // what pthread_create gives
    [InlineData(0x0002_0011u, false)] // CLONE_NEWNS
    [InlineData(0x0200_0011u, false)] // CLONE_NEWCGROUP
    [InlineData(0x1000_0011u, false)] // CLONE_NEWUSER
    [InlineData(0x2000_0011u, false)]
    [InlineData(0x4000_0011u, false)]
    [InlineData(0x0080_0011u, false)] // CLONE_UNTRACED
    public void CloneMakesThreadsAndNoNamespaces(uint flags, bool allowed) =>
        Assert.Equal(allowed ? SystemCallFilter.Allow : SystemCallFilter.Refuse, Run(_least, 56, flags));

    [Fact]
    public void SignalsGoToItselfOnly()
    {
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 62, Self, 15));
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 234, Self, 99, 34));
        foreach (ulong target in new ulong[] { 1, 0, Self + 1, unchecked((ulong)-1L), unchecked((ulong)-Self) })
        {
            Assert.Equal(SystemCallFilter.Refuse, Run(_least, 62, target, 9));
            Assert.Equal(SystemCallFilter.Refuse, Run(_least, 234, target, target, 9));
        }
        SystemCallNeeds scoped = _least with { KillsChildren = true };
        Assert.Equal(SystemCallFilter.Allow, Run(scoped, 62, 1, 9));
        Assert.Equal(SystemCallFilter.Refuse, Run(scoped, 62, 1, 15));
        Assert.Equal(SystemCallFilter.Refuse, Run(scoped, 62, 1, 0));
        // What the kernel ignores of a register does not matter.
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 62, 0xFFFF_0000_0000_0000 | Self, 15));
    }

    [Theory]
    [InlineData(1, 1, 0, "unix", true)]
    [InlineData(1, 1 | 0x80800, 0, "unix", true)]
    [InlineData(1, 2, 0, "unix", false)]
    [InlineData(2, 1, 0, "unix", false)]
    [InlineData(2, 1, 6, "internet", true)]
    [InlineData(10, 2 | 0x80000, 17, "internet", true)]
    [InlineData(2, 2, 1, "internet", true)]
    [InlineData(2, 3, 1, "internet", false)] // raw
    [InlineData(2, 1, 132, "internet", false)] // SCTP
    [InlineData(1, 1, 0, "internet", false)]
    [InlineData(16, 3, 0, "internet", true)] // NETLINK_ROUTE
    [InlineData(16, 3, 12, "internet", false)] // NETLINK_NETFILTER
    [InlineData(17, 3, 0, "internet", false)]
    [InlineData(38, 5, 0, "internet", false)]
    [InlineData(40, 1, 0, "internet", false)]
    [InlineData(16, 3, 0, "unix", false)]
    [InlineData(2, 1, 0, "", false)]
    [InlineData(1, 1, 0, "", false)]
    public void SocketsAreOfTheFamiliesThatAreNeeded(int family, int type, int protocol, string need, bool allowed) =>
        Assert.Equal(allowed ? SystemCallFilter.Allow : SystemCallFilter.Refuse, Run(need == "unix" ? _unix : need == "internet" ? _internet : _least, 41, (ulong)family, (ulong)type, (ulong)protocol));

    [Fact]
    public void PairsOfSocketsAreStreams()
    {
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 53, 1, 1 | 0x80000));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 53, 1, 2));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 53, 2, 1));
    }

    [Fact]
    public void DevicesAreControlledButNotTerminals()
    {
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 16, 5, 0xAE80));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 16, 0, 0x5412));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 16, 0, 0x541C));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 16, 0, 0x1_0000_5412)); // the kernel looks at 32 bits
    }

    [Fact]
    public void ProcessControlIsByList()
    {
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 157, 15));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 157, 0x59616D61)); // PR_SET_PTRACER
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 157, 22)); // PR_SET_SECCOMP
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 157, 4)); // PR_SET_DUMPABLE
        Assert.Equal(SystemCallFilter.Allow, Run(_least, 302, 0, 7));
        Assert.Equal(SystemCallFilter.Refuse, Run(_least, 302, 1, 7));
    }

    [Fact]
    public void MoreNeedsAllowNoMoreThanTheyName()
    {
        Assert.Equal(SystemCallFilter.Allow, Run(_programs, 59));
        Assert.Equal(SystemCallFilter.Refuse, Run(_programs, 322));
        Assert.Equal(SystemCallFilter.Allow, Run(_shares, 122));
        Assert.Equal(SystemCallFilter.Refuse, Run(_shares, 105));
        int[] all = [.. Enumerable.Range(0, 470).Where(number => Run(_least, number) != Run(_shares, number))];
        Assert.Equal([122, 123, 259, 266], all);
    }

    [Fact]
    public void TheProgramIsOneThatTheKernelTakes()
    {
        BpfInstruction[] program = SystemCallFilter.Assemble(_internet with { UnixSockets = true, Shares = true, Programs = true, KillsChildren = true });
        Assert.InRange(program.Length, 10, 4096); // BPF_MAXINSNS
        Assert.Equal(BpfInstruction.Return, program[^1].Code);
    }

    [Fact]
    public void ALabelBehindAJumpIsAnError()
    {
        BpfAssembler code = new();
        int back = code.NewLabel();
        code.Place(back);
        code.Load(0);
        code.Jump(back);
        Assert.Throws<InvalidOperationException>(() => code.Assemble());
    }

    private static uint Run(SystemCallNeeds needs, int number, params ulong[] arguments) => Run(SystemCallFilter.Assemble(needs), number, X8664, arguments);

    private static uint Run(BpfInstruction[] program, int number, uint architecture, ulong[] arguments)
    {
        byte[] data = new byte[64]; // struct seccomp_data
        BitConverter.TryWriteBytes(data.AsSpan(0), number);
        BitConverter.TryWriteBytes(data.AsSpan(4), architecture);
        for (int i = 0; i < arguments.Length; i++)
        {
            BitConverter.TryWriteBytes(data.AsSpan(16 + (i * 8)), arguments[i]);
        }
        uint a = 0;
        for (int at = 0; ; at++)
        {
            BpfInstruction one = program[at];
            switch (one.Code)
            {
                case 0x20:
                    Assert.True(one.Operand % 4 == 0 && one.Operand <= 60, "the kernel refuses such a load");
                    a = BitConverter.ToUInt32(data, (int)one.Operand);
                    break;
                case 0x54:
                    a &= one.Operand;
                    break;
                case 0x05:
                    at += (int)one.Operand;
                    break;
                case 0x15:
                    at += a == one.Operand ? one.JumpTrue : one.JumpFalse;
                    break;
                case 0x35:
                    at += a >= one.Operand ? one.JumpTrue : one.JumpFalse;
                    break;
                case 0x45:
                    at += (a & one.Operand) != 0 ? one.JumpTrue : one.JumpFalse;
                    break;
                case 0x06:
                    return one.Operand;
                default:
                    Assert.Fail($"code {one.Code:x} is not classic BPF that seccomp takes");
                    break;
            }
        }
    }
}
