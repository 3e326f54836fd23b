using System.Buffers.Binary;
using System.Text;

namespace Lodge.Storage.Nbd;

/// <summary>Reads the data of options and the replies to them. Every length comes from the peer and is checked against what is there; nothing throws.</summary>
internal static class NbdOptionParser
{
    /// <summary>Most queries for metadata contexts in one option.</summary>
    public const int MaximumQueries = 256;

    private static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>A string of the protocol: UTF-8 without NUL, at most 4096 bytes.</summary>
    public static bool TryString(ReadOnlySpan<byte> bytes, out string text)
    {
        text = "";
        if (bytes.Length > NbdProtocol.MaximumString || bytes.Contains((byte)0))
        {
            return false;
        }

        try
        {
            text = Utf8.GetString(bytes);
            return true;
        }
        catch (DecoderFallbackException)
        {
            return false;
        }
    }

    /// <summary>Data of NBD_OPT_INFO and NBD_OPT_GO: name, and requests for information.</summary>
    public static bool TryInfo(ReadOnlySpan<byte> data, out string name, out bool wantsName, out bool wantsDescription)
    {
        name = "";
        wantsName = wantsDescription = false;
        if (!TryLengthAndString(ref data, out name) || data.Length < 2)
        {
            return false;
        }

        var count = BinaryPrimitives.ReadUInt16BigEndian(data);
        data = data[2..];
        if (data.Length != count * 2)
        {
            return false;
        }

        for (; data.Length > 0; data = data[2..])
        {
            switch ((NbdInfo)BinaryPrimitives.ReadUInt16BigEndian(data))
            {
                case NbdInfo.Name:
                    wantsName = true;
                    break;
                case NbdInfo.Description:
                    wantsDescription = true;
                    break;
            }
        }

        return true;
    }

    /// <summary>Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT: name, and queries.</summary>
    /// <returns>NBD_REP_ACK, or the error.</returns>
    public static NbdOptionReply MetaContext(ReadOnlySpan<byte> data, out string name, out List<string> queries)
    {
        queries = [];
        if (!TryLengthAndString(ref data, out name) || data.Length < 4)
        {
            return NbdOptionReply.ErrorInvalid;
        }

        var count = BinaryPrimitives.ReadUInt32BigEndian(data);
        data = data[4..];
        if (count > (uint)data.Length / 4)
        {
            return NbdOptionReply.ErrorInvalid;
        }

        if (count > MaximumQueries)
        {
            return NbdOptionReply.ErrorTooBig;
        }

        for (; count > 0; count--)
        {
            if (!TryLengthAndString(ref data, out var query))
            {
                return NbdOptionReply.ErrorInvalid;
            }

            queries.Add(query);
        }

        return data.Length == 0 ? NbdOptionReply.Ack : NbdOptionReply.ErrorInvalid;
    }

    /// <summary>Data of NBD_REP_META_CONTEXT: id and name.</summary>
    public static bool TryContext(ReadOnlySpan<byte> data, out uint id, out string name)
    {
        id = 0;
        name = "";
        if (data.Length < 4)
        {
            return false;
        }

        id = BinaryPrimitives.ReadUInt32BigEndian(data);
        return TryString(data[4..], out name);
    }

    /// <summary>Data of NBD_REP_SERVER: name and description.</summary>
    public static bool TryServer(ReadOnlySpan<byte> data, out string name, out string description)
    {
        description = "";
        return TryLengthAndString(ref data, out name) && TryString(data, out description);
    }

    private static bool TryLengthAndString(ref ReadOnlySpan<byte> data, out string text)
    {
        text = "";
        if (data.Length < 4)
        {
            return false;
        }

        var length = BinaryPrimitives.ReadUInt32BigEndian(data);
        data = data[4..];
        if (length > (uint)data.Length || !TryString(data[..(int)length], out text))
        {
            return false;
        }

        data = data[(int)length..];
        return true;
    }
}
