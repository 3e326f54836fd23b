using Lodge.Storage.Nbd.Tls;

namespace Lodge.Storage.Nbd;

/// <summary>How a server treats its clients.</summary>
public sealed record NbdServerOptions
{
    /// <summary>Most clients at once; 0 is as many as come. Others wait until one leaves.</summary>
    public int Shared { get; init; } = 1;

    /// <summary>Whether the server stays when the last client has left.</summary>
    public bool Persistent { get; init; }

    /// <summary>If set, nothing but NBD_OPT_STARTTLS is answered before TLS is on (mode FORCEDTLS).</summary>
    public TlsCredentials? Tls { get; init; }

    /// <summary>Time that a client has from its connection to the transmission phase.</summary>
    public TimeSpan NegotiationTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Time that requests under way have to finish when the server is stopped.</summary>
    public TimeSpan StopTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>The newest form of requests and replies that is offered.</summary>
    internal NbdHeaderStyle Newest { get; init; } = NbdHeaderStyle.Extended;
}
