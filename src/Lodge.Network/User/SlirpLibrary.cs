using System.Globalization;
using System.Runtime.InteropServices;

namespace Lodge.Network.User;

/// <summary>
/// The functions of libslirp that are used, found at run time. Names, layouts and rules are those of its public header (<c>slirp/libslirp.h</c>, version 4.7).
/// All functions of one stack are called on one thread.
/// </summary>
internal sealed unsafe class SlirpLibrary
{
    /// <summary>Where the library's file is commonly.</summary>
    internal static readonly string[] Places = ["/usr/lib/x86_64-linux-gnu/libslirp.so.0", "/usr/lib64/libslirp.so.0", "/usr/lib/libslirp.so.0"];

    /// <summary>Debian's package that has the library.</summary>
    public const string Package = "libslirp0";

    private const string FileName = "libslirp.so.0";
    private static readonly Version Least = new(4, 7); // configuration version 4: timers by number
    private static readonly Lazy<(SlirpLibrary? Library, string? Problem)> Loaded = new(() => Load(FileName));

    private readonly nint _handle;

    private SlirpLibrary(nint handle)
    {
        _handle = handle;
        New = (delegate* unmanaged[Cdecl]<SlirpConfiguration*, SlirpCallbackTable*, nint, nint>)Export("slirp_new");
        Cleanup = (delegate* unmanaged[Cdecl]<nint, void>)Export("slirp_cleanup");
        FillPoll = (delegate* unmanaged[Cdecl]<nint, uint*, delegate* unmanaged[Cdecl]<int, int, nint, int>, nint, void>)Export("slirp_pollfds_fill");
        Poll = (delegate* unmanaged[Cdecl]<nint, int, delegate* unmanaged[Cdecl]<int, nint, int>, nint, void>)Export("slirp_pollfds_poll");
        Input = (delegate* unmanaged[Cdecl]<nint, byte*, int, void>)Export("slirp_input");
        HandleTimer = (delegate* unmanaged[Cdecl]<nint, int, nint, void>)Export("slirp_handle_timer");
        AddForward = (delegate* unmanaged[Cdecl]<nint, byte*, uint, byte*, uint, int, int>)Export("slirp_add_hostxfwd");
        VersionString = (delegate* unmanaged[Cdecl]<byte*>)Export("slirp_version_string");
    }

    /// <summary><c>slirp_new(config, callbacks, opaque)</c>.</summary>
    public delegate* unmanaged[Cdecl]<SlirpConfiguration*, SlirpCallbackTable*, nint, nint> New { get; }

    /// <summary><c>slirp_cleanup(slirp)</c>.</summary>
    public delegate* unmanaged[Cdecl]<nint, void> Cleanup { get; }

    /// <summary><c>slirp_pollfds_fill(slirp, timeout, add_poll, opaque)</c>; the timeout is in milliseconds.</summary>
    public delegate* unmanaged[Cdecl]<nint, uint*, delegate* unmanaged[Cdecl]<int, int, nint, int>, nint, void> FillPoll { get; }

    /// <summary><c>slirp_pollfds_poll(slirp, select_error, get_revents, opaque)</c>.</summary>
    public delegate* unmanaged[Cdecl]<nint, int, delegate* unmanaged[Cdecl]<int, nint, int>, nint, void> Poll { get; }

    /// <summary><c>slirp_input(slirp, packet, length)</c>.</summary>
    public delegate* unmanaged[Cdecl]<nint, byte*, int, void> Input { get; }

    /// <summary><c>slirp_handle_timer(slirp, id, cb_opaque)</c>.</summary>
    public delegate* unmanaged[Cdecl]<nint, int, nint, void> HandleTimer { get; }

    /// <summary><c>slirp_add_hostxfwd(slirp, host address, its length, guest address, its length, flags)</c>; -1 and errno on failure.</summary>
    public delegate* unmanaged[Cdecl]<nint, byte*, uint, byte*, uint, int, int> AddForward { get; }

    private delegate* unmanaged[Cdecl]<byte*> VersionString { get; }

    /// <summary>The library, or null and why it cannot be used: one line that names the package.</summary>
    public static SlirpLibrary? TryLoad(out string? problem)
    {
        (SlirpLibrary? library, problem) = Loaded.Value;
        return library;
    }

