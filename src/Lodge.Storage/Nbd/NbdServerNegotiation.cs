using System.Buffers.Binary;
using System.Text;

namespace Lodge.Storage.Nbd;

/// <summary>What a client and the server agreed on.</summary>
/// <param name="Export">The export.</param>
/// <param name="Style">Form of requests and replies.</param>
/// <param name="Contexts">Names of the selected metadata contexts; the id of one is its index.</param>
internal sealed record NbdSession(NbdExport Export, NbdHeaderStyle Style, IReadOnlyList<string> Contexts);

/// <summary>The server's side of the fixed newstyle negotiation ("The newstyle negotiation", "Option types").</summary>
internal sealed class NbdServerNegotiation(NbdReceiver receiver, IReadOnlyList<NbdExport> exports, NbdServerOptions options)
{
    private const int MaximumOptionData = 64 * 1024;
    private const int MaximumSkippedData = NbdProtocol.MaximumPayload;
    private const int MaximumOptions = 1000;
    private const int ReservedZeroes = 124;

    private readonly MemoryStream _reply = new();
    private byte[] _data = [];
    private bool _encrypted;
    private bool _noZeroes;
    private bool _startTls;
    private NbdHeaderStyle _style;
    private NbdExport? _contextsExport;
    private List<string> _contexts = [];

    /// <summary>Talks until the client chose an export.</summary>
    /// <returns>Null when the client left.</returns>
    /// <exception cref="NbdProtocolException">The client broke the protocol.</exception>
    public async ValueTask<NbdSession?> RunAsync(CancellationToken cancellation)
    {
        var greeting = new byte[18];
        BinaryPrimitives.WriteUInt64BigEndian(greeting, NbdProtocol.InitPasswd);
        BinaryPrimitives.WriteUInt64BigEndian(greeting.AsSpan(8), NbdProtocol.OptionMagic);
        BinaryPrimitives.WriteUInt16BigEndian(greeting.AsSpan(16), (ushort)(NbdHandshakeFlags.FixedNewstyle | NbdHandshakeFlags.NoZeroes));
        await receiver.Channel.SendAsync(greeting, cancellation).ConfigureAwait(false);

        if (!await receiver.FillAsync(4, cancellation).ConfigureAwait(false))
        {
            return null;
        }

        var client = (NbdHandshakeFlags)BinaryPrimitives.ReadUInt32BigEndian(receiver.Peek(4));
        receiver.Advance(4);
        if ((client & ~(NbdHandshakeFlags.FixedNewstyle | NbdHandshakeFlags.NoZeroes)) != 0)
        {
            throw new NbdProtocolException("unknown client flags");
        }

        var @fixed = (client & NbdHandshakeFlags.FixedNewstyle) != 0;
        _noZeroes = (client & NbdHandshakeFlags.NoZeroes) != 0;
        for (var count = 0; count < MaximumOptions; count++)
        {
            if (!await receiver.FillAsync(NbdProtocol.OptionHeaderLength, cancellation).ConfigureAwait(false))
            {
                return null;
            }

            var header = receiver.Peek(NbdProtocol.OptionHeaderLength);
            var magic = BinaryPrimitives.ReadUInt64BigEndian(header);
            var option = (NbdOption)BinaryPrimitives.ReadUInt32BigEndian(header[8..]);
            var length = BinaryPrimitives.ReadUInt32BigEndian(header[12..]);
            receiver.Advance(NbdProtocol.OptionHeaderLength);
            if (magic != NbdProtocol.OptionMagic || length > MaximumSkippedData || (!@fixed && option != NbdOption.ExportName))
            {
                throw new NbdProtocolException("not an option");
            }

            var tooBig = length > MaximumOptionData;
            if (tooBig)
            {
                await receiver.SkipAsync(length, cancellation).ConfigureAwait(false);
            }
            else
            {
                _data = new byte[length];
                await receiver.ReadAsync(_data, cancellation).ConfigureAwait(false);
            }

            if (option == NbdOption.ExportName)
            {
                return tooBig ? throw new NbdProtocolException("the export's name is too long") : await ExportNameAsync(cancellation).ConfigureAwait(false);
            }

            NbdExport? chosen = null;
            if (tooBig)
            {
                Reply(option, NbdOptionReply.ErrorTooBig, "the option's data is too long");
            }
            else
            {
                chosen = Answer(option);
            }

            var reply = _reply.ToArray();
            _reply.SetLength(0);
            await receiver.Channel.SendAsync(reply, cancellation).ConfigureAwait(false);
            if (option == NbdOption.Abort)
            {
                return null;
            }

            if (chosen is not null)
            {
                return Session(chosen);
            }

            if (_startTls)
            {
                _startTls = false;
                receiver.Replace(await options.Tls!.AcceptAsync(receiver.Channel, cancellation).ConfigureAwait(false));
                _encrypted = true;
                _style = NbdHeaderStyle.Simple;
                _contexts = [];
                _contextsExport = null;
            }
        }

        throw new NbdProtocolException("too many options");
    }

