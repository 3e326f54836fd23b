using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>One request under way on the server: runs it on the disk and builds its reply ("Request types"). Reused.</summary>
internal sealed partial class NbdServerRequest(NbdServerConnection connection) : IThreadPoolWorkItem
{
    private const long ZeroPiece = 1L << 30;
    private const int SmallLength = MaximumPieces * (NbdProtocol.ExtendedReplyLength + 12);
    private const int CachePiece = 1 << 20;

    private readonly byte[] _small = GC.AllocateUninitializedArray<byte>(SmallLength, pinned: true);
    private readonly NbdExport _export = connection.Session.Export;
    private readonly NbdHeaderStyle _style = connection.Session.Style;
    private NbdRequestHeader _header;
    private long _reserved;
    private NbdBuffer? _payload;
    private int _payloadLength;

    /// <summary>Starts with a new request, for which so much memory was reserved.</summary>
    public void Begin(NbdRequestHeader header, long reserved)
    {
        _header = header;
        _reserved = reserved;
        _sendCount = 0;
    }

    /// <summary>Ends; gives the memory that was reserved.</summary>
    public long End()
    {
        FreePayload();
        return _reserved;
    }

    /// <summary>Room for the bytes that follow the request.</summary>
    public Memory<byte> RentPayload(int length)
    {
        _payload = NbdBuffer.Rent(length);
        _payloadLength = length;
        return _payload.Payload(length);
    }

    /// <summary>Runs the request; completes on its own.</summary>
    public void Execute() => _ = ExecuteAsync();

    private async Task ExecuteAsync()
    {
        var error = NbdError.None;
        try
        {
            error = Check();
            if (error == NbdError.None)
            {
                switch (_header.Command)
                {
                    case NbdCommand.Read:
                        await ReadAsync().ConfigureAwait(false);
                        break;
                    case NbdCommand.BlockStatus:
                        error = await BlockStatusAsync().ConfigureAwait(false);
                        break;
                    default:
                        await ChangeAsync().ConfigureAwait(false);
                        FreePayload();
                        BuildAcknowledgement();
                        break;
                }
            }
        }
        catch (DiskException failure)
        {
            error = Translate(failure.Error);
        }
        catch (Exception failure) when (failure is OperationCanceledException or ObjectDisposedException)
        {
            error = NbdError.Shutdown;
        }
        catch (Exception)
        {
            error = NbdError.Io; // a fault of a disk ends this request, not the server
        }

        if (error != NbdError.None)
        {
            FreePayload();
            BuildError(error);
        }

        connection.Complete(this);
    }

    private long Offset => (long)_header.Offset;

    /// <summary>Flags, permission and range ("Request types", "Error values").</summary>
    private NbdError Check()
    {
        var known = _header.Command switch
        {
            NbdCommand.Read => _style == NbdHeaderStyle.Simple ? NbdCommandFlags.None : NbdCommandFlags.Df,
            NbdCommand.Write => _style == NbdHeaderStyle.Extended ? NbdCommandFlags.PayloadLen : NbdCommandFlags.None,
            NbdCommand.WriteZeroes => NbdCommandFlags.NoHole | NbdCommandFlags.FastZero,
            NbdCommand.BlockStatus => NbdCommandFlags.ReqOne | (_style == NbdHeaderStyle.Extended ? NbdCommandFlags.PayloadLen : NbdCommandFlags.None),
            _ => NbdCommandFlags.None,
        };
        if ((_header.Flags & ~(known | NbdCommandFlags.Fua)) != 0)
        {
            return NbdError.Inval;
        }

        var length = _header.Length;
        switch (_header.Command)
        {
            case NbdCommand.Flush:
                return _header.Offset == 0 && length == 0 ? NbdError.None : NbdError.Inval;
            case NbdCommand.Resize:
                return !_export.AllowResize || _export.IsReadOnly ? NbdError.Perm : _header.Offset > long.MaxValue ? NbdError.Inval : NbdError.None;
            case NbdCommand.Write or NbdCommand.WriteZeroes or NbdCommand.Trim when _export.IsReadOnly:
                return NbdError.Perm;
            case NbdCommand.Write when _style == NbdHeaderStyle.Extended && (_header.Flags & NbdCommandFlags.PayloadLen) == 0:
                return NbdError.Inval;
            case NbdCommand.Read when length > NbdProtocol.MaximumPayload:
                return _style == NbdHeaderStyle.Simple ? NbdError.Inval : NbdError.Overflow;
            case NbdCommand.Read or NbdCommand.Write or NbdCommand.WriteZeroes or NbdCommand.Trim or NbdCommand.Cache:
                break;
            case NbdCommand.BlockStatus when (_header.Flags & NbdCommandFlags.PayloadLen) != 0:
                length = 1; // the length is in the payload
                break;
            case NbdCommand.BlockStatus:
                break;
            default:
                return NbdError.Inval;
        }

        if (_header.Offset > long.MaxValue || length > _export.Disk.Length || Offset > _export.Disk.Length - length)
        {
            return _header.Command is NbdCommand.Write or NbdCommand.WriteZeroes ? NbdError.NoSpc : NbdError.Inval;
        }

        return NbdError.None;
    }

