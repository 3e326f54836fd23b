using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Threading.Tasks.Sources;
using Lodge.Storage.Files;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Nbd;

/// <summary>A plain TCP or unix socket.</summary>
internal sealed partial class SocketChannel : NbdChannel, IValueTaskSource, IIoWork
{
    private const int SocketBuffer = 2 << 20;
    private const int EIntr = 4;
    private const int EAgain = 11;
    private const int MsgDontWait = 0x40;
    private const int MsgNoSignal = 0x4000;
    private const int MsgWaitAll = 0x100;
    private const int Long = 64 * 1024; // a receive of more is of a payload, whose end the host may wait for
    private const int MsgMore = 0x8000;
    private const short PollIn = 1;
    private const short PollOut = 4;
    private const long SendFilePiece = 1 << 20;
    private const int CopiedPiece = 16 * 1024;

    private byte[]? _copied;
    private ManualResetValueTaskSourceCore<bool> _sent = new() { RunContinuationsAsynchronously = true };
    private ReadOnlyMemory<byte> _unsent;

    /// <summary>Takes a connected socket.</summary>
    /// <param name="socket">It; owned from now on.</param>
    /// <param name="waitsInPlace">See <see cref="WaitsInPlace"/>; only for a socket that never worked asynchronously.</param>
    public SocketChannel(Socket socket, bool waitsInPlace = false)
    {
        Socket = socket;
        WaitsInPlace = waitsInPlace;
        if (!waitsInPlace)
        {
            socket.Blocking = false; // .NET never takes that back
        }

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

    /// <summary>
    /// Whether a receive that must wait does so on the calling thread, and a send that must wait on one of <see cref="IoThreads"/>. Neither then hears of
    /// cancellation: <see cref="Abort"/> ends them.
    /// </summary>
    public bool WaitsInPlace { get; }

    public override ValueTask<int> ReceiveAsync(Memory<byte> destination, CancellationToken cancellation) =>
        WaitsInPlace ? ReceiveInPlace(destination.Span) : Socket.ReceiveAsync(destination, SocketFlags.None, cancellation);

    public override ValueTask SendAsync(ReadOnlyMemory<byte> source, CancellationToken cancellation)
    {
        if (WaitsInPlace)
        {
            return SendInPlace(source);
        }

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

    void IIoWork.Run()
    {
        try
        {
            while (!TrySend(ref _unsent))
            {
                Wait(PollOut);
            }

            _sent.SetResult(true);
        }
        catch (Exception failure)
        {
            _sent.SetException(failure);
        }
    }

    void IValueTaskSource.GetResult(short token)
    {
        try
        {
            _sent.GetResult(token);
        }
        finally
        {
            _unsent = default;
            _sent.Reset();
        }
    }

    ValueTaskSourceStatus IValueTaskSource.GetStatus(short token) => _sent.GetStatus(token);

    void IValueTaskSource.OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) => _sent.OnCompleted(continuation, state, token, flags);

    private ValueTask<int> ReceiveInPlace(Span<byte> destination)
    {
        while (true)
        {
            var count = recv(Socket.SafeHandle, destination, (nuint)destination.Length, destination.Length > Long ? MsgWaitAll : 0);
            if (count >= 0)
            {
                return ValueTask.FromResult((int)count);
            }

            switch (Marshal.GetLastPInvokeError())
            {
                case EIntr:
                    break;
                case EAgain:
                    Wait(PollIn);
                    break;
                case var error:
                    return ValueTask.FromException<int>(new IOException($"recv: {Marshal.GetPInvokeErrorMessage(error)}"));
            }
        }
    }

    /// <summary>Sends what the host takes at once here, and the rest where waiting keeps nobody from work. One caller sends at a time.</summary>
    private ValueTask SendInPlace(ReadOnlyMemory<byte> source)
    {
        try
        {
            if (TrySend(ref source))
            {
                return ValueTask.CompletedTask;
            }
        }
        catch (IOException failure)
        {
            return ValueTask.FromException(failure);
        }

        _unsent = source;
        var task = new ValueTask(this, _sent.Version);
        IoThreads.Queue(this);
        return task;
    }

    /// <summary>True when all was sent; false when the host takes no more now.</summary>
    private bool TrySend(ref ReadOnlyMemory<byte> source)
    {
        while (source.Length > 0)
        {
            var count = send(Socket.SafeHandle, source.Span, (nuint)source.Length, MsgDontWait | MsgNoSignal);
            if (count >= 0)
            {
                source = source[(int)count..];
                continue;
            }

            switch (Marshal.GetLastPInvokeError())
            {
                case EIntr:
                    break;
                case EAgain:
                    return false;
                case var error:
                    throw new IOException($"send: {Marshal.GetPInvokeErrorMessage(error)}");
            }
        }

        return true;
    }

    /// <summary>Waits until the socket is ready, or shut down.</summary>
    private void Wait(short events)
    {
        var added = false;
        try
        {
            Socket.SafeHandle.DangerousAddRef(ref added);
            var place = new PollPlace { Descriptor = (int)Socket.SafeHandle.DangerousGetHandle(), Events = events };
            poll(ref place, 1, -1); // interrupted, or ready with an error: the next call tells
        }
        finally
        {
            if (added)
            {
                Socket.SafeHandle.DangerousRelease();
            }
        }
    }

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

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recv(SafeHandle socket, Span<byte> data, nuint length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int poll(ref PollPlace places, nuint count, int milliseconds);

    /// <summary>struct pollfd.</summary>
    private struct PollPlace
    {
        public int Descriptor;
        public short Events;
        public short Happened;
    }
}
