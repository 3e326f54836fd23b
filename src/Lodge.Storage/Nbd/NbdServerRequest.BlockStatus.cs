using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>NBD_CMD_BLOCK_STATUS ("Metadata querying").</summary>
internal sealed partial class NbdServerRequest
{
    /// <summary>Memory in bytes that a reply takes for each context at the most.</summary>
    public const int BlockStatusRoom = (MaximumExtents * 16) + 64;

    private const int MaximumExtents = 2048; // of one context in one reply; the client asks again for what follows
    private const int MaximumLooks = 8192; // at the disk for one context

    /// <summary>Builds one chunk for each context.</summary>
    private async ValueTask<NbdError> BlockStatusAsync()
    {
        var contexts = connection.Session.Contexts;
        if (!TryChosen(contexts.Count, out var length, out var chosen))
        {
            return NbdError.Inval;
        }

        FreePayload();
        if (contexts.Count == 0 || length <= 0 || Offset > _export.Disk.Length - length)
        {
            return NbdError.Inval;
        }

        var one = (_header.Flags & NbdCommandFlags.ReqOne) != 0;
        var extended = _style == NbdHeaderStyle.Extended;
        length = extended ? length : Math.Min(length, uint.MaxValue);
        var prefix = extended ? 8 : 4;
        var descriptor = extended ? 16 : 8;
        var extents = one ? 1 : Math.Clamp((int)(NbdProtocol.MaximumPayload / 2 / descriptor / Math.Max(chosen.Count, 1)), 1, MaximumExtents);
        if (chosen.Count == 0)
        {
            BuildAcknowledgement();
            return NbdError.None;
        }

        _payload = NbdBuffer.Rent(chosen.Count * (HeaderLength + prefix + (extents * descriptor)));
        var at = _payload.Start;
        for (var index = 0; index < chosen.Count; index++)
        {
            var context = contexts[chosen[index]];
            var head = at;
            at += HeaderLength + prefix;
            var count = 0;
            long covered = 0;
            long runLength = 0;
            uint runFlags = 0;
            for (var looks = 0; covered < length && looks < MaximumLooks; looks++)
            {
                var (found, flags) = await LookAsync(context, Offset + covered, length - covered).ConfigureAwait(false);
                found = Math.Clamp(found, 1, length - covered);
                if (runLength > 0 && flags != runFlags)
                {
                    if (count + 1 == extents)
                    {
                        break;
                    }

                    at += WriteExtent(at, runLength, runFlags);
                    count++;
                    runLength = 0;
                }

                runFlags = flags;
                runLength += found;
                covered += found;
            }

            at += WriteExtent(at, runLength, runFlags);
            count++;
            WriteChunk(
                _payload.Bytes.AsSpan(head),
                index == chosen.Count - 1 ? NbdReplyFlags.Done : NbdReplyFlags.None,
                extended ? NbdReplyType.BlockStatusExt : NbdReplyType.BlockStatus,
                prefix + (count * descriptor));
            BinaryPrimitives.WriteInt32BigEndian(_payload.Bytes.AsSpan(head + HeaderLength), chosen[index]);
            if (extended)
            {
                BinaryPrimitives.WriteInt32BigEndian(_payload.Bytes.AsSpan(head + HeaderLength + 4), count);
            }
        }

        Send(new Part(_payload.Start, at - _payload.Start));
        return NbdError.None;
    }

    /// <summary>The contexts that the client wants: all, or those of its payload.</summary>
    private bool TryChosen(int contexts, out long length, out List<int> chosen)
    {
        length = _header.Length;
        chosen = [];
        if ((_header.Flags & NbdCommandFlags.PayloadLen) == 0)
        {
            chosen.AddRange(Enumerable.Range(0, contexts));
            return true;
        }

        if (_payload is null || _payloadLength < 8 || _payloadLength % 4 != 0 || _payloadLength > 8 + (4L * contexts))
        {
            return false;
        }

        ReadOnlySpan<byte> payload = _payload.Payload(_payloadLength).Span;
        length = BinaryPrimitives.ReadInt64BigEndian(payload);
        for (payload = payload[8..]; payload.Length > 0; payload = payload[4..])
        {
            var id = BinaryPrimitives.ReadUInt32BigEndian(payload);
            if (id >= (uint)contexts || chosen.Contains((int)id))
            {
                return false;
            }

            chosen.Add((int)id);
        }

        return length <= _export.Disk.Length;
    }

    private async ValueTask<(long Length, uint Flags)> LookAsync(string context, long offset, long length)
    {
        if (context.StartsWith(NbdProtocol.QemuDirtyBitmap, StringComparison.Ordinal))
        {
            if (_export.Disk is not IDirtyBitmaps bitmaps)
            {
                return (length, 1); // all must be taken as changed
            }

            var (dirty, count) = await bitmaps.GetDirtyAsync(context[NbdProtocol.QemuDirtyBitmap.Length..], offset, length, connection.Abort).ConfigureAwait(false);
            return (count, dirty ? 1u : 0u);
        }

        var extent = await _export.Disk.StatusAsync(offset, length, connection.Abort).ConfigureAwait(false);
        return (extent.Length, context == NbdProtocol.BaseAllocation ? (uint)NbdAllocation.Flags(extent.State) : NbdAllocation.Depth(extent));
    }

    private int WriteExtent(int at, long length, uint flags)
    {
        var target = _payload!.Bytes.AsSpan(at);
        if (_style == NbdHeaderStyle.Extended)
        {
            BinaryPrimitives.WriteInt64BigEndian(target, length);
            BinaryPrimitives.WriteUInt64BigEndian(target[8..], flags);
            return 16;
        }

        BinaryPrimitives.WriteUInt32BigEndian(target, (uint)length);
        BinaryPrimitives.WriteUInt32BigEndian(target[4..], flags);
        return 8;
    }
}