    /// <summary>Appends the replies to an option.</summary>
    /// <returns>The export, when the transmission phase follows.</returns>
    private NbdExport? Answer(NbdOption option)
    {
        if (options.Tls is not null && !_encrypted && option is not (NbdOption.StartTls or NbdOption.Abort))
        {
            Reply(option, NbdOptionReply.ErrorTlsRequired, "this server wants TLS");
            return null;
        }

        switch (option)
        {
            case NbdOption.Abort:
                Reply(option, NbdOptionReply.Ack);
                return null;
            case NbdOption.List when _data.Length == 0:
                List();
                return null;
            case NbdOption.StartTls when _data.Length == 0 && options.Tls is null:
                Reply(option, NbdOptionReply.ErrorPolicy, "this server has no TLS");
                return null;
            case NbdOption.StartTls when _data.Length == 0 && !_encrypted:
                _startTls = true;
                Reply(option, NbdOptionReply.Ack);
                return null;
            case NbdOption.StructuredReply when options.Newest < NbdHeaderStyle.Structured:
            case NbdOption.ExtendedHeaders when options.Newest < NbdHeaderStyle.Extended:
                Reply(option, NbdOptionReply.ErrorUnsupported, "the option is not offered");
                return null;
            case NbdOption.StructuredReply when _data.Length == 0:
                if (_style == NbdHeaderStyle.Extended)
                {
                    Reply(option, NbdOptionReply.ErrorExtendedHeadersRequired, "extended headers are already negotiated");
                    return null;
                }

                _style = NbdHeaderStyle.Structured;
                Reply(option, NbdOptionReply.Ack);
                return null;
            case NbdOption.ExtendedHeaders when _data.Length == 0 && _style != NbdHeaderStyle.Extended:
                _style = NbdHeaderStyle.Extended;
                Reply(option, NbdOptionReply.Ack);
                return null;
            case NbdOption.List or NbdOption.StartTls or NbdOption.StructuredReply or NbdOption.ExtendedHeaders:
                Reply(option, NbdOptionReply.ErrorInvalid, "the option carries data or comes twice");
                return null;
            case NbdOption.Info or NbdOption.Go:
                return Information(option);
            case NbdOption.ListMetaContext or NbdOption.SetMetaContext:
                MetaContext(option);
                return null;
            default:
                Reply(option, NbdOptionReply.ErrorUnsupported, "the option is not known");
                return null;
        }
    }

    private void List()
    {
        Span<byte> length = stackalloc byte[4];
        foreach (var export in exports)
        {
            var name = Encoding.UTF8.GetBytes(export.Name);
            BinaryPrimitives.WriteInt32BigEndian(length, name.Length);
            Reply(NbdOption.List, NbdOptionReply.Server, [.. length, .. name, .. Encoding.UTF8.GetBytes(export.Description)]);
        }

        Reply(NbdOption.List, NbdOptionReply.Ack);
    }

    private NbdExport? Information(NbdOption option)
    {
        if (!NbdOptionParser.TryInfo(_data, out var name, out _, out var wantsDescription))
        {
            Reply(option, NbdOptionReply.ErrorInvalid, "the option's data is malformed");
            return null;
        }

        if (Find(name) is not { } export)
        {
            Reply(option, NbdOptionReply.ErrorUnknown, "there is no such export");
            return null;
        }

        Span<byte> information = stackalloc byte[14];
        BinaryPrimitives.WriteUInt16BigEndian(information, (ushort)NbdInfo.Export);
        BinaryPrimitives.WriteInt64BigEndian(information[2..], export.Disk.Length);
        BinaryPrimitives.WriteUInt16BigEndian(information[10..], (ushort)Flags(export));
        Reply(option, NbdOptionReply.Info, information[..12]);

        BinaryPrimitives.WriteUInt16BigEndian(information, (ushort)NbdInfo.BlockSize);
        BinaryPrimitives.WriteInt32BigEndian(information[2..], 1);
        BinaryPrimitives.WriteInt32BigEndian(information[6..], export.PreferredBlock);
        BinaryPrimitives.WriteInt32BigEndian(information[10..], NbdProtocol.MaximumPayload);
        Reply(option, NbdOptionReply.Info, information);

        if (export.Name != name)
        {
            Text(option, NbdInfo.Name, export.Name);
        }

        if (wantsDescription && export.Description.Length > 0)
        {
            Text(option, NbdInfo.Description, export.Description);
        }

        Reply(option, NbdOptionReply.Ack);
        return option == NbdOption.Go ? export : null;
    }

