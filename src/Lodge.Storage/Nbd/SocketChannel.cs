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
    private const int MsgDontWait = 0x40;
    private const int MsgNoSignal = 0x4000;
    private const int MsgMore = 0x8000;
    private const long SendFilePiece = 1 << 20;
    private const int CopiedPiece = 16 * 1024;

    private byte[]? _copied;

    public SocketChannel(Socket socket)
    {
        Socket = socket;
        socket.Blocking = false;
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

    public override async ValueTask SendFileAsync(ReadOnlyMemory<byte> head, SafeFileHandle file, long offset, long length, CancellationToken cancellation)
    {
        if (!TrySendHead(head.Span))
        {
            await SendAsync(head, cancellation).ConfigureAwait(false);
        }

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
                    // Sockets of .NET tell readiness only for their own operations: a little is copied, which waits for room for more.
                    _copied ??= GC.AllocateUninitializedArray<byte>(CopiedPiece, pinned: true);
                    var part = RandomAccess.Read(file, _copied.AsSpan(0, (int)Math.Min(length, CopiedPiece)), offset);
                    if (part == 0)
                    {
                        goto case 0;
                    }

                    await SendAsync(_copied.AsMemory(0, part), cancellation).ConfigureAwait(false);
                    offset += part;
                    length -= part;
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

    /// <summary>Sends a header that the rest of a message follows, all of it or nothing.</summary>
    private bool TrySendHead(ReadOnlySpan<byte> head)
    {
        var sent = send(Socket.SafeHandle, head, (nuint)head.Length, MsgMore | MsgDontWait | MsgNoSignal);
        return sent == head.Length || (sent > 0 ? throw new IOException("send: a header was cut") : false);
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendfile(SafeHandle destination, SafeFileHandle source, ref long offset, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint send(SafeHandle socket, ReadOnlySpan<byte> data, nuint length, int flags);
}
