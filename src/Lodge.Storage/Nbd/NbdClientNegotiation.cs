using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Nbd.Tls;

namespace Lodge.Storage.Nbd;

/// <summary>The client's side of the newstyle negotiation. The server is not trusted: lengths and counts are bounded.</summary>
internal sealed class NbdClientNegotiation(NbdReceiver receiver, NbdAddress address, TlsCredentials? credentials)
{
    private const ulong OldstyleMagic = 0x00420281861253;
    private const int MaximumReply = 64 * 1024;
    private const int MaximumReplies = 4096;
    private const int MaximumContexts = 64;
    private const int LongestMessage = 200;

    private bool _noZeroes;

    /// <summary>Agrees on the export of the address.</summary>
    /// <exception cref="DiskException">The server refuses; the message says why.</exception>
    /// <exception cref="NbdProtocolException">The server broke the protocol.</exception>
    public async ValueTask<NbdClientSession> RunAsync(CancellationToken cancellation)
    {
        await ExpectAsync(18, cancellation).ConfigureAwait(false);
        var magic = BinaryPrimitives.ReadUInt64BigEndian(receiver.Peek(8));
        var style = BinaryPrimitives.ReadUInt64BigEndian(receiver.Peek(16)[8..]);
        var flags = (NbdHandshakeFlags)BinaryPrimitives.ReadUInt16BigEndian(receiver.Peek(18)[16..]);
        receiver.Advance(18);
        if (magic != NbdProtocol.InitPasswd || style != NbdProtocol.OptionMagic)
        {
            throw style == OldstyleMagic
                ? new DiskException(DiskError.Unsupported, $"{address}: the server knows only the oldstyle negotiation")
                : new NbdProtocolException("this is not an NBD server");
        }

        var @fixed = (flags & NbdHandshakeFlags.FixedNewstyle) != 0;
        _noZeroes = (flags & NbdHandshakeFlags.NoZeroes) != 0;
        var answer = new byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(answer, (uint)(flags & (NbdHandshakeFlags.FixedNewstyle | NbdHandshakeFlags.NoZeroes)));
        await receiver.Channel.SendAsync(answer, cancellation).ConfigureAwait(false);

        if (credentials is not null)
        {
            await StartTlsAsync(@fixed, cancellation).ConfigureAwait(false);
        }

        return @fixed ? await FixedAsync(cancellation).ConfigureAwait(false) : await ExportNameAsync(new NbdClientSession(), cancellation).ConfigureAwait(false);
    }

    private async ValueTask StartTlsAsync(bool @fixed, CancellationToken cancellation)
    {
        var reply = @fixed ? await AskAsync(NbdOption.StartTls, [], null, cancellation).ConfigureAwait(false) : new Answer(NbdOptionReply.ErrorUnsupported, "");
        if (reply.Type != NbdOptionReply.Ack)
        {
            throw new DiskException(DiskError.Denied, $"{address}: the server offers no TLS{reply.Text}");
        }

        var host = address.TlsHost ?? (address.Socket is null ? address.Host : null);
        try
        {
            receiver.Replace(await credentials!.ConnectAsync(receiver.Channel, address.VerifyPeer ? host : null, cancellation).ConfigureAwait(false));
        }
        catch (IOException failure)
        {
            throw new DiskException(DiskError.Denied, $"{address}: {failure.Message}", failure);
        }
    }

    private async ValueTask<NbdClientSession> FixedAsync(CancellationToken cancellation)
    {
        var style = NbdHeaderStyle.Simple;
        var first = await AskAsync(NbdOption.ExtendedHeaders, [], null, cancellation).ConfigureAwait(false);
        RefuseTls(first);
        if (first.Type == NbdOptionReply.Ack)
        {
            style = NbdHeaderStyle.Extended;
        }
        else if ((await AskAsync(NbdOption.StructuredReply, [], null, cancellation).ConfigureAwait(false)).Type == NbdOptionReply.Ack)
        {
            style = NbdHeaderStyle.Structured;
        }

        var contexts = style == NbdHeaderStyle.Simple ? new Dictionary<uint, string>() : await ContextsAsync(cancellation).ConfigureAwait(false);
        var session = new NbdClientSession { Style = style, Contexts = contexts };
        var name = Encoding.UTF8.GetBytes(address.Export);
        var data = new byte[4 + name.Length + 4];
        BinaryPrimitives.WriteInt32BigEndian(data, name.Length);
        name.CopyTo(data, 4);
        BinaryPrimitives.WriteUInt16BigEndian(data.AsSpan(4 + name.Length), 1);
        BinaryPrimitives.WriteUInt16BigEndian(data.AsSpan(6 + name.Length), (ushort)NbdInfo.BlockSize);
        var reply = await AskAsync(NbdOption.Go, data, (type, body) => session = type == NbdOptionReply.Info ? Inform(session, body) : session, cancellation).ConfigureAwait(false);
        switch (reply.Type)
        {
            case NbdOptionReply.Ack:
                return session.Length >= 0 ? session : throw new NbdProtocolException("the server did not tell the export's size");
            case NbdOptionReply.ErrorUnsupported when style != NbdHeaderStyle.Extended:
                return await ExportNameAsync(session, cancellation).ConfigureAwait(false);
            case NbdOptionReply.ErrorUnknown:
                throw new DiskException(DiskError.NotFound, $"{address}: the server has no export '{address.Export}'{reply.Text}");
            default:
                RefuseTls(reply);
                throw new DiskException(DiskError.Denied, $"{address}: the server refuses the export (error {(uint)reply.Type & 0x7fffffff}){reply.Text}");
        }
    }