    private void Text(NbdOption option, NbdInfo type, string text)
    {
        Span<byte> head = stackalloc byte[2];
        BinaryPrimitives.WriteUInt16BigEndian(head, (ushort)type);
        Reply(option, NbdOptionReply.Info, [.. head, .. Encoding.UTF8.GetBytes(text)]);
    }

    private void MetaContext(NbdOption option)
    {
        if (option == NbdOption.SetMetaContext)
        {
            _contexts = [];
            _contextsExport = null;
        }

        if (_style == NbdHeaderStyle.Simple && option == NbdOption.SetMetaContext)
        {
            Reply(option, NbdOptionReply.ErrorInvalid, "metadata contexts need structured replies");
            return;
        }

        var result = NbdOptionParser.MetaContext(_data, out var name, out var queries);
        if (result != NbdOptionReply.Ack)
        {
            Reply(option, result, "the option's data is malformed or too long");
            return;
        }

        if (Find(name) is not { } export)
        {
            Reply(option, NbdOptionReply.ErrorUnknown, "there is no such export");
            return;
        }

        var listing = option == NbdOption.ListMetaContext;
        var found = listing && queries.Count == 0
            ? export.Match(null, true).ToList()
            : queries.SelectMany(query => export.Match(query, listing)).Distinct(StringComparer.Ordinal).ToList();
        Span<byte> id = stackalloc byte[4];
        for (var index = 0; index < found.Count; index++)
        {
            BinaryPrimitives.WriteInt32BigEndian(id, listing ? 0 : index);
            Reply(option, NbdOptionReply.MetaContext, [.. id, .. Encoding.UTF8.GetBytes(found[index])]);
        }

        Reply(option, NbdOptionReply.Ack);
        if (!listing)
        {
            _contexts = found;
            _contextsExport = export;
        }
    }

    private async ValueTask<NbdSession> ExportNameAsync(CancellationToken cancellation)
    {
        if ((options.Tls is not null && !_encrypted) || _style == NbdHeaderStyle.Extended || !NbdOptionParser.TryString(_data, out var name) || Find(name) is not { } export)
        {
            throw new NbdProtocolException("the export cannot be had"); // the option has no way to say so
        }

        var reply = new byte[10 + (_noZeroes ? 0 : ReservedZeroes)];
        BinaryPrimitives.WriteInt64BigEndian(reply, export.Disk.Length);
        BinaryPrimitives.WriteUInt16BigEndian(reply.AsSpan(8), (ushort)Flags(export));
        await receiver.Channel.SendAsync(reply, cancellation).ConfigureAwait(false);
        return Session(export);
    }

    private NbdTransmissionFlags Flags(NbdExport export) => export.Flags(_style, options.Shared != 1, ReferenceEquals(_contextsExport, export) && _contexts.Count > 0);

    private NbdSession Session(NbdExport export) => new(export, _style, ReferenceEquals(_contextsExport, export) ? _contexts : []);

    /// <summary>The export of a name; a server's only export is also the default one.</summary>
    private NbdExport? Find(string name) =>
        exports.FirstOrDefault(export => export.Name == name) ?? (name.Length == 0 && exports.Count == 1 ? exports[0] : null);

    private void Reply(NbdOption option, NbdOptionReply type, string text) => Reply(option, type, Encoding.UTF8.GetBytes(text));

    private void Reply(NbdOption option, NbdOptionReply type, ReadOnlySpan<byte> data = default)
    {
        Span<byte> header = stackalloc byte[NbdProtocol.OptionReplyHeaderLength];
        BinaryPrimitives.WriteUInt64BigEndian(header, NbdProtocol.OptionReplyMagic);
        BinaryPrimitives.WriteUInt32BigEndian(header[8..], (uint)option);
        BinaryPrimitives.WriteUInt32BigEndian(header[12..], (uint)type);
        BinaryPrimitives.WriteInt32BigEndian(header[16..], data.Length);
        _reply.Write(header);
        _reply.Write(data);
    }
}
