using System.Globalization;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>
/// An NBD address (NetworkBlockDevice/nbd, doc/uri.md): <c>nbd://host:port/export</c>, <c>nbd+unix:///export?socket=PATH</c>, with TLS <c>nbds://</c> and <c>nbds+unix://</c>.
/// Parameters: <c>socket</c>, <c>tls-certificates</c> (folder), <c>tls-psk-file</c>, <c>tls-hostname</c>, <c>tls-verify-peer</c> (0 or 1), <c>tls-type</c> (x509 or psk), and of Lodge's own
/// <c>x-reconnect</c> (seconds for which a lost server is waited for).
/// </summary>
public sealed record NbdAddress
{
    /// <summary>The schemes.</summary>
    public static IReadOnlyList<string> Schemes { get; } = ["nbd", "nbd+unix", "nbds", "nbds+unix"];

    /// <summary>The address as it was given.</summary>
    public required string Text { get; init; }

    /// <summary>Whether the connection must be encrypted.</summary>
    public bool Tls { get; init; }

    /// <summary>Host name or address, or empty for a unix socket.</summary>
    public string Host { get; init; } = "";

    /// <summary>TCP port.</summary>
    public int Port { get; init; } = NbdProtocol.Port;

    /// <summary>Path of the unix socket, or null; one in the abstract namespace begins with NUL.</summary>
    public string? Socket { get; init; }

    /// <summary>Name of the export.</summary>
    public string Export { get; init; } = "";

    /// <summary>User of a pre-shared key, or null.</summary>
    public string? User { get; init; }

    /// <summary>Folder of certificates, or null.</summary>
    public string? Certificates { get; init; }

    /// <summary>File of pre-shared keys, or null.</summary>
    public string? Keys { get; init; }

    /// <summary>Name that the server's certificate must have, or null for the host.</summary>
    public string? TlsHost { get; init; }

    /// <summary>Whether the server's certificate is checked.</summary>
    public bool VerifyPeer { get; init; } = true;

    /// <summary>How long requests wait for a lost server to come back.</summary>
    public TimeSpan Reconnect { get; init; }

    /// <summary>Parses an address.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>.</exception>
    public static NbdAddress Parse(string text)
    {
        var schemeEnd = text.IndexOf("://", StringComparison.Ordinal);
        var scheme = schemeEnd < 0 ? "" : text[..schemeEnd];
        if (!Schemes.Contains(scheme))
        {
            throw Wrong(text, "it does not begin with nbd://, nbds://, nbd+unix:// or nbds+unix://");
        }

        var rest = text[(schemeEnd + 3)..];
        var queryStart = rest.IndexOf('?', StringComparison.Ordinal);
        var query = queryStart < 0 ? "" : rest[(queryStart + 1)..];
        rest = queryStart < 0 ? rest : rest[..queryStart];
        var pathStart = rest.IndexOf('/', StringComparison.Ordinal);
        var authority = pathStart < 0 ? rest : rest[..pathStart];
        var address = new NbdAddress { Text = text, Tls = scheme.StartsWith("nbds", StringComparison.Ordinal), Export = pathStart < 0 ? "" : Decode(text, rest[(pathStart + 1)..]) };
        var at = authority.LastIndexOf('@');
        if (at >= 0)
        {
            address = address with { User = Decode(text, authority[..at]) };
            authority = authority[(at + 1)..];
        }

        foreach (var parameter in query.Split('&', StringSplitOptions.RemoveEmptyEntries))
        {
            var equals = parameter.IndexOf('=', StringComparison.Ordinal);
            address = Apply(address, equals < 0 ? parameter : parameter[..equals], equals < 0 ? "" : Decode(text, parameter[(equals + 1)..]));
        }

        if (scheme.EndsWith("+unix", StringComparison.Ordinal))
        {
            return address.Socket is null ? throw Wrong(text, "it lacks ?socket=PATH") : authority.Length == 0 ? address : throw Wrong(text, "an address of a unix socket has no host: write three slashes");
        }

        if (address.Socket is not null)
        {
            throw Wrong(text, "socket= belongs to nbd+unix://");
        }

        return WithHost(address, authority);
    }

    /// <inheritdoc/>
    public override string ToString() => Text;

    private static NbdAddress WithHost(NbdAddress address, string authority)
    {
        var hostEnd = authority.StartsWith('[') ? authority.IndexOf(']', StringComparison.Ordinal) + 1 : authority.IndexOf(':', StringComparison.Ordinal);
        hostEnd = hostEnd < 0 ? authority.Length : hostEnd;
        var host = authority[..hostEnd];
        if (host.StartsWith('['))
        {
            host = host[1..^1];
        }

        var port = NbdProtocol.Port;
        var tail = authority[hostEnd..];
        if (tail.Length > 0 && !(tail[0] == ':' && int.TryParse(tail.AsSpan(1), NumberStyles.None, CultureInfo.InvariantCulture, out port) && port is > 0 and < 65536))
        {
            throw Wrong(address.Text, $"'{tail}' is not a port");
        }

        return address with { Host = host.Length == 0 ? "localhost" : Decode(address.Text, host), Port = port };
    }

    private static NbdAddress Apply(NbdAddress address, string name, string value) => name switch
    {
        "socket" when value.Length > 0 => address with { Socket = value },
        "tls-certificates" when value.Length > 0 => address with { Certificates = value, Tls = true },
        "tls-psk-file" when value.Length > 0 => address with { Keys = value, Tls = true },
        "tls-username" when value.Length > 0 => address with { User = value },
        "tls-hostname" when value.Length > 0 => address with { TlsHost = value },
        "tls-verify-peer" when value is "0" or "1" or "false" or "true" => address with { VerifyPeer = value is "1" or "true" },
        "tls-type" when value is "x509" or "psk" => address,
        "x-reconnect" when int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out var seconds) && seconds <= 86400 => address with { Reconnect = TimeSpan.FromSeconds(seconds) },
        _ => throw Wrong(address.Text, $"'{name}={value}' is not known; the parameters are socket, tls-certificates, tls-psk-file, tls-username, tls-hostname, tls-verify-peer, tls-type, x-reconnect"),
    };

    private static string Decode(string text, string part)
    {
        for (var at = part.IndexOf('%', StringComparison.Ordinal); at >= 0; at = part.IndexOf('%', at + 1))
        {
            if (at + 2 >= part.Length || !char.IsAsciiHexDigit(part[at + 1]) || !char.IsAsciiHexDigit(part[at + 2]))
            {
                throw Wrong(text, "a % is not followed by two hexadecimal digits");
            }
        }

        return Uri.UnescapeDataString(part);
    }

    private static DiskException Wrong(string text, string why) => new(DiskError.InvalidOption, $"{text} is not an NBD address: {why}");
}