    private void RefuseTls(Answer reply)
    {
        if (reply.Type == NbdOptionReply.ErrorTlsRequired)
        {
            throw new DiskException(DiskError.Denied, $"{address}: the server wants TLS; write nbds:// with tls-certificates= or tls-psk-file=");
        }
    }

    /// <summary>Selects the allocation and every dirty bitmap that the server has.</summary>
    private async ValueTask<IReadOnlyDictionary<uint, string>> ContextsAsync(CancellationToken cancellation)
    {
        List<string> wanted = [NbdProtocol.BaseAllocation];
        await AskAsync(
            NbdOption.ListMetaContext,
            Query([NbdProtocol.QemuDirtyBitmap]),
            (type, body) =>
            {
                if (type == NbdOptionReply.MetaContext && wanted.Count < MaximumContexts && NbdOptionParser.TryContext(body, out _, out var name) && name.StartsWith(NbdProtocol.QemuDirtyBitmap, StringComparison.Ordinal))
                {
                    wanted.Add(name);
                }
            },
            cancellation).ConfigureAwait(false);
        var selected = new Dictionary<uint, string>();
        var reply = await AskAsync(
            NbdOption.SetMetaContext,
            Query(wanted),
            (type, body) =>
            {
                if (type == NbdOptionReply.MetaContext && NbdOptionParser.TryContext(body, out var id, out var name) && selected.Count < MaximumContexts && wanted.Contains(name))
                {
                    selected[id] = name;
                }
            },
            cancellation).ConfigureAwait(false);
        return reply.Type == NbdOptionReply.Ack ? selected : new Dictionary<uint, string>();
    }

    private byte[] Query(IReadOnlyList<string> queries)
    {
        using var data = new MemoryStream();
        Span<byte> number = stackalloc byte[4];
        Text(address.Export, number);
        BinaryPrimitives.WriteInt32BigEndian(number, queries.Count);
        data.Write(number);
        foreach (var query in queries)
        {
            Text(query, number);
        }

        return data.ToArray();

        void Text(string text, Span<byte> length)
        {
            var bytes = Encoding.UTF8.GetBytes(text);
            BinaryPrimitives.WriteInt32BigEndian(length, bytes.Length);
            data.Write(length);
            data.Write(bytes);
        }
    }

    private static NbdClientSession Inform(NbdClientSession session, ReadOnlySpan<byte> body)
    {
        if (body.Length < 2)
        {
            throw new NbdProtocolException("an information is too short");
        }

        switch ((NbdInfo)BinaryPrimitives.ReadUInt16BigEndian(body))
        {
            case NbdInfo.Export:
                return body.Length == 12 ? WithExport(session, body[2..]) : throw new NbdProtocolException("the export's information has a wrong length");
            case NbdInfo.BlockSize:
                if (body.Length != 14)
                {
                    throw new NbdProtocolException("the block sizes have a wrong length");
                }

                var minimum = BinaryPrimitives.ReadUInt32BigEndian(body[2..]);
                var preferred = BinaryPrimitives.ReadUInt32BigEndian(body[6..]);
                var payload = BinaryPrimitives.ReadUInt32BigEndian(body[10..]);
                if (!uint.IsPow2(minimum) || minimum > 65536 || !uint.IsPow2(preferred) || preferred < minimum || payload < minimum)
                {
                    throw new NbdProtocolException("the block sizes are not powers of two in order");
                }

                return session with
                {
                    MinimumBlock = (int)minimum,
                    PreferredBlock = (int)Math.Clamp(preferred, 512, 1 << 20),
                    MaximumPayload = (int)(Math.Min(payload, NbdProtocol.MaximumPayload) / minimum * minimum),
                };
            default:
                return session;
        }
    }