    /// <summary>Loads a file. The variables of the library are those of the file: a copy under another name has its own.</summary>
    internal static (SlirpLibrary? Library, string? Problem) Load(string file)
    {
        if (!NativeLibrary.TryLoad(file, out nint handle))
        {
            return (null, $"user-mode networking needs {file}: install the package {Package}");
        }
        try
        {
            SlirpLibrary library = new(handle);
            string version = Marshal.PtrToStringUTF8((nint)library.VersionString()) ?? "";
            if (!Version.TryParse(version.Split('-', '+')[0], out Version? number) || number < Least)
            {
                return (null, string.Create(CultureInfo.InvariantCulture, $"user-mode networking needs libslirp {Least} or newer, and {file} is {version}: install a newer package {Package}"));
            }
            SilenceLog();
            return (library, null);
        }
        catch (EntryPointNotFoundException e)
        {
            return (null, $"user-mode networking needs libslirp {Least} or newer ({e.Message}): install a newer package {Package}");
        }
    }

    /// <summary>What a guest sends may make the library log, without bound, to standard error: its log goes nowhere.</summary>
    private static void SilenceLog()
    {
        if (NativeLibrary.TryLoad("libglib-2.0.so.0", out nint glib) && NativeLibrary.TryGetExport(glib, "g_log_set_handler", out nint export))
        {
            // guint g_log_set_handler(domain, levels, function, user_data); all levels but fatal ones.
            const int Levels = 0xFF & ~3;
            fixed (byte* domain = "Slirp\0"u8)
            {
                ((delegate* unmanaged[Cdecl]<byte*, int, delegate* unmanaged[Cdecl]<byte*, int, byte*, nint, void>, nint, uint>)export)(domain, Levels, &Discard, 0);
            }
        }
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(System.Runtime.CompilerServices.CallConvCdecl)])]
    private static void Discard(byte* domain, int level, byte* message, nint data)
    {
    }

    private nint Export(string name) => NativeLibrary.GetExport(_handle, name);
}

/// <summary>struct SlirpConfig of version 4, x86-64. Addresses are in network byte order.</summary>
[StructLayout(LayoutKind.Explicit, Size = 184)]
internal unsafe struct SlirpConfiguration
{
    [FieldOffset(0)] public uint Version;
    [FieldOffset(4)] public int Restricted;
    [FieldOffset(8)] public byte InEnabled;
    [FieldOffset(12)] public uint Network;
    [FieldOffset(16)] public uint NetworkMask;
    [FieldOffset(20)] public uint Host;
    [FieldOffset(24)] public byte In6Enabled;
    [FieldOffset(28)] public fixed byte Prefix6[16];
    [FieldOffset(44)] public byte PrefixLength6;
    [FieldOffset(48)] public fixed byte Host6[16];
    [FieldOffset(64)] public byte* HostName;
    [FieldOffset(72)] public byte* TftpServerName;
    [FieldOffset(80)] public byte* TftpPath;
    [FieldOffset(88)] public byte* BootFile;
    [FieldOffset(96)] public uint DhcpStart;
    [FieldOffset(100)] public uint NameServer;
    [FieldOffset(104)] public fixed byte NameServer6[16];
    [FieldOffset(120)] public byte** DnsSearch;
    [FieldOffset(128)] public byte* DomainName;
    [FieldOffset(136)] public nuint InterfaceMtu;
    [FieldOffset(144)] public nuint InterfaceMru;
    [FieldOffset(152)] public byte DisableHostLoopback;
    [FieldOffset(153)] public byte EnableEmu;
    [FieldOffset(160)] public nint OutboundAddress;
    [FieldOffset(168)] public nint OutboundAddress6;
    [FieldOffset(176)] public byte DisableDns;
    [FieldOffset(177)] public byte DisableDhcp;
}

/// <summary>struct SlirpCb of configuration version 4.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct SlirpCallbackTable
{
    public delegate* unmanaged[Cdecl]<byte*, nuint, nint, nint> SendPacket;
    public delegate* unmanaged[Cdecl]<byte*, nint, void> GuestError;
    public delegate* unmanaged[Cdecl]<nint, long> ClockGetNs;
    public nint TimerNew; // not used when TimerNewOpaque is there
    public delegate* unmanaged[Cdecl]<nint, nint, void> TimerFree;
    public delegate* unmanaged[Cdecl]<nint, long, nint, void> TimerModify;
    public delegate* unmanaged[Cdecl]<int, nint, void> RegisterPoll;
    public delegate* unmanaged[Cdecl]<int, nint, void> UnregisterPoll;
    public delegate* unmanaged[Cdecl]<nint, void> Notify;
    public delegate* unmanaged[Cdecl]<nint, nint, void> InitCompleted;
    public delegate* unmanaged[Cdecl]<int, nint, nint, nint> TimerNewOpaque;
}
