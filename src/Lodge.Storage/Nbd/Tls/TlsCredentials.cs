using System.Net;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd.Tls;

/// <summary>
/// What a side of TLS shows and accepts: certificates in PEM files with QEMU's names (<c>ca-cert.pem</c>, optional <c>ca-crl.pem</c>, <c>server-cert.pem</c>,
/// <c>server-key.pem</c>, <c>client-cert.pem</c>, <c>client-key.pem</c>), or pre-shared keys (a file of lines <c>user:hex</c>, in a folder named <c>keys.psk</c>). TLS 1.2 and 1.3.
/// </summary>
public sealed class TlsCredentials : IDisposable
{
    private const int LongestIdentity = 256;
    private const int LongestKey = 256;
    private const int LongestFile = 1 << 20;
    private const string PskCiphers = "kECDHEPSK:kDHEPSK:kPSK";

    private readonly bool _certificates;
    private readonly Dictionary<string, byte[]> _keys = new(StringComparer.Ordinal);
    private string _user = "";
    private nint _context;

    private unsafe TlsCredentials(bool server, bool certificates)
    {
        OpenSsl.Require();
        _certificates = certificates;
        _context = OpenSsl.SSL_CTX_new(server ? OpenSsl.TLS_server_method() : OpenSsl.TLS_client_method());
        if (_context == 0)
        {
            throw new DiskException(DiskError.Unsupported, $"TLS cannot be used: {OpenSsl.LastError()}");
        }

        _ = OpenSsl.SSL_CTX_ctrl(_context, OpenSsl.CtrlSetMinProtoVersion, OpenSsl.Tls12, 0);
        _ = OpenSsl.SSL_CTX_set_options(_context, OpenSsl.OpNoCompression | OpenSsl.OpNoRenegotiation);
        OpenSsl.SSL_CTX_set_default_passwd_cb(_context, &NoPassphrase);
        if (server)
        {
            _ = OpenSsl.SSL_CTX_ctrl(_context, OpenSsl.CtrlSetDhAuto, 1, 0);
            _ = OpenSsl.SSL_CTX_set_num_tickets(_context, 0);
        }
    }

    /// <summary>The certificates in a folder for a server.</summary>
    /// <param name="folder">Folder of the PEM files.</param>
    /// <param name="verifyClient">Whether a client must show a certificate that <c>ca-cert.pem</c> signed.</param>
    /// <exception cref="DiskException">A file is missing or wrong.</exception>
    public static TlsCredentials ServerCertificates(string folder, bool verifyClient = true)
    {
        var credentials = new TlsCredentials(true, true);
        return credentials.Guard(() =>
        {
            credentials.LoadPair(folder, "server");
            if (verifyClient)
            {
                credentials.LoadAuthority(folder);
                OpenSsl.SSL_CTX_set_client_CA_list(credentials._context, OpenSsl.SSL_load_client_CA_file(Path.Combine(folder, "ca-cert.pem")));
                OpenSsl.SSL_CTX_set_verify(credentials._context, OpenSsl.VerifyPeer | OpenSsl.VerifyFailIfNoPeerCert, 0);
            }
        });
    }

    /// <summary>The certificates in a folder for a client; its own are optional.</summary>
    /// <param name="folder">Folder of the PEM files, or null for the authorities that the host trusts.</param>
    /// <param name="verifyServer">Whether the server's certificate must be signed by <c>ca-cert.pem</c> and name the host.</param>
    /// <exception cref="DiskException">A file is missing or wrong.</exception>
    public static TlsCredentials ClientCertificates(string? folder, bool verifyServer = true)
    {
        var credentials = new TlsCredentials(false, true);
        return credentials.Guard(() =>
        {
            if (verifyServer)
            {
                if (folder is null)
                {
                    _ = OpenSsl.SSL_CTX_set_default_verify_paths(credentials._context);
                }
                else
                {
                    credentials.LoadAuthority(folder);
                }

                OpenSsl.SSL_CTX_set_verify(credentials._context, OpenSsl.VerifyPeer, 0);
            }

            if (folder is not null && File.Exists(Path.Combine(folder, "client-cert.pem")))
            {
                credentials.LoadPair(folder, "client");
            }
        });
    }