    private static NbdClientSession WithExport(NbdClientSession session, ReadOnlySpan<byte> data)
    {
        var length = BinaryPrimitives.ReadInt64BigEndian(data);
        return session with
        {
            Length = length >= 0 ? length : throw new NbdProtocolException("the export is too large"),
            Flags = (NbdTransmissionFlags)BinaryPrimitives.ReadUInt16BigEndian(data[8..]),
        };
    }

    private async ValueTask<NbdClientSession> ExportNameAsync(NbdClientSession session, CancellationToken cancellation)
    {
        await SendOptionAsync(NbdOption.ExportName, Encoding.UTF8.GetBytes(address.Export), cancellation).ConfigureAwait(false);
        if (!await receiver.FillAsync(10, cancellation).ConfigureAwait(false))
        {
            throw new DiskException(DiskError.NotFound, $"{address}: the server has no export '{address.Export}', or refuses it");
        }

        session = WithExport(session, receiver.Peek(10));
        receiver.Advance(10);
        await receiver.SkipAsync(_noZeroes ? 0 : 124, cancellation).ConfigureAwait(false);
        return session;
    }

    private async ValueTask SendOptionAsync(NbdOption option, byte[] data, CancellationToken cancellation)
    {
        var message = new byte[NbdProtocol.OptionHeaderLength + data.Length];
        BinaryPrimitives.WriteUInt64BigEndian(message, NbdProtocol.OptionMagic);
        BinaryPrimitives.WriteUInt32BigEndian(message.AsSpan(8), (uint)option);
        BinaryPrimitives.WriteInt32BigEndian(message.AsSpan(12), data.Length);
        data.CopyTo(message, NbdProtocol.OptionHeaderLength);
        await receiver.Channel.SendAsync(message, cancellation).ConfigureAwait(false);
    }

    /// <summary>Sends an option and gives its last reply; those before go to <paramref name="each"/>.</summary>
    private async ValueTask<Answer> AskAsync(NbdOption option, byte[] data, ReplyHandler? each, CancellationToken cancellation)
    {
        await SendOptionAsync(option, data, cancellation).ConfigureAwait(false);
        for (var count = 0; count < MaximumReplies; count++)
        {
            await ExpectAsync(NbdProtocol.OptionReplyHeaderLength, cancellation).ConfigureAwait(false);
            var (type, length) = Header(option);
            var body = new byte[length];
            await receiver.ReadAsync(body, cancellation).ConfigureAwait(false);
            if (type == NbdOptionReply.Ack || ((uint)type & 0x80000000) != 0)
            {
                return new Answer(type, type == NbdOptionReply.Ack ? "" : Readable(body));
            }

            each?.Invoke(type, body);
        }

        throw new NbdProtocolException("the server replies without end");
    }

    private (NbdOptionReply Type, int Length) Header(NbdOption option)
    {
        var header = receiver.Peek(NbdProtocol.OptionReplyHeaderLength);
        var length = BinaryPrimitives.ReadUInt32BigEndian(header[16..]);
        if (BinaryPrimitives.ReadUInt64BigEndian(header) != NbdProtocol.OptionReplyMagic || BinaryPrimitives.ReadUInt32BigEndian(header[8..]) != (uint)option || length > MaximumReply)
        {
            throw new NbdProtocolException("not a reply to the option");
        }

        var type = (NbdOptionReply)BinaryPrimitives.ReadUInt32BigEndian(header[12..]);
        receiver.Advance(NbdProtocol.OptionReplyHeaderLength);
        return (type, (int)length);
    }

    private async ValueTask ExpectAsync(int count, CancellationToken cancellation)
    {
        if (!await receiver.FillAsync(count, cancellation).ConfigureAwait(false))
        {
            throw new NbdProtocolException("the server ended the connection");
        }
    }

    /// <summary>A server's message for one line of a terminal.</summary>
    private static string Readable(byte[] body)
    {
        var text = new string([.. Encoding.UTF8.GetString(body.AsSpan(0, Math.Min(body.Length, LongestMessage))).Select(c => char.IsControl(c) ? ' ' : c)]).Trim();
        return text.Length == 0 ? "" : $": {text}";
    }

    private delegate void ReplyHandler(NbdOptionReply type, ReadOnlySpan<byte> body);

    private readonly record struct Answer(NbdOptionReply Type, string Text);
}
