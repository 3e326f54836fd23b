using System.Runtime.InteropServices;

namespace Lodge.Storage.Nbd.Tls;

/// <summary>TLS over another channel. OpenSSL reads and writes memory; this class carries the bytes, so that no thread waits.</summary>
internal sealed class TlsChannel : NbdChannel
{
    private const int CipherLength = 128 * 1024;
    private const int PlainLength = 64 * 1024; // encrypted at once; with records' overhead less than CipherLength

    private readonly NbdChannel _inner;
    private readonly Lock _lock = new(); // one OpenSSL object is used by one thread at a time
    private readonly SemaphoreSlim _sending = new(1);
    private readonly byte[] _incoming = GC.AllocateUninitializedArray<byte>(CipherLength, pinned: true);
    private readonly byte[] _outgoing = GC.AllocateUninitializedArray<byte>(CipherLength, pinned: true);
    private readonly nint _read;
    private readonly nint _write;
    private nint _ssl;

    /// <summary>Takes over <paramref name="ssl"/>, which is set up but has no streams yet.</summary>
    public TlsChannel(NbdChannel inner, nint ssl)
    {
        _inner = inner;
        _ssl = ssl;
        _read = OpenSsl.BIO_new(OpenSsl.BIO_s_mem());
        _write = OpenSsl.BIO_new(OpenSsl.BIO_s_mem());
        OpenSsl.SSL_set_bio(ssl, _read, _write);
    }

    /// <summary>Agrees on keys and checks the peer.</summary>
    /// <exception cref="IOException">The peer is not accepted, or does not accept this side.</exception>
    public async ValueTask HandshakeAsync(CancellationToken cancellation)
    {
        while (true)
        {
            var (result, error, reason) = Try();
            await DrainAsync(cancellation).ConfigureAwait(false);
            if (result == 1)
            {
                return;
            }

            if (error != OpenSsl.ErrorWantRead)
            {
                throw new IOException($"TLS: {reason}");
            }

            if (!await FeedAsync(cancellation).ConfigureAwait(false))
            {
                throw new IOException("TLS: the peer ended the connection");
            }
        }

        (int Result, int Error, string Reason) Try()
        {
            lock (_lock)
            {
                OpenSsl.ERR_clear_error();
                var result = OpenSsl.SSL_do_handshake(Ssl);
                var error = result == 1 ? 0 : OpenSsl.SSL_get_error(Ssl, result);
                return (result, error, error is 0 or OpenSsl.ErrorWantRead ? "" : Reason());
            }
        }
    }

    public override async ValueTask<int> ReceiveAsync(Memory<byte> destination, CancellationToken cancellation)
    {
        if (destination.Length == 0)
        {
            return 0;
        }

        while (true)
        {
            var (count, ended, pending) = Decrypt(destination.Span);
            if (pending)
            {
                await DrainAsync(cancellation).ConfigureAwait(false);
            }

            if (count > 0 || ended)
            {
                return count;
            }

            if (!await FeedAsync(cancellation).ConfigureAwait(false))
            {
                throw new IOException("TLS: the connection ended without notice");
            }
        }
    }

    public override async ValueTask SendAsync(ReadOnlyMemory<byte> source, CancellationToken cancellation)
    {
        while (source.Length > 0)
        {
            var part = source[..Math.Min(source.Length, PlainLength)];
            await _sending.WaitAsync(cancellation).ConfigureAwait(false);
            try
            {
                await SendPendingAsync(Encrypt(part.Span), cancellation).ConfigureAwait(false);
            }
            finally
            {
                _sending.Release();
            }

            source = source[part.Length..];
        }
    }

    public override async ValueTask FinishAsync(CancellationToken cancellation)
    {
        lock (_lock)
        {
            OpenSsl.ERR_clear_error();
            _ = OpenSsl.SSL_shutdown(Ssl); // says close_notify; the peer's own is not waited for
            OpenSsl.ERR_clear_error();
        }

        await DrainAsync(cancellation).ConfigureAwait(false);
        await _inner.FinishAsync(cancellation).ConfigureAwait(false);
    }

