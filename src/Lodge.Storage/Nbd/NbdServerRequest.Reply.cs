using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Nbd;

/// <summary>Reads, and the form of replies ("Simple reply message", "Structured reply chunk message", "Extended reply chunk message").</summary>
internal sealed partial class NbdServerRequest
{
    private const int MaximumPieces = 32; // of a read with holes; what follows is sent as data
    private const int SmallestHole = 4096; // a hole's chunk must fit where its zeroes would stand

    private const int SmallestSendFile = 32 * 1024; // below, two system calls cost more than a copy

    private readonly Piece[] _pieces = new Piece[MaximumPieces];
    private readonly Part[] _parts = new Part[2 * MaximumPieces];
    private int _sendCount;

    private int HeaderLength => _style switch
    {
        NbdHeaderStyle.Simple => NbdProtocol.SimpleReplyLength,
        NbdHeaderStyle.Structured => NbdProtocol.StructuredReplyLength,
        _ => NbdProtocol.ExtendedReplyLength,
    };

    /// <summary>Copies a short reply.</summary>
    /// <returns>False when it is long or does not fit.</returns>
    public bool TryCopy(Span<byte> destination, int longest, out int length)
    {
        length = 0;
        if (_sendCount != 1 || _parts[0].File is not null || _parts[0].Length > longest || _parts[0].Length > destination.Length)
        {
            return false;
        }

        length = _parts[0].Length;
        Source(_parts[0]).Span.CopyTo(destination);
        return true;
    }

    /// <summary>Sends the reply.</summary>
    public async ValueTask SendAsync(NbdChannel channel)
    {
        for (var index = 0; index < _sendCount; index++)
        {
            var part = _parts[index];
            await (part.File is { } file
                ? channel.SendFileAsync(Source(part), file, part.FileOffset, part.FileLength, connection.Abort)
                : channel.SendAsync(Source(part), connection.Abort)).ConfigureAwait(false);
        }
    }

    private ReadOnlyMemory<byte> Source(Part part) => (part.Small ? _small : _payload!.Bytes).AsMemory(part.Start, part.Length);

    private async ValueTask ReadAsync()
    {
        var length = (int)_header.Length;
        if (length == 0)
        {
            BuildAcknowledgement();
            return;
        }

        var pieces = 1;
        var file = length >= SmallestSendFile && connection.CanSendFile ? connection.File : null;
        var fromFile = file is { Mapped: false };
        _pieces[0] = new Piece(0, length, false, Offset);
        if (_style != NbdHeaderStyle.Simple && (_header.Flags & NbdCommandFlags.Df) == 0 && length >= SmallestHole && _export.Disk is IBlockStatus status)
        {
            fromFile = file is not null && (pieces = await FindHolesAsync(status, length, file.Mapped).ConfigureAwait(false)) > 0;
            pieces = fromFile ? pieces : await FindHolesAsync(status, length, false).ConfigureAwait(false);
        }

        if (pieces == 1 && _pieces[0].Hole)
        {
            WriteHole(_small, Offset, length, NbdReplyFlags.Done);
            Send(new Part(0, HeaderLength + 12, Small: true));
            return;
        }

        if (fromFile)
        {
            BuildFromFile(pieces, file!.Handle);
            return;
        }

        var buffer = NbdBuffer.Rent(length);
        for (var index = 0; index < pieces; index++)
        {
            var (start, count, hole, _) = _pieces[index];
            if (!hole)
            {
                // The buffer is given up, not reused, when this throws: a disk that failed may still write to it.
                await _export.Disk.ReadAsync(Offset + start, buffer.Bytes.AsMemory(buffer.Start + start, count), connection.Abort).ConfigureAwait(false);
            }
        }

        _payload = buffer;
        BuildData(pieces);
    }

