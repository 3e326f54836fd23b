using System.Net.Sockets;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Nbd;

/// <summary>A plain TCP or unix socket.</summary>
internal sealed partial class SocketChannel : NbdChannel
{
    private const int SocketBuffer = 2 << 20;
    private const int EIntr = 4;
    private const int EAgain = 11;
    private const short PollOut = 4;
    private const int PollPatience = 100; // milliseconds between looks at the cancellation
    private const long SendFilePiece = 1 << 20;

    public SocketChannel(Socket socket)
    {
        Socket = socket;
        socket.SendBufferSize = SocketBuffer; // the host cuts it to what it allows
        if (socket.AddressFamily != AddressFamily.Unix)
        {
            socket.NoDelay = true;
            socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
        }
    }

    /// <summary>The socket.</summary>
    public Socket Socket { get; }

    public override bool CanSendFile => true;

    public override ValueTask<int> ReceiveAsync(Memory<byte> destination, CancellationToken cancellation) => Socket.ReceiveAsync(destination, SocketFlags.None, cancellation);

    public override ValueTask SendAsync(ReadOnlyMemory<byte> source, CancellationToken cancellation)
    {
        var sent = Socket.SendAsync(source, SocketFlags.None, cancellation);
        return sent.IsCompletedSuccessfully && sent.Result == source.Length ? ValueTask.CompletedTask : FinishSendAsync(sent, source, cancellation);
    }

    public override async ValueTask SendFileAsync(SafeFileHandle file, long offset, long length, CancellationToken cancellation)
    {
        while (length > 0)
        {
            var count = sendfile(Socket.SafeHandle, file, ref offset, (nuint)Math.Min(length, SendFilePiece));
            if (count > 0)
            {
                length -= count;
                continue;
            }

            switch (count == 0 ? 0 : Marshal.GetLastPInvokeError())
            {
                case EIntr:
                    break;
                case EAgain:
                    await WritableAsync(cancellation).ConfigureAwait(false);
                    break;
                case 0:
                    throw new EndOfStreamException("the file is shorter than the disk");
                case var error:
                    throw new IOException($"sendfile: {Marshal.GetPInvokeErrorMessage(error)}");
            }
        }
    }

    public override ValueTask FinishAsync(CancellationToken cancellation)
    {
        Socket.Shutdown(SocketShutdown.Send);
        return ValueTask.CompletedTask;
    }

    public override void Abort()
    {
        try
        {
            Socket.Shutdown(SocketShutdown.Both); // wakes what waits; the number of the descriptor stays taken until Dispose
        }
        catch (Exception failure) when (failure is SocketException or ObjectDisposedException)
        {
        }
    }

    public override void Dispose() => Socket.Dispose();

    private async ValueTask FinishSendAsync(ValueTask<int> first, ReadOnlyMemory<byte> source, CancellationToken cancellation)
    {
        for (var left = source[await first.ConfigureAwait(false)..]; left.Length > 0;)
        {
            left = left[await Socket.SendAsync(left, SocketFlags.None, cancellation).ConfigureAwait(false)..];
        }
    }

    /// <summary>Waits until the socket takes bytes. The pool's thread is lent to poll(2), because sockets of .NET tell readiness only for their own operations.</summary>
    private ValueTask WritableAsync(CancellationToken cancellation)
    {
        var ask = new PollDescriptor { Descriptor = (int)Socket.Handle, Events = PollOut };
        while (poll(ref ask, 1, PollPatience) == 0)
        {
            cancellation.ThrowIfCancellationRequested();
        }

        return ValueTask.CompletedTask;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendfile(SafeHandle destination, SafeFileHandle source, ref long offset, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int poll(ref PollDescriptor descriptors, nuint count, int timeout);

    private struct PollDescriptor
    {
        public int Descriptor;
        public short Events;
        public short Occurred;
    }
}
