using System.ComponentModel;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Lodge.Network.User;

/// <summary>struct pollfd, see poll(2).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PollDescriptor
{
    public int Descriptor;
    public short Events;
    public short Returned;
}

/// <summary>The host's poll, and an event that ends it.</summary>
internal sealed unsafe partial class HostPoll : IDisposable
{
    public const short In = 0x01, Priority = 0x02, Out = 0x04, Error = 0x08, HangUp = 0x10;
    private const int EventCloseOnExec = 0x80000, EventNonBlocking = 0x800;
    private const int Interrupted = 4;

    private int _event;

    /// <summary>Creates it.</summary>
    /// <exception cref="NetworkException">The host gives no descriptor.</exception>
    public HostPoll()
    {
        _event = EventFd(0, EventCloseOnExec | EventNonBlocking);
        if (_event < 0)
        {
            throw new NetworkException($"an event descriptor cannot be had: {new Win32Exception(Marshal.GetLastSystemError()).Message}");
        }
    }

    /// <summary>Descriptor of the event; readable once it is signalled.</summary>
    public int Event => _event;

    /// <summary>Signals the event. Any thread.</summary>
    public void Signal()
    {
        ulong one = 1;
        _ = Write(_event, &one, sizeof(ulong)); // fails only when it is signalled already
    }

    /// <summary>Takes the signal back.</summary>
    public void Reset()
    {
        ulong count;
        _ = Read(_event, &count, sizeof(ulong));
    }

    /// <summary>Waits until a descriptor is ready or the time is over; false on an error other than an interruption, which counts as the time's end.</summary>
    public static bool Wait(Span<PollDescriptor> descriptors, long timeoutNanoseconds)
    {
        TimeSpecification time = new() { Seconds = timeoutNanoseconds / 1_000_000_000, Nanoseconds = timeoutNanoseconds % 1_000_000_000 };
        fixed (PollDescriptor* first = descriptors)
        {
            int ready = PPoll(first, (nuint)descriptors.Length, timeoutNanoseconds < 0 ? null : &time, 0);
            if (ready < 0 && Marshal.GetLastSystemError() is var error)
            {
                foreach (ref PollDescriptor descriptor in descriptors)
                {
                    descriptor.Returned = 0; // what was not polled has no result
                }
                return error == Interrupted;
            }
            return true;
        }
    }

    /// <summary>Local address of a socket, or null when it has none of IPv4 or IPv6.</summary>
    public static IPEndPoint? LocalAddress(int socket)
    {
        Span<byte> bytes = stackalloc byte[28];
        uint length = (uint)bytes.Length;
        fixed (byte* address = bytes)
        {
            return GetSockName(socket, address, &length) == 0 ? SocketAddressBytes.Read(bytes[..(int)Math.Min(length, (uint)bytes.Length)]) : null;
        }
    }

    /// <summary>Whether a socket is one of streams (TCP).</summary>
    public static bool IsStream(int socket)
    {
        const int SolSocket = 1, SoType = 3;
        int type = 0;
        uint length = sizeof(int);
        return GetSockOpt(socket, SolSocket, SoType, &type, &length) == 0 && type == (int)SocketType.Stream;
    }

    public void Dispose()
    {
        int descriptor = Interlocked.Exchange(ref _event, -1);
        if (descriptor >= 0)
        {
            _ = Close(descriptor);
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct TimeSpecification
    {
        public long Seconds;
        public long Nanoseconds;
    }

    [LibraryImport("libc", EntryPoint = "eventfd")]
    private static partial int EventFd(uint initial, int flags);

    [LibraryImport("libc", EntryPoint = "ppoll")]
    private static partial int PPoll(PollDescriptor* descriptors, nuint count, TimeSpecification* timeout, nint signals);

    [LibraryImport("libc", EntryPoint = "read")]
    private static partial nint Read(int descriptor, void* buffer, nuint count);

    [LibraryImport("libc", EntryPoint = "write")]
    private static partial nint Write(int descriptor, void* buffer, nuint count);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int descriptor);

    [LibraryImport("libc", EntryPoint = "getsockname")]
    private static partial int GetSockName(int socket, byte* address, uint* length);

    [LibraryImport("libc", EntryPoint = "getsockopt")]
    private static partial int GetSockOpt(int socket, int level, int option, void* value, uint* length);
}