    /// <summary>Splits the range into data and holes.</summary>
    /// <param name="status">The disk.</param>
    /// <param name="length">Bytes of the range.</param>
    /// <param name="mapped">Whether pieces of data are told apart by their place in the file.</param>
    /// <returns>Pieces; 0 when not all of the data is in the file, or it is there in too many pieces.</returns>
    private async ValueTask<int> FindHolesAsync(IBlockStatus status, int length, bool mapped)
    {
        var pieces = 0;
        for (var at = 0; at < length;)
        {
            var extent = await status.GetStatusAsync(Offset + at, length - at, connection.Abort).ConfigureAwait(false);
            var count = (int)Math.Clamp(extent.Length, 1, length - at);
            var hole = NbdAllocation.IsZero(extent.State) && count >= SmallestHole;
            if (mapped && !hole && (extent.Depth != 0 || extent.HostOffset < 0 || NbdAllocation.IsZero(extent.State)))
            {
                return 0;
            }

            var last = pieces > 0 ? _pieces[pieces - 1] : default;
            if (pieces > 0 && last.Hole == hole && (!mapped || hole || last.Host + last.Count == extent.HostOffset))
            {
                _pieces[pieces - 1] = last with { Count = last.Count + count };
            }
            else if (pieces < MaximumPieces)
            {
                _pieces[pieces++] = new Piece(at, count, hole, mapped ? extent.HostOffset : Offset + at);
            }
            else if (mapped)
            {
                return 0;
            }
            else
            {
                pieces -= last.Hole ? 1 : 0; // pieces of data must not be neighbours
                _pieces[pieces - 1] = _pieces[pieces - 1] with { Count = length - _pieces[pieces - 1].Start };
            }

            at = _pieces[pieces - 1].Start + _pieces[pieces - 1].Count;
        }

        return pieces;
    }

    /// <summary>
    /// Puts headers before the data that they belong to. All data pieces but the first follow a hole, in whose room of at least <see cref="SmallestHole"/> bytes
    /// the chunk of the hole (at its beginning, so that it follows the data before it) and the header of the data (at its end) find place.
    /// </summary>
    private void BuildData(int pieces)
    {
        var bytes = _payload!.Bytes;
        var runStart = -1; // bytes of the buffer that are not yet in a part
        var runEnd = -1;
        for (var index = 0; index < pieces; index++)
        {
            var (start, count, hole, _) = _pieces[index];
            var at = _payload.Start + start;
            var flags = index == pieces - 1 ? NbdReplyFlags.Done : NbdReplyFlags.None;
            if (hole)
            {
                runStart = runStart < 0 ? at : runStart;
                WriteHole(bytes.AsSpan(at), Offset + start, count, flags);
                runEnd = at + HeaderLength + 12;
                continue;
            }

            if (runStart >= 0)
            {
                Send(new Part(runStart, runEnd - runStart));
            }

            runStart = at - HeaderLength - (_style == NbdHeaderStyle.Simple ? 0 : 8);
            runEnd = at + count;
            if (_style == NbdHeaderStyle.Simple)
            {
                WriteSimple(bytes.AsSpan(runStart), NbdError.None);
            }
            else
            {
                WriteChunk(bytes.AsSpan(runStart), flags, NbdReplyType.OffsetData, 8 + count);
                BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan(at - 8), Offset + start);
            }
        }

