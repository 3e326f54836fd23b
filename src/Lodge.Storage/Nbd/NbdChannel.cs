using System.Net.Sockets;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Nbd;

/// <summary>The stream of bytes between two peers. One caller sends and one receives at a time; both may run at once.</summary>
/// <remarks>Failures are <see cref="IOException"/>, <see cref="SocketException"/>, <see cref="ObjectDisposedException"/> or <see cref="OperationCanceledException"/>.</remarks>
internal abstract class NbdChannel : IDisposable
{
    /// <summary>Whether <see cref="SendFileAsync"/> works.</summary>
    public virtual bool CanSendFile => false;

    /// <summary>Receives at least one byte; 0 at the end of the stream.</summary>
    public abstract ValueTask<int> ReceiveAsync(Memory<byte> destination, CancellationToken cancellation);

    /// <summary>Sends all bytes.</summary>
    public abstract ValueTask SendAsync(ReadOnlyMemory<byte> source, CancellationToken cancellation);

    /// <summary>Sends a header and a range of a file, which is not copied through this process.</summary>
    /// <exception cref="IOException">The file ended or could not be read: part of the range may have been sent.</exception>
    public virtual ValueTask SendFileAsync(ReadOnlyMemory<byte> head, SafeFileHandle file, long offset, long length, CancellationToken cancellation) => throw new NotSupportedException();

    /// <summary>Tells the peer that nothing follows.</summary>
    public abstract ValueTask FinishAsync(CancellationToken cancellation);

    /// <summary>Ends the connection; what waits on it fails.</summary>
    public abstract void Abort();

    /// <inheritdoc/>
    public abstract void Dispose();

    /// <summary>Whether an exception says that the connection is gone or was ended, rather than that this program is wrong.</summary>
    public static bool IsGone(Exception failure) =>
        failure is IOException or SocketException or ObjectDisposedException or OperationCanceledException or NbdProtocolException;
}
