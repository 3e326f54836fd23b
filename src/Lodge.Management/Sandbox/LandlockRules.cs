using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Sandbox;

/// <summary>
/// A set of rules of Landlock (Linux, userspace-api/landlock.rst): what a thread that takes it on, and all that it starts, can still reach. It is made by any thread and taken on by one.
/// </summary>
internal sealed unsafe partial class LandlockRules : IDisposable
{
    // LANDLOCK_ACCESS_FS_*
    private const ulong Execute = 1 << 0, WriteFile = 1 << 1, ReadFile = 1 << 2, ReadFolder = 1 << 3, RemoveFolder = 1 << 4, RemoveFile = 1 << 5, MakeFolder = 1 << 7,
        MakeFile = 1 << 8, MakeSocket = 1 << 9, MakePipe = 1 << 10, MakeSymbolicLink = 1 << 12, Refer = 1 << 13, TruncateFile = 1 << 14, ControlDevice = 1 << 15;
    private const ulong OfFiles = Execute | WriteFile | ReadFile | TruncateFile | ControlDevice;
    private const ulong BindTcp = 1, ConnectTcp = 2;            // LANDLOCK_ACCESS_NET_*
    private const ulong AbstractSockets = 1, Signals = 2;       // LANDLOCK_SCOPE_*
    private const int RuleOfPath = 1;                           // LANDLOCK_RULE_PATH_BENEATH
    private const uint AskVersion = 1;                          // LANDLOCK_CREATE_RULESET_VERSION
    private const int PathOnly = 0x200000 | 0x80000;            // O_PATH | O_CLOEXEC

    private readonly SafeFileHandle _rules;

    private LandlockRules(SafeFileHandle rules) => _rules = rules;

    /// <summary>The version of Landlock's interface that this kernel has; 0 for none.</summary>
    public static int Version { get; } = Math.Max(0, (int)syscall((long)SystemCall.LandlockCreateRuleset, 0, 0, (nint)AskVersion, 0));

    /// <summary>Makes a set of rules.</summary>
    /// <param name="grants">All that may be reached.</param>
    /// <param name="tcp">Whether TCP is as it was; otherwise no port is bound and nothing connected to.</param>
    /// <returns>The rules; null where the kernel has no Landlock.</returns>
    /// <exception cref="IOException">The kernel refuses them.</exception>
    public static LandlockRules? Create(IEnumerable<FileGrant> grants, bool tcp)
    {
        if (Version == 0)
        {
            return null;
        }
        ulong handled = (1UL << (Version switch { 1 => 13, 2 => 14, < 5 => 15, _ => 16 })) - 1;
        RulesetAttribute attribute = new() { Files = handled, Network = Version >= 4 && !tcp ? BindTcp | ConnectTcp : 0, Scopes = Version >= 6 ? AbstractSockets | Signals : 0 };
        nint size = Version switch { < 4 => 8, < 6 => 16, _ => 24 };
        long descriptor = syscall((long)SystemCall.LandlockCreateRuleset, (nint)(&attribute), size, 0, 0);
        if (descriptor < 0)
        {
            throw new IOException($"Landlock's rules cannot be made: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        SafeFileHandle handle = new((nint)descriptor, ownsHandle: true);
        try
        {
            foreach (FileGrant grant in grants)
            {
                Add(handle, grant, handled);
            }
            return new LandlockRules(handle);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>Confines the calling thread, for good. It must have no_new_privs.</summary>
    /// <returns>0, or the error's number.</returns>
    public int Enter() => syscall((long)SystemCall.LandlockRestrictSelf, _rules.DangerousGetHandle(), 0, 0, 0) == 0 ? 0 : Marshal.GetLastPInvokeError();

    /// <inheritdoc/>
    public void Dispose() => _rules.Dispose();

    private static void Add(SafeFileHandle rules, FileGrant grant, ulong handled)
    {
        int descriptor = open(grant.Path, PathOnly);
        if (descriptor < 0)
        {
            return; // it is not there, or not for this user: nothing to grant
        }
        using SafeFileHandle place = new(descriptor, ownsHandle: true);
        // /proc/self/fd: whether it is a folder is asked of what was opened.
        bool folder = Directory.Exists($"/proc/self/fd/{descriptor}");
        PathAttribute attribute = new() { Allowed = (folder ? Rights(grant.Access) : Rights(grant.Access) & OfFiles) & handled, Parent = descriptor };
        if (attribute.Allowed != 0 && syscall((long)SystemCall.LandlockAddRule, rules.DangerousGetHandle(), RuleOfPath, (nint)(&attribute), 0) != 0)
        {
            throw new IOException($"Landlock does not take the rule for '{grant.Path}': {Marshal.GetLastPInvokeErrorMessage()}");
        }
    }

    private static ulong Rights(FileAccesses access) =>
        (access.HasFlag(FileAccesses.Read) ? ReadFile | ReadFolder : 0)
        | (access.HasFlag(FileAccesses.Execute) ? Execute | ReadFile | ReadFolder : 0)
        | (access.HasFlag(FileAccesses.Write) ? WriteFile | TruncateFile : 0)
        | (access.HasFlag(FileAccesses.Change) ? RemoveFolder | RemoveFile | MakeFolder | MakeFile | MakeSocket | Refer : 0)
        | (access.HasFlag(FileAccesses.MakeSpecial) ? MakeSymbolicLink | MakePipe : 0)
        | (access.HasFlag(FileAccesses.DeviceControl) ? ControlDevice : 0)
        | (access.HasFlag(FileAccesses.List) ? ReadFolder : 0)
        | (access.HasFlag(FileAccesses.MakeSocket) ? MakeSocket | RemoveFile : 0);

    /// <summary>struct landlock_ruleset_attr.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct RulesetAttribute
    {
        public ulong Files;
        public ulong Network;
        public ulong Scopes;
    }

    /// <summary>struct landlock_path_beneath_attr, packed.</summary>
    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    private struct PathAttribute
    {
        public ulong Allowed;
        public int Parent;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial long syscall(long number, nint first, nint second, nint third, nint fourth);

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags, int mode = 0);
}
