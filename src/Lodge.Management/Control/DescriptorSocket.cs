using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Control;

/// <summary>
/// Open files over a Unix socket (unix(7), SCM_RIGHTS; cmsg(3)), which .NET has no face for: all unsafe code of the control socket. A peer may send anything: what was not asked for is closed, and is an
/// error.
/// </summary>
/// <param name="socket">The connection; it stays the caller's.</param>
internal sealed unsafe partial class DescriptorSocket(Socket socket)
{
    /// <summary>Most descriptors in one message; the kernel takes 253.</summary>
    private const int MostAtOnce = 64;

    private const int LevelSocket = 1, Rights = 1;              // SOL_SOCKET, SCM_RIGHTS
    private const int HeaderBytes = 16;                         // struct cmsghdr: its length as size_t, level, type
    private const int ControlBytes = HeaderBytes + (MostAtOnce * sizeof(int));
    private const int CloseOnExec = 0x4000_0000, NoSignal = 0x4000, ControlTruncated = 0x8; // MSG_CMSG_CLOEXEC, MSG_NOSIGNAL, MSG_CTRUNC
    private const int ErrorInterrupted = 4, ErrorTryAgain = 11;

    /// <summary>Sends open files; they stay open here.</summary>
    /// <exception cref="IOException">The peer has gone, or takes nothing.</exception>
    public void Send(IReadOnlyList<SafeFileHandle> files, TimeSpan patience)
    {
        for (int sent = 0; sent < files.Count;)
        {
            int count = Math.Min(MostAtOnce, files.Count - sent);
            Wait(SelectMode.SelectWrite, patience);
            if (SendSome(files, sent, count))
            {
                sent += count;
            }
        }
    }

    /// <summary>Sends open files in one message, as many as the kernel takes: what no peer here does. For tests.</summary>
    internal void SendAtOnce(IReadOnlyList<SafeFileHandle> files) => SendSome(files, 0, files.Count);

    /// <summary>Receives exactly so many open files.</summary>
    /// <returns>The files, which are closed by their receiver.</returns>
    /// <exception cref="IOException">The peer sends something else, or nothing in this time; all that it has sent is closed.</exception>
    public IReadOnlyList<SafeFileHandle> Receive(int count, TimeSpan patience)
    {
        List<SafeFileHandle> files = [];
        try
        {
            while (files.Count < count)
            {
                Wait(SelectMode.SelectRead, patience);
                ReceiveSome(files);
                if (files.Count > count)
                {
                    throw new IOException($"the peer sent more than the {count} open files that it had announced");
                }
            }
            return files;
        }
        catch
        {
            files.ForEach(static file => file.Dispose());
            throw;
        }
    }

    private void Wait(SelectMode what, TimeSpan patience)
    {
        if (!socket.Poll(patience, what))
        {
            throw new IOException($"the peer {(what == SelectMode.SelectRead ? "sent no open files" : "took no open files")} for {patience.TotalSeconds:0} s");
        }
    }

    /// <returns>Whether the message went out.</returns>
    private bool SendSome(IReadOnlyList<SafeFileHandle> files, int from, int count)
    {
        byte* control = stackalloc byte[HeaderBytes + (count * sizeof(int)) + 8];
        *(nuint*)control = (nuint)(HeaderBytes + (count * sizeof(int)));
        ((int*)control)[2] = LevelSocket;
        ((int*)control)[3] = Rights;
        for (int i = 0; i < count; i++)
        {
            ((int*)(control + HeaderBytes))[i] = (int)files[from + i].DangerousGetHandle();
        }
        byte data = 0;
        Piece piece = new() { Base = &data, Length = 1 };
        // cmsg(3): the room is a multiple of 8.
        Message message = new() { Pieces = &piece, Count = 1, Control = control, ControlLength = (nuint)((HeaderBytes + (count * sizeof(int)) + 7) & ~7) };
        if (sendmsg(socket.SafeHandle, &message, NoSignal) == 1)
        {
            return true;
        }
        return Marshal.GetLastPInvokeError() is ErrorInterrupted or ErrorTryAgain ? false : throw new IOException($"the open files cannot be sent: {Marshal.GetLastPInvokeErrorMessage()}");
    }

    private void ReceiveSome(List<SafeFileHandle> files)
    {
        byte* control = stackalloc byte[ControlBytes];
        byte data;
        Piece piece = new() { Base = &data, Length = 1 };
        Message message = new() { Pieces = &piece, Count = 1, Control = control, ControlLength = ControlBytes };
        nint got = recvmsg(socket.SafeHandle, &message, CloseOnExec);
        if (got < 0)
        {
            if (Marshal.GetLastPInvokeError() is ErrorInterrupted or ErrorTryAgain)
            {
                return;
            }
            throw new IOException($"no open files come: {Marshal.GetLastPInvokeErrorMessage()}");
        }
        int before = files.Count;
        for (byte* at = control, end = control + (nint)message.ControlLength; end - at >= HeaderBytes;)
        {
            nuint length = *(nuint*)at;
            if (length < HeaderBytes || length > (nuint)(end - at))
            {
                break;
            }
            if (((int*)at)[2] == LevelSocket && ((int*)at)[3] == Rights)
            {
                for (int i = 0; i < ((int)length - HeaderBytes) / sizeof(int); i++)
                {
                    files.Add(new SafeFileHandle(((int*)(at + HeaderBytes))[i], ownsHandle: true));
                }
            }
            at += (nint)((length + 7) & ~(nuint)7);
        }
        if (got == 0)
        {
            throw new IOException("the peer has gone before all open files had come");
        }
        if ((message.Flags & ControlTruncated) != 0 || files.Count == before)
        {
            throw new IOException(files.Count == before ? "the peer sent something else than open files" : $"the peer sent more than {MostAtOnce} open files at once, or there is no room for them");
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendmsg(SafeSocketHandle socket, Message* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recvmsg(SafeSocketHandle socket, Message* message, int flags);

    /// <summary>struct iovec.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Piece
    {
        public void* Base;
        public nuint Length;
    }

    /// <summary>struct msghdr.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct Message
    {
        public void* Name;
        public uint NameLength;
        public Piece* Pieces;
        public nuint Count;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }
}