        Send(new Part(runStart, runEnd - runStart));
    }

    /// <summary>Data comes straight from the image's file while the reply is sent; a failure then ends the connection, since the header has promised data.</summary>
    private void BuildFromFile(int pieces, SafeFileHandle file)
    {
        var runStart = 0;
        var at = 0;
        for (var index = 0; index < pieces; index++)
        {
            var (start, count, hole, host) = _pieces[index];
            var flags = index == pieces - 1 ? NbdReplyFlags.Done : NbdReplyFlags.None;
            if (hole)
            {
                WriteHole(_small.AsSpan(at), Offset + start, count, flags);
                at += HeaderLength + 12;
                continue;
            }

            if (_style == NbdHeaderStyle.Simple)
            {
                WriteSimple(_small.AsSpan(at), NbdError.None);
                at += HeaderLength;
            }
            else
            {
                WriteChunk(_small.AsSpan(at), flags, NbdReplyType.OffsetData, 8 + count);
                BinaryPrimitives.WriteInt64BigEndian(_small.AsSpan(at + HeaderLength), Offset + start);
                at += HeaderLength + 8;
            }

            Send(new Part(runStart, at - runStart, Small: true, file, host, count));
            runStart = at;
        }

        if (at > runStart)
        {
            Send(new Part(runStart, at - runStart, Small: true));
        }
    }

    private void BuildAcknowledgement()
    {
        if (_style == NbdHeaderStyle.Simple || (_style == NbdHeaderStyle.Structured && _header.Command != NbdCommand.Read))
        {
            WriteSimple(_small, NbdError.None);
            Send(new Part(0, NbdProtocol.SimpleReplyLength, Small: true));
            return;
        }

        WriteChunk(_small, NbdReplyFlags.Done, NbdReplyType.None, 0);
        Send(new Part(0, HeaderLength, Small: true));
    }

    private void BuildError(NbdError error)
    {
        _sendCount = 0;
        if (_style == NbdHeaderStyle.Simple)
        {
            WriteSimple(_small, error);
            Send(new Part(0, NbdProtocol.SimpleReplyLength, Small: true));
            return;
        }

        var text = ErrorText(error);
        WriteChunk(_small, NbdReplyFlags.Done, NbdReplyType.Error, 6 + text.Length);
        var body = _small.AsSpan(HeaderLength);
        BinaryPrimitives.WriteUInt32BigEndian(body, (uint)error);
        BinaryPrimitives.WriteUInt16BigEndian(body[4..], (ushort)text.Length);
        text.CopyTo(body[6..]);
        Send(new Part(0, HeaderLength + 6 + text.Length, Small: true));
    }

    /// <summary>What a client may know of an error; the disk's own message may name files of the host.</summary>
    private static ReadOnlySpan<byte> ErrorText(NbdError error) => error switch
    {
        NbdError.Perm => "the export is read-only or forbids it"u8,
        NbdError.Inval => "the request is not valid"u8,
        NbdError.NoSpc => "no room, or beyond the end"u8,
        NbdError.Overflow => "the request is too long"u8,
        NbdError.NotSup => "there is no fast way"u8,
        NbdError.Shutdown => "the server is stopping"u8,
        _ => "the disk failed"u8,
    };

    private void Send(Part part) => _parts[_sendCount++] = part;

    private void WriteSimple(Span<byte> target, NbdError error)
    {
        BinaryPrimitives.WriteUInt32BigEndian(target, NbdProtocol.SimpleReplyMagic);
        BinaryPrimitives.WriteUInt32BigEndian(target[4..], (uint)error);
        BinaryPrimitives.WriteUInt64BigEndian(target[8..], _header.Cookie);
    }

    private void WriteChunk(Span<byte> target, NbdReplyFlags flags, NbdReplyType type, int length)
    {
        var extended = _style == NbdHeaderStyle.Extended;
        BinaryPrimitives.WriteUInt32BigEndian(target, extended ? NbdProtocol.ExtendedReplyMagic : NbdProtocol.StructuredReplyMagic);
        BinaryPrimitives.WriteUInt16BigEndian(target[4..], (ushort)flags);
        BinaryPrimitives.WriteUInt16BigEndian(target[6..], (ushort)type);
        BinaryPrimitives.WriteUInt64BigEndian(target[8..], _header.Cookie);
        if (extended)
        {
            BinaryPrimitives.WriteUInt64BigEndian(target[16..], _header.Offset);
            BinaryPrimitives.WriteInt64BigEndian(target[24..], length);
        }
        else
        {
            BinaryPrimitives.WriteInt32BigEndian(target[16..], length);
        }
    }

    private void WriteHole(Span<byte> target, long offset, int count, NbdReplyFlags flags)
    {
        WriteChunk(target, flags, NbdReplyType.OffsetHole, 12);
        BinaryPrimitives.WriteInt64BigEndian(target[HeaderLength..], offset);
        BinaryPrimitives.WriteInt32BigEndian(target[(HeaderLength + 8)..], count);
    }

    /// <summary>A part of the range that is read: bytes from the request's offset, length, whether it is known to be zero, and where a file holds it.</summary>
    private readonly record struct Piece(int Start, int Count, bool Hole, long Host);

    /// <summary>Bytes to send: of the buffer or the small buffer, and behind them of a file.</summary>
    private readonly record struct Part(int Start, int Length, bool Small = false, SafeFileHandle? File = null, long FileOffset = 0, long FileLength = 0);
}