    /// <summary>All requests whose reply carries no data.</summary>
    private ValueTask ChangeAsync()
    {
        var disk = _export.Disk;
        var durable = (_header.Flags & NbdCommandFlags.Fua) != 0;
        return _header.Command switch
        {
            NbdCommand.Write => disk.WriteAsync(Offset, _payload is null ? default : _payload.Payload(_payloadLength), durable ? WriteOptions.ForceUnitAccess : WriteOptions.None),
            NbdCommand.Flush => disk.IsReadOnly ? ValueTask.CompletedTask : disk.FlushAsync(),
            NbdCommand.Trim => TrimAsync(durable),
            NbdCommand.WriteZeroes => WriteZeroesAsync(durable),
            NbdCommand.Cache => CacheAsync(),
            _ => disk.SetLengthAsync(Offset),
        };
    }

    private async ValueTask TrimAsync(bool durable)
    {
        await _export.Disk.TryDiscardAsync(Offset, _header.Length).ConfigureAwait(false);
        if (durable)
        {
            await _export.Disk.FlushAsync().ConfigureAwait(false);
        }
    }

    /// <summary>In pieces, so that a range of any length ends soon after the client is gone.</summary>
    private async ValueTask WriteZeroesAsync(bool durable)
    {
        var options = (_header.Flags & NbdCommandFlags.NoHole) != 0 ? ZeroOptions.None : ZeroOptions.MayUnmap;
        options |= (_header.Flags & NbdCommandFlags.FastZero) != 0 ? ZeroOptions.Fast : 0;
        options |= durable ? ZeroOptions.ForceUnitAccess : 0;
        long done = 0;
        do
        {
            connection.Abort.ThrowIfCancellationRequested();
            var part = Math.Min(_header.Length - done, ZeroPiece);
            await _export.Disk.ZeroAsync(Offset + done, part, options).ConfigureAwait(false);
            done += part;
        }
        while (done < _header.Length);
    }

    /// <summary>Reads the range, up to one payload's length, into the host's cache.</summary>
    private async ValueTask CacheAsync()
    {
        var scratch = NbdBuffer.Rent(CachePiece);
        var end = Offset + Math.Min(_header.Length, NbdProtocol.MaximumPayload);
        for (var at = Offset; at < end;)
        {
            var part = (int)Math.Min(end - at, CachePiece);
            await _export.Disk.ReadAsync(at, scratch.Payload(part), connection.Abort).ConfigureAwait(false);
            at += part;
        }

        scratch.Return(); // not when it failed: who knows whether the disk still writes to it
    }

    private void FreePayload()
    {
        _payload?.Return();
        _payload = null;
        _payloadLength = 0;
    }

    private static NbdError Translate(DiskError error) => error switch
    {
        DiskError.ReadOnly or DiskError.Denied => NbdError.Perm,
        DiskError.NoSpace => NbdError.NoSpc,
        DiskError.OutOfRange or DiskError.InvalidOption => NbdError.Inval,
        DiskError.Unsupported => NbdError.NotSup,
        _ => NbdError.Io,
    };
}