    public override void Abort() => _inner.Abort();

    public override void Dispose()
    {
        _inner.Dispose();
        lock (_lock)
        {
            if (_ssl != 0)
            {
                OpenSsl.SSL_free(_ssl);
                _ssl = 0;
            }
        }
    }

    private nint Ssl => _ssl != 0 ? _ssl : throw new ObjectDisposedException(nameof(TlsChannel));

    private unsafe (int Count, bool Ended, bool Pending) Decrypt(Span<byte> destination)
    {
        lock (_lock)
        {
            var total = 0;
            var ended = false;
            fixed (byte* data = destination)
            {
                while (total < destination.Length)
                {
                    OpenSsl.ERR_clear_error();
                    var count = OpenSsl.SSL_read(Ssl, data + total, destination.Length - total);
                    if (count > 0)
                    {
                        total += count;
                        continue;
                    }

                    var error = OpenSsl.SSL_get_error(Ssl, count);
                    ended = error == OpenSsl.ErrorZeroReturn;
                    if (!ended && error != OpenSsl.ErrorWantRead && total == 0)
                    {
                        throw new IOException($"TLS: {Reason()}");
                    }

                    break;
                }
            }

            return (total, ended, OpenSsl.BIO_ctrl_pending(_write) > 0);
        }
    }

    /// <summary>Encrypts, and takes as much as there is room for.</summary>
    private unsafe int Encrypt(ReadOnlySpan<byte> source)
    {
        lock (_lock)
        {
            fixed (byte* data = source)
            {
                for (var done = 0; done < source.Length;)
                {
                    OpenSsl.ERR_clear_error();
                    var count = OpenSsl.SSL_write(Ssl, data + done, source.Length - done);
                    if (count <= 0)
                    {
                        throw new IOException($"TLS: {Reason()}");
                    }

                    done += count;
                }
            }

            return TakeCipher();
        }
    }

    private async ValueTask DrainAsync(CancellationToken cancellation)
    {
        await _sending.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            await SendPendingAsync(LockedTakeCipher(), cancellation).ConfigureAwait(false);
        }
        finally
        {
            _sending.Release();
        }
    }

    private async ValueTask SendPendingAsync(int count, CancellationToken cancellation)
    {
        for (; count > 0; count = LockedTakeCipher())
        {
            await _inner.SendAsync(_outgoing.AsMemory(0, count), cancellation).ConfigureAwait(false);
        }
    }

    private int LockedTakeCipher()
    {
        lock (_lock)
        {
            _ = Ssl;
            return TakeCipher();
        }
    }

    private unsafe int TakeCipher()
    {
        if (OpenSsl.BIO_ctrl_pending(_write) == 0)
        {
            return 0;
        }

        fixed (byte* data = _outgoing)
        {
            return OpenSsl.BIO_read(_write, data, _outgoing.Length);
        }
    }

    /// <summary>Takes encrypted bytes from the peer.</summary>
    private async ValueTask<bool> FeedAsync(CancellationToken cancellation)
    {
        var count = await _inner.ReceiveAsync(_incoming, cancellation).ConfigureAwait(false);
        if (count > 0)
        {
            Store(count);
        }

        return count > 0;
    }

    private unsafe void Store(int length)
    {
        lock (_lock)
        {
            _ = Ssl;
            fixed (byte* data = _incoming)
            {
                if (OpenSsl.BIO_write(_read, data, length) != length)
                {
                    throw new IOException("TLS: out of memory");
                }
            }
        }
    }

    private string Reason()
    {
        var verification = OpenSsl.SSL_get_verify_result(Ssl);
        return verification != 0 && Marshal.PtrToStringUTF8(OpenSsl.X509_verify_cert_error_string(verification)) is { } text
            ? $"the peer's certificate is not accepted: {text}"
            : OpenSsl.LastError();
    }
}