    /// <summary>Pre-shared keys for a server.</summary>
    /// <param name="path">The file, or the folder of <c>keys.psk</c>.</param>
    /// <exception cref="DiskException">The file is missing or wrong.</exception>
    public static unsafe TlsCredentials ServerKeys(string path)
    {
        var credentials = new TlsCredentials(true, false);
        return credentials.Guard(() =>
        {
            credentials.LoadKeys(path);
            OpenSsl.SSL_CTX_set_psk_server_callback(credentials._context, &ServerKey);
        });
    }

    /// <summary>A pre-shared key for a client.</summary>
    /// <param name="path">The file, or the folder of <c>keys.psk</c>.</param>
    /// <param name="user">Whose key of the file; if null, the file's only one or that of the user who runs this process.</param>
    /// <exception cref="DiskException">The file is missing or wrong.</exception>
    public static unsafe TlsCredentials ClientKey(string path, string? user = null)
    {
        var credentials = new TlsCredentials(false, false);
        return credentials.Guard(() =>
        {
            credentials.LoadKeys(path);
            credentials._user = user ?? (credentials._keys.Count == 1 ? credentials._keys.Keys.First() : Environment.UserName);
            if (!credentials._keys.ContainsKey(credentials._user))
            {
                throw new DiskException(DiskError.Secret, $"{path} has no key of the user '{credentials._user}'");
            }

            OpenSsl.SSL_CTX_set_psk_client_callback(credentials._context, &ClientKey);
        });
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_context != 0)
        {
            OpenSsl.SSL_CTX_free(_context); // connections hold it until they end
            _context = 0;
        }
    }

    /// <summary>Takes the server's part of the handshake on <paramref name="plain"/>, which the result owns.</summary>
    internal async ValueTask<NbdChannel> AcceptAsync(NbdChannel plain, CancellationToken cancellation)
    {
        var ssl = New();
        OpenSsl.SSL_set_accept_state(ssl);
        return await HandshakeAsync(plain, ssl, cancellation).ConfigureAwait(false);
    }

    /// <summary>Takes the client's part of the handshake on <paramref name="plain"/>, which the result owns.</summary>
    /// <param name="plain">The channel.</param>
    /// <param name="host">Name or address that the server's certificate must name, or null for any.</param>
    /// <param name="cancellation">Ends the wait.</param>
    internal async ValueTask<NbdChannel> ConnectAsync(NbdChannel plain, string? host, CancellationToken cancellation)
    {
        var ssl = New();
        OpenSsl.SSL_set_connect_state(ssl);
        if (host is not null && _certificates)
        {
            if (IPAddress.TryParse(host, out _))
            {
                _ = OpenSsl.X509_VERIFY_PARAM_set1_ip_asc(OpenSsl.SSL_get0_param(ssl), host);
            }
            else
            {
                _ = OpenSsl.SSL_set1_host(ssl, host);
                _ = OpenSsl.SSL_ctrl(ssl, OpenSsl.CtrlSetTlsExtHostname, 0, host);
            }
        }

        return await HandshakeAsync(plain, ssl, cancellation).ConfigureAwait(false);
    }

    private nint New()
    {
        var ssl = _context == 0 ? throw new ObjectDisposedException(nameof(TlsCredentials)) : OpenSsl.SSL_new(_context);
        return ssl != 0 ? ssl : throw new IOException($"TLS: {OpenSsl.LastError()}");
    }

    private static async ValueTask<NbdChannel> HandshakeAsync(NbdChannel plain, nint ssl, CancellationToken cancellation)
    {
        var channel = new TlsChannel(plain, ssl);
        try
        {
            await channel.HandshakeAsync(cancellation).ConfigureAwait(false);
            return channel;
        }
        catch
        {
            channel.Dispose();
            throw;
        }
    }

    private TlsCredentials Guard(Action load)
    {
        try
        {
            load();
            return this;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    private void LoadAuthority(string folder)
    {
        var authority = Existing(folder, "ca-cert.pem");
        Check(OpenSsl.SSL_CTX_load_verify_locations(_context, authority, null), authority);
        var revoked = Path.Combine(folder, "ca-crl.pem");
        if (File.Exists(revoked))
        {
            var store = OpenSsl.SSL_CTX_get_cert_store(_context);
            Check(OpenSsl.X509_load_crl_file(OpenSsl.X509_STORE_add_lookup(store, OpenSsl.X509_LOOKUP_file()), revoked, OpenSsl.FiletypePem), revoked);
            _ = OpenSsl.X509_STORE_set_flags(store, OpenSsl.FlagCrlCheck);
        }
    }

    private void LoadPair(string folder, string side)
    {
        var certificate = Existing(folder, $"{side}-cert.pem");
        var key = Existing(folder, $"{side}-key.pem");
        Check(OpenSsl.SSL_CTX_use_certificate_chain_file(_context, certificate), certificate);
        Check(OpenSsl.SSL_CTX_use_PrivateKey_file(_context, key, OpenSsl.FiletypePem), key);
        Check(OpenSsl.SSL_CTX_check_private_key(_context), key);
    }

    private void LoadKeys(string path)
    {
        var file = Directory.Exists(path) ? Path.Combine(path, "keys.psk") : path;
        try
        {
            if (new FileInfo(file) is { Exists: true, Length: > LongestFile })
            {
                throw new DiskException(DiskError.InvalidOption, $"{file} is too long for a file of keys");
            }

            foreach (var line in File.ReadLines(file))
            {
                var colon = line.IndexOf(':', StringComparison.Ordinal);
                if (line.Length == 0 || line[0] == '#')
                {
                    continue;
                }

                var key = colon > 0 && line.Length - colon - 1 is > 0 and <= 2 * LongestKey && Encoding.UTF8.GetByteCount(line.AsSpan(0, colon)) < LongestIdentity
                    ? Convert.FromHexString(line.AsSpan(colon + 1).Trim())
                    : throw new FormatException();
                _keys[line[..colon]] = key;
            }
        }
        catch (FormatException)
        {
            throw new DiskException(DiskError.InvalidOption, $"{file}: a line is not of the form user:hexadecimal-key");
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            throw new DiskException(DiskError.NotFound, $"the keys cannot be read: {failure.Message}", failure);
        }

        if (_keys.Count == 0)
        {
            throw new DiskException(DiskError.InvalidOption, $"{file} has no key");
        }

        // The handle is never freed: a connection's handshake may ask for it after Dispose.
        _ = OpenSsl.SSL_CTX_set_ex_data(_context, 0, GCHandle.ToIntPtr(GCHandle.Alloc(this, GCHandleType.Weak)));
        Check(OpenSsl.SSL_CTX_set_cipher_list(_context, PskCiphers), "pre-shared keys");
    }

    private static string Existing(string folder, string name)
    {
        var path = Path.Combine(folder, name);
        return File.Exists(path) ? path : throw new DiskException(DiskError.NotFound, $"{path} does not exist");
    }

    private static void Check(int result, string what)
    {
        if (result != 1)
        {
            throw new DiskException(DiskError.InvalidOption, $"{what} cannot be used: {OpenSsl.LastError()}");
        }
    }

    private static TlsCredentials? Of(nint ssl)
    {
        var handle = OpenSsl.SSL_CTX_get_ex_data(OpenSsl.SSL_get_SSL_CTX(ssl), 0);
        return handle == 0 ? null : GCHandle.FromIntPtr(handle).Target as TlsCredentials;
    }

    /// <summary>Keys under a passphrase are refused rather than asked for on the terminal.</summary>
    [UnmanagedCallersOnly]
    private static unsafe int NoPassphrase(byte* buffer, int size, int writing, nint state) => 0;

    [UnmanagedCallersOnly]
    private static unsafe uint ServerKey(nint ssl, byte* identity, byte* key, uint room)
    {
        var name = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(identity);
        return name.Length <= LongestIdentity && Of(ssl) is { } self && self._keys.TryGetValue(Encoding.UTF8.GetString(name), out var found)
            ? Give(found, key, room)
            : 0;
    }

    [UnmanagedCallersOnly]
    private static unsafe uint ClientKey(nint ssl, byte* hint, byte* identity, uint identityRoom, byte* key, uint room)
    {
        if (Of(ssl) is not { } self || !self._keys.TryGetValue(self._user, out var found))
        {
            return 0;
        }

        var name = Encoding.UTF8.GetBytes(self._user);
        if (name.Length + 1 > identityRoom)
        {
            return 0;
        }

        name.CopyTo(new Span<byte>(identity, name.Length));
        identity[name.Length] = 0;
        return Give(found, key, room);
    }

    private static unsafe uint Give(byte[] found, byte* key, uint room)
    {
        if (found.Length > room)
        {
            return 0;
        }

        Unsafe.CopyBlockUnaligned(ref *key, ref MemoryMarshal.GetArrayDataReference(found), (uint)found.Length);
        return (uint)found.Length;
    }
}
