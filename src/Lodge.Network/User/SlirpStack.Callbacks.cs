using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Lodge.Network.User;

/// <summary>Takes the frames that a stack sends to the guest.</summary>
internal interface IFrameSink
{
    /// <summary>Takes one; it drops what it has no room for.</summary>
    void Deliver(ReadOnlySpan<byte> frame);
}

/// <content>The functions that libslirp calls, always within a call into it. None lets an exception through.</content>
internal sealed unsafe partial class SlirpStack
{
    private bool _failed;

    private static SlirpCallbackTable Callbacks => new()
    {
        SendPacket = &SendPacket,
        GuestError = &GuestError,
        ClockGetNs = &ClockGetNs,
        TimerFree = &TimerFree,
        TimerModify = &TimerModify,
        RegisterPoll = &IgnoreDescriptor,
        UnregisterPoll = &IgnoreDescriptor,
        Notify = &Notify,
        InitCompleted = &InitCompleted,
        TimerNewOpaque = &TimerNew,
    };

    private static SlirpStack Of(nint opaque) => Unsafe.As<SlirpStack>(GCHandle.FromIntPtr(opaque).Target!);

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static nint SendPacket(byte* packet, nuint length, nint opaque)
    {
        if (length is > 0 and <= ushort.MaxValue + 64)
        {
            Of(opaque)._sink.Deliver(new ReadOnlySpan<byte>(packet, (int)length));
        }
        return (nint)length;
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void GuestError(byte* message, nint opaque) => Of(opaque).GuestErrors++;

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static long ClockGetNs(nint opaque) => Now();

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static nint TimerNew(int id, nint timerOpaque, nint opaque)
    {
        Timer[] timers = Of(opaque)._timers;
        int index = Array.FindIndex(timers, t => !t.Used); // one is made for each SlirpTimerId
        if (index < 0)
        {
            return 0;
        }
        timers[index] = new Timer { Used = true, Id = id, Opaque = timerOpaque, Expires = long.MaxValue };
        return index + 1;
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void TimerFree(nint timer, nint opaque)
    {
        if (timer != 0)
        {
            Of(opaque)._timers[timer - 1] = default;
        }
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void TimerModify(nint timer, long expires, nint opaque)
    {
        if (timer != 0)
        {
            Of(opaque)._timers[timer - 1].Expires = expires;
        }
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void IgnoreDescriptor(int descriptor, nint opaque)
    {
        // Every descriptor is asked for anew before each wait.
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void Notify(nint opaque)
    {
        // Comes from calls on the stack's own thread only, which goes on to poll.
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static void InitCompleted(nint slirp, nint opaque) => Of(opaque)._slirp = slirp; // timers may be set before slirp_new returns

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static int AddPoll(int descriptor, int events, nint opaque)
    {
        SlirpStack stack = Of(opaque);
        if (stack._descriptorCount == stack._descriptors.Length)
        {
            Array.Resize(ref stack._descriptors, stack._descriptors.Length * 2);
        }
        int wanted = (stack._reading ? events : events & ~(PollIn | PollPriority)) switch
        {
            var e => ((e & PollIn) != 0 ? HostPoll.In : 0) | ((e & PollOut) != 0 ? HostPoll.Out : 0) | ((e & PollPriority) != 0 ? HostPoll.Priority : 0),
        };
        // A negative descriptor is not polled: a hang-up would be reported again and again while nothing is read.
        bool ignored = !stack._reading && wanted == 0;
        stack._descriptors[stack._descriptorCount] = new PollDescriptor { Descriptor = ignored ? -1 : descriptor, Events = (short)wanted };
        return stack._descriptorCount++;
    }

    [UnmanagedCallersOnly(CallConvs = [typeof(CallConvCdecl)])]
    private static int GetReturned(int index, nint opaque)
    {
        SlirpStack stack = Of(opaque);
        if ((uint)index >= (uint)stack._descriptorCount)
        {
            return 0;
        }
        int returned = stack._descriptors[index].Returned;
        return ((returned & HostPoll.In) != 0 ? PollIn : 0) | ((returned & HostPoll.Out) != 0 ? PollOut : 0) | ((returned & HostPoll.Priority) != 0 ? PollPriority : 0)
            | ((returned & HostPoll.Error) != 0 ? PollError : 0) | ((returned & HostPoll.HangUp) != 0 ? PollHangUp : 0);
    }
}
