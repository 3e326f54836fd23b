using System.Runtime.InteropServices;

namespace Lodge.Management.Sandbox;

/// <summary>
/// What a process is born with that shall reach little: no new privileges, Landlock's rules, and where root starts it few capabilities and namespaces of its own. All these belong to a
/// thread and are inherited by what it starts; so a thread of its own takes them on, starts the process, and ends.
/// </summary>
public sealed record Confinement
{
    // linux/capability.h
    private const int Chown = 0, OverrideAccess = 1, SearchAll = 2, ActAsOwner = 3, KeepSetId = 4, SetGroup = 6, SetUser = 7, LockMemory = 14;

    /// <summary>The files and folders that it may use.</summary>
    public required IReadOnlyList<FileGrant> Grants { get; init; }

    /// <summary>Whether it may use TCP.</summary>
    public bool Tcp { get; init; }

    /// <summary>Whether it shall have no network interfaces but those whose descriptors it is given. Where root starts it.</summary>
    public bool OwnNetwork { get; init; }

    /// <summary>What .NET, the C library and Lodge itself read of a system.</summary>
    public static IReadOnlyList<FileGrant> OfSystem()
    {
        List<FileGrant> all = [];
        Add(FileAccesses.Execute, "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", AppContext.BaseDirectory, Path.GetDirectoryName(RuntimeEnvironment.GetRuntimeDirectory().TrimEnd('/'))!);
        Add(FileAccesses.Execute, Environment.ProcessPath ?? "");
        if (Environment.GetEnvironmentVariable("DOTNET_ROOT") is { Length: > 0 } dotnet)
        {
            Add(FileAccesses.Execute, dotnet);
        }
        Add(FileAccesses.Read, "/proc", "/sys/devices", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/module", "/sys/class", "/sys/bus", "/sys/hypervisor", "/dev/null", "/dev/zero", "/dev/urandom", "/dev/random",
            "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/hosts", "/etc/resolv.conf", "/run/systemd/resolve", "/run/NetworkManager/resolv.conf",
            "/run/resolvconf", "/etc/gai.conf", "/etc/services", "/etc/protocols", "/etc/localtime", "/etc/timezone", "/etc/ssl/openssl.cnf", "/etc/ssl/certs", "/etc/pki", "/etc/ca-certificates", "/etc/os-release",
            "/etc/passwd", "/etc/group", "/etc/locale.alias", "/etc/dotnet", "/etc/alternatives", "/etc/magic");
        Add(FileAccesses.Read | FileAccesses.Write, "/dev/null", "/dev/zero", "/proc/self/task", "/proc/self/comm");
        return all;

        void Add(FileAccesses access, params ReadOnlySpan<string> paths)
        {
            foreach (string path in paths)
            {
                if (path.Length != 0)
                {
                    all.Add(new FileGrant(path, access));
                }
            }
        }
    }

    /// <summary>What is to be done on the thread that starts the process. Made before: nothing but system calls is left for it.</summary>
    /// <exception cref="IOException">The kernel refuses.</exception>
    internal ConfinedThread Prepare() => new(LandlockRules.Create(Grants, Tcp), Environment.IsPrivilegedProcess ? Namespaces : 0, Kept);

    private const int NewIpc = 0x0800_0000, NewNetwork = 0x4000_0000, NewUts = 0x0400_0000;

    private int Namespaces => NewIpc | NewUts | (OwnNetwork ? NewNetwork : 0);

    /// <summary>For opening files of anybody, giving the machine's files to its user and becoming that user.</summary>
    private static ReadOnlySpan<int> Kept => [Chown, OverrideAccess, SearchAll, ActAsOwner, KeepSetId, SetGroup, SetUser, LockMemory];
}

/// <summary>A thread that confines itself and then starts a process.</summary>
internal sealed partial class ConfinedThread : IDisposable
{
    private const int DropFromBoundingSet = 24, SetNoNewPrivileges = 38; // PR_*
    private const int LastCapability = 63;
    private const int ErrorInvalid = 22;
    private readonly LandlockRules? _rules;
    private readonly int _namespaces;
    private readonly ulong _kept;

    public ConfinedThread(LandlockRules? rules, int namespaces, ReadOnlySpan<int> kept)
    {
        (_rules, _namespaces) = (rules, namespaces);
        foreach (int capability in kept)
        {
            _kept |= 1UL << capability;
        }
    }

    /// <summary>Does something on a thread that is confined and ends with it.</summary>
    /// <param name="action">What; little more than one system call, since a thread that it makes would be confined too.</param>
    /// <exception cref="IOException">The kernel refuses to confine it.</exception>
    public void Run(Action action)
    {
        Exception? failure = null;
        Thread thread = new(() =>
        {
            try
            {
                Enter();
                action();
            }
            catch (Exception e)
            {
                failure = e;
            }
        });
        thread.Start();
        thread.Join();
        if (failure is not null)
        {
            throw new IOException(failure.Message, failure);
        }
    }

    public void Dispose() => _rules?.Dispose();

    private void Enter()
    {
        if (_namespaces != 0)
        {
            // One by one: a kernel may lack one of them, a container forbid it. Landlock and the filter hold without.
            for (int bit = 1 << 25; bit is > 0 and <= 1 << 30; bit <<= 1)
            {
                if ((_namespaces & bit) != 0)
                {
                    _ = unshare(bit);
                }
            }
            for (int capability = 0; capability <= LastCapability; capability++)
            {
                if ((_kept >> capability & 1) == 0 && prctl(DropFromBoundingSet, (nuint)capability, 0, 0, 0) != 0 && Marshal.GetLastPInvokeError() == ErrorInvalid)
                {
                    break; // the kernel has no more
                }
            }
        }
        if (prctl(SetNoNewPrivileges, 1, 0, 0, 0) != 0)
        {
            throw new IOException($"the process cannot give up privileges: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        if (_rules?.Enter() is { } error and not 0)
        {
            throw new IOException($"Landlock's rules cannot be taken on: {Marshal.GetPInvokeErrorMessage(error)}");
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int prctl(int option, nuint second, nuint third, nuint fourth, nuint fifth);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int unshare(int flags);
}
