using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Network.Taps;

/// <summary>
/// The Linux system calls under taps (tun(4), Documentation/networking/tuntap.rst, netdevice(7), epoll(7), rtnetlink(7)); all of this folder's unsafe code.
/// Results below 0 are negated error numbers.
/// </summary>
internal static unsafe partial class TapSystemCalls
{
    public const int NotPermitted = 1, NoEntry = 2, Interrupted = 4, InputOutput = 5, NoDeviceOrAddress = 6, TryAgain = 11, Denied = 13, Busy = 16, NoDevice = 19, Invalid = 22,
        BadDescriptorState = 77;

    public const short FlagTap = 0x0002, FlagMultiQueue = 0x0100, FlagNoPacketInformation = 0x1000, FlagVnetHeader = 0x4000;
    public const ulong SetInterface = 0x4004_54CA, SetOffload = 0x4004_54D0, SetVnetHeaderSize = 0x4004_54D8;
    public const uint OffloadChecksum = 0x01, OffloadTcpV4 = 0x02, OffloadTcpV6 = 0x04, OffloadTcpEcn = 0x08, OffloadUdpV4 = 0x20, OffloadUdpV6 = 0x40;

    public const ulong GetFlags = 0x8913, SetFlags = 0x8914, GetMtu = 0x8921, SetMtu = 0x8922, GetIndex = 0x8933;
    public const short InterfaceUp = 0x1, InterfaceRunning = 0x40;

    public const uint EventIn = 0x001, EventOut = 0x004, EventOneShot = 1u << 30;
    public const int EpollAdd = 1, EpollDelete = 2, EpollModify = 3;

    private const int OpenReadWrite = 2, OpenNonBlocking = 0x800, OpenCloseOnExec = 0x80000;
    private const int FamilyInternet = 2, FamilyNetlink = 16, SocketDatagram = 2, SocketRaw = 3, SocketNonBlocking = 0x800, SocketCloseOnExec = 0x80000;
    private const int EpollCloseOnExec = 0x80000;

    /// <summary>struct ifreq with the members used here: 16 bytes of name, a union of 24.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 40)]
    public struct InterfaceRequest
    {
        [FieldOffset(0)]
        public fixed byte Name[16];

        [FieldOffset(16)]
        public short Flags;

        [FieldOffset(16)]
        public int Number;
    }

    [StructLayout(LayoutKind.Sequential)]
    public struct Piece
    {
        public void* Base;
        public nuint Length;
    }

    /// <summary>struct epoll_event, packed on x86-64.</summary>
    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    public struct EpollEvent
    {
        public uint Events;
        public long Data;
    }

    /// <summary>struct sockaddr_nl.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct NetlinkAddress
    {
        public ushort Family;
        public ushort Padding;
        public uint Port;
        public uint Groups;
    }

    /// <summary>A new descriptor of <c>/dev/net/tun</c>, non-blocking.</summary>
    public static SafeFileHandle? OpenTun(out int error) => Owned(open("/dev/net/tun", OpenReadWrite | OpenNonBlocking | OpenCloseOnExec), out error);

    /// <summary>A socket for interface requests in the network namespace of the calling thread.</summary>
    public static SafeFileHandle? OpenInterfaceSocket(out int error) => Owned(socket(FamilyInternet, SocketDatagram | SocketCloseOnExec, 0), out error);

    /// <summary>A socket that becomes readable when a link of the calling thread's network namespace changes (RTMGRP_LINK).</summary>
    public static SafeFileHandle? OpenLinkEvents(out int error)
    {
        SafeFileHandle? handle = Owned(socket(FamilyNetlink, SocketRaw | SocketNonBlocking | SocketCloseOnExec, 0), out error);
        if (handle is not null)
        {
            NetlinkAddress address = new() { Family = FamilyNetlink, Groups = 1 };
            if (bind(handle, &address, sizeof(NetlinkAddress)) != 0)
            {
                error = Marshal.GetLastPInvokeError();
                handle.Dispose();
                return null;
            }
        }
        return handle;
    }

    /// <summary>An epoll descriptor.</summary>
    public static SafeFileHandle? OpenEpoll(out int error) => Owned(epoll_create1(EpollCloseOnExec), out error);

    public static int Watch(SafeFileHandle epoll, int operation, SafeFileHandle handle, uint events, long data)
    {
        EpollEvent value = new() { Events = events, Data = data };
        return epoll_ctl(epoll, operation, handle, &value) < 0 ? -Marshal.GetLastPInvokeError() : 0;
    }

    public static int Wait(SafeFileHandle epoll, Span<EpollEvent> events)
    {
        fixed (EpollEvent* first = events)
        {
            int count = epoll_wait(epoll, first, events.Length, -1);
            return count < 0 ? -Marshal.GetLastPInvokeError() : count;
        }
    }

    public static int Control(SafeFileHandle handle, ulong request, ref InterfaceRequest argument)
    {
        fixed (InterfaceRequest* pointer = &argument)
        {
            return ioctl(handle, request, pointer) < 0 ? -Marshal.GetLastPInvokeError() : 0;
        }
    }

    public static int Control(SafeFileHandle handle, ulong request, nint argument) => ioctl(handle, request, (void*)argument) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    public static int ControlNumber(SafeFileHandle handle, ulong request, int argument) => ioctl(handle, request, &argument) < 0 ? -Marshal.GetLastPInvokeError() : 0;

    /// <summary>Writes the pieces as one packet.</summary>
    public static int Write(SafeFileHandle handle, Piece* pieces, int count)
    {
        nint done = writev(handle, pieces, count);
        return done < 0 ? -Marshal.GetLastPInvokeError() : (int)done;
    }

    /// <summary>Reads one packet into the pieces; its length may be more than theirs.</summary>
    public static int Read(SafeFileHandle handle, Piece* pieces, int count)
    {
        nint done = readv(handle, pieces, count);
        return done < 0 ? -Marshal.GetLastPInvokeError() : (int)done;
    }

    /// <summary>Reads and forgets whatever a socket has.</summary>
    public static void Drain(SafeFileHandle handle)
    {
        byte* scratch = stackalloc byte[4096];
        Piece piece = new() { Base = scratch, Length = 4096 };
        while (true)
        {
            nint got = readv(handle, &piece, 1);
            if (got == 0 || (got < 0 && Marshal.GetLastPInvokeError() == TryAgain))
            {
                return; // other errors are the socket's overflow (ENOBUFS), reported once
            }
        }
    }

    private static SafeFileHandle? Owned(int descriptor, out int error)
    {
        error = descriptor < 0 ? Marshal.GetLastPInvokeError() : 0;
        return descriptor < 0 ? null : new SafeFileHandle(descriptor, ownsHandle: true);
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int socket(int family, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int bind(SafeFileHandle socket, NetlinkAddress* address, int length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(SafeFileHandle handle, ulong request, void* argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint readv(SafeFileHandle handle, Piece* pieces, int count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint writev(SafeFileHandle handle, Piece* pieces, int count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_create1(int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_ctl(SafeFileHandle epoll, int operation, SafeFileHandle handle, EpollEvent* value);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_wait(SafeFileHandle epoll, EpollEvent* events, int maximum, int timeout);
}
