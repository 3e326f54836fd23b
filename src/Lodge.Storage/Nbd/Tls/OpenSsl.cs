using System.Runtime.InteropServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd.Tls;

/// <summary>The functions of OpenSSL 3 that TLS takes; .NET's own SslStream has no pre-shared keys. Names and meanings: OpenSSL's manual, section 3.</summary>
internal static unsafe partial class OpenSsl
{
    public const int FiletypePem = 1;
    public const int VerifyNone = 0;
    public const int VerifyPeer = 1;
    public const int VerifyFailIfNoPeerCert = 2;
    public const int ErrorSsl = 1;
    public const int ErrorWantRead = 2;
    public const int ErrorZeroReturn = 6;
    public const int CtrlSetTlsExtHostname = 55;
    public const int CtrlSetDhAuto = 118;
    public const int CtrlSetMinProtoVersion = 123;
    public const int Tls12 = 0x0303;
    public const ulong OpNoCompression = 1UL << 17;
    public const ulong OpNoRenegotiation = 1UL << 30;
    public const uint FlagCrlCheck = 4;

    private const string Ssl = "libssl.so.3";
    private const string Crypto = "libcrypto.so.3";

    private static readonly Lazy<bool> Present = new(() => NativeLibrary.TryLoad(Crypto, out _) && NativeLibrary.TryLoad(Ssl, out _));

    /// <summary>Throws <see cref="DiskError.Unsupported"/> with the package's name where the library is missing.</summary>
    public static void Require()
    {
        if (!Present.Value)
        {
            throw new DiskException(DiskError.Unsupported, "TLS needs the library OpenSSL 3: install the package libssl3");
        }
    }

    /// <summary>The reason of the thread's last error; the queue is empty afterwards.</summary>
    public static string LastError()
    {
        var code = ERR_get_error();
        var reason = code == 0 ? null : Marshal.PtrToStringUTF8(ERR_reason_error_string(code));
        ERR_clear_error();
        return reason ?? "unknown error";
    }

    [LibraryImport(Ssl)]
    public static partial nint TLS_server_method();

    [LibraryImport(Ssl)]
    public static partial nint TLS_client_method();

    [LibraryImport(Ssl)]
    public static partial nint SSL_CTX_new(nint method);

    [LibraryImport(Ssl)]
    public static partial void SSL_CTX_free(nint context);

    [LibraryImport(Ssl)]
    public static partial ulong SSL_CTX_set_options(nint context, ulong options);

    [LibraryImport(Ssl)]
    public static partial nint SSL_CTX_ctrl(nint context, int command, nint number, nint pointer);

    [LibraryImport(Ssl)]
    public static partial int SSL_CTX_set_num_tickets(nint context, nuint count);

    [LibraryImport(Ssl, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int SSL_CTX_set_cipher_list(nint context, string ciphers);

    [LibraryImport(Ssl, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int SSL_CTX_load_verify_locations(nint context, string file, string? folder);

    [LibraryImport(Ssl)]
    public static partial int SSL_CTX_set_default_verify_paths(nint context);

    [LibraryImport(Ssl, StringMarshalling = StringMarshalling.Utf8)]
    public static partial nint SSL_load_client_CA_file(string file);

    [LibraryImport(Ssl)]
    public static partial void SSL_CTX_set_client_CA_list(nint context, nint names);

    [LibraryImport(Ssl, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int SSL_CTX_use_certificate_chain_file(nint context, string file);

    [LibraryImport(Ssl, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int SSL_CTX_use_PrivateKey_file(nint context, string file, int type);

    [LibraryImport(Ssl)]
    public static partial int SSL_CTX_check_private_key(nint context);

    [LibraryImport(Ssl)]
    public static partial nint SSL_CTX_get_cert_store(nint context);

    [LibraryImport(Ssl)]
    public static partial void SSL_CTX_set_verify(nint context, int mode, nint callback);

    [LibraryImport(Ssl)]
    public static partial void SSL_CTX_set_default_passwd_cb(nint context, delegate* unmanaged<byte*, int, int, nint, int> callback);

    [LibraryImport(Ssl)]
    public static partial void SSL_CTX_set_psk_server_callback(nint context, delegate* unmanaged<nint, byte*, byte*, uint, uint> callback);

    [LibraryImport(Ssl)]
    public static partial void SSL_CTX_set_psk_client_callback(nint context, delegate* unmanaged<nint, byte*, byte*, uint, byte*, uint, uint> callback);

    [LibraryImport(Ssl)]
    public static partial int SSL_CTX_set_ex_data(nint context, int index, nint data);

    [LibraryImport(Ssl)]
    public static partial nint SSL_CTX_get_ex_data(nint context, int index);

    [LibraryImport(Ssl)]
    public static partial nint SSL_get_SSL_CTX(nint ssl);

    [LibraryImport(Ssl)]
    public static partial nint SSL_new(nint context);

    [LibraryImport(Ssl)]
    public static partial void SSL_free(nint ssl);

    [LibraryImport(Ssl)]
    public static partial void SSL_set_bio(nint ssl, nint read, nint write);

    [LibraryImport(Ssl)]
    public static partial void SSL_set_accept_state(nint ssl);

    [LibraryImport(Ssl)]
    public static partial void SSL_set_connect_state(nint ssl);

    [LibraryImport(Ssl, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int SSL_set1_host(nint ssl, string name);

    [LibraryImport(Ssl)]
    public static partial nint SSL_get0_param(nint ssl);

    [LibraryImport(Ssl, EntryPoint = "SSL_ctrl", StringMarshalling = StringMarshalling.Utf8)]
    public static partial nint SSL_ctrl(nint ssl, int command, nint number, string text);

    [LibraryImport(Ssl)]
    public static partial int SSL_do_handshake(nint ssl);

    [LibraryImport(Ssl)]
    public static partial int SSL_read(nint ssl, byte* data, int length);

    [LibraryImport(Ssl)]
    public static partial int SSL_write(nint ssl, byte* data, int length);

    [LibraryImport(Ssl)]
    public static partial int SSL_shutdown(nint ssl);

    [LibraryImport(Ssl)]
    public static partial int SSL_get_error(nint ssl, int result);

    [LibraryImport(Ssl)]
    public static partial nint SSL_get_verify_result(nint ssl);

    [LibraryImport(Crypto)]
    public static partial nint X509_verify_cert_error_string(nint code);

    [LibraryImport(Crypto, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int X509_VERIFY_PARAM_set1_ip_asc(nint parameters, string address);

    [LibraryImport(Crypto)]
    public static partial nint X509_LOOKUP_file();

    [LibraryImport(Crypto)]
    public static partial nint X509_STORE_add_lookup(nint store, nint method);

    [LibraryImport(Crypto, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int X509_load_crl_file(nint lookup, string file, int type);

    [LibraryImport(Crypto)]
    public static partial int X509_STORE_set_flags(nint store, nuint flags);

    [LibraryImport(Crypto)]
    public static partial nint BIO_s_mem();

    [LibraryImport(Crypto)]
    public static partial nint BIO_new(nint method);

    [LibraryImport(Crypto)]
    public static partial int BIO_read(nint bio, byte* data, int length);

    [LibraryImport(Crypto)]
    public static partial int BIO_write(nint bio, byte* data, int length);

    [LibraryImport(Crypto)]
    public static partial nuint BIO_ctrl_pending(nint bio);

    [LibraryImport(Crypto)]
    public static partial void ERR_clear_error();

    [LibraryImport(Crypto)]
    private static partial nuint ERR_get_error();

    [LibraryImport(Crypto)]
    private static partial nint ERR_reason_error_string(nuint code);
}
