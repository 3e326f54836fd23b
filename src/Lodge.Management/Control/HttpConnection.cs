using System.Globalization;
using System.Text;

namespace Lodge.Management.Control;

/// <summary>The first lines of an HTTP/1.1 message (RFC 9112, 2.1): start line and header fields, whose names are in lower case.</summary>
/// <param name="StartLine">Request line or status line.</param>
/// <param name="Fields">Header fields; of a repeated one the last.</param>
internal sealed record HttpHead(string StartLine, IReadOnlyDictionary<string, string> Fields)
{
    /// <summary>Value of a field, or null.</summary>
    public string? this[string name] => Fields.TryGetValue(name, out string? value) ? value : null;
}

/// <summary>A peer that does not speak HTTP, or not the part of it that is spoken here.</summary>
/// <param name="message">What is wrong.</param>
/// <param name="status">Status of the answer.</param>
internal sealed class HttpFormatException(string message, int status = 400) : Exception(message)
{
    /// <summary>Status of the answer.</summary>
    public int Status => status;
}

/// <summary>
/// HTTP/1.1 messages over a stream, for both sides of a control socket: heads of bounded size, bodies with a length or in chunks. Small on purpose: a machine's process shall
/// start in milliseconds and stay small (decision 0009).
/// </summary>
/// <param name="stream">The connection; closed with this.</param>
internal sealed class HttpConnection(Stream stream) : IDisposable
{
    /// <summary>Most bytes of a head.</summary>
    public const int LargestHead = 16 << 10;

    private byte[] _buffer = new byte[4096];
    private int _start, _end;

    /// <summary>Reads the next head; null at an orderly end of the connection.</summary>
    /// <exception cref="HttpFormatException">It is malformed or too large.</exception>
    /// <exception cref="IOException">The connection broke.</exception>
    public async Task<HttpHead?> ReadHeadAsync(CancellationToken cancellation)
    {
        for (int searched = 0; ;)
        {
            int at = _buffer.AsSpan(_start + searched, _end - _start - searched).IndexOf("\r\n\r\n"u8);
            if (at >= 0)
            {
                string text = Encoding.ASCII.GetString(_buffer, _start, searched + at);
                _start += searched + at + 4;
                return Parse(text);
            }
            searched = Math.Max(0, _end - _start - 3);
            if (_end - _start > LargestHead)
            {
                throw new HttpFormatException($"head of more than {LargestHead} bytes");
            }
            if (!await FillAsync(cancellation).ConfigureAwait(false))
            {
                return _end == _start ? null : throw new HttpFormatException("connection ended within a head");
            }
        }
    }

    /// <summary>Reads a body as the head says.</summary>
    /// <param name="head">The head before it.</param>
    /// <param name="limit">Most bytes.</param>
    /// <param name="cancellation">Gives up.</param>
    /// <exception cref="HttpFormatException">It is malformed or too large.</exception>
    public async Task<byte[]> ReadBodyAsync(HttpHead head, long limit, CancellationToken cancellation)
    {
        using MemoryStream body = new();
        await CopyBodyAsync(head, body, limit, cancellation).ConfigureAwait(false);
        return body.ToArray();
    }

    /// <summary>Copies a body to a stream.</summary>
    /// <exception cref="HttpFormatException">It is malformed, too large, or ends before its end.</exception>
    public async Task CopyBodyAsync(HttpHead head, Stream target, long limit, CancellationToken cancellation)
    {
        if (head["transfer-encoding"] is { } encoding)
        {
            if (!encoding.Equals("chunked", StringComparison.OrdinalIgnoreCase))
            {
                throw new HttpFormatException($"transfer encoding '{encoding}' is not known");
            }
            for (long total = 0; ;)
            {
                string line = await ReadLineAsync(cancellation).ConfigureAwait(false);
                if (!long.TryParse(line.Split(';')[0], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out long size) || size < 0 || size > limit - total)
                {
                    throw new HttpFormatException($"chunk of size '{line}' is malformed or too large");
                }
                await CopyAsync(target, size, cancellation).ConfigureAwait(false);
                total += size;
                if (await ReadLineAsync(cancellation).ConfigureAwait(false) is { Length: not 0 } trailer)
                {
                    throw new HttpFormatException($"'{trailer}' follows a chunk");
                }
                if (size == 0)
                {
                    return;
                }
            }
        }
        string length = head["content-length"] ?? "0";
        if (!long.TryParse(length, NumberStyles.None, CultureInfo.InvariantCulture, out long count) || count > limit)
        {
            throw new HttpFormatException($"body of length '{length}' is malformed or larger than {limit} bytes");
        }
        await CopyAsync(target, count, cancellation).ConfigureAwait(false);
    }

    /// <summary>Writes a head.</summary>
    public Task WriteHeadAsync(string startLine, IEnumerable<(string Name, string Value)> fields, CancellationToken cancellation)
    {
        StringBuilder text = new(startLine);
        text.Append("\r\n");
        foreach ((string name, string value) in fields)
        {
            text.Append(name).Append(": ").Append(value).Append("\r\n");
        }
        text.Append("\r\n");
        return WriteAsync(Encoding.ASCII.GetBytes(text.ToString()), cancellation);
    }

    /// <summary>Writes bytes of a body.</summary>
    public async Task WriteAsync(ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        await stream.WriteAsync(data, cancellation).ConfigureAwait(false);
        await stream.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <summary>A stream that writes chunks of a body; disposing it does not end the body, <see cref="WriteLastChunkAsync"/> does.</summary>
    public Stream ChunkStream() => new ChunkWriter(this);

    /// <summary>Ends a body of chunks.</summary>
    public Task WriteLastChunkAsync(CancellationToken cancellation) => WriteAsync("0\r\n\r\n"u8.ToArray(), cancellation);

    /// <summary>Whether the peer has sent more than was read of it yet.</summary>
    public bool HasMore => _start != _end;

    /// <summary>The connection from here on, when it has become something else than HTTP.</summary>
    public Stream Raw() => new RestStream(stream, _buffer.AsMemory(_start, _end - _start));

    /// <inheritdoc/>
    public void Dispose() => stream.Dispose();

    private static HttpHead Parse(string text)
    {
        string[] lines = text.Split("\r\n");
        Dictionary<string, string> fields = new(StringComparer.Ordinal);
        foreach (string line in lines.AsSpan(1))
        {
            int colon = line.IndexOf(':', StringComparison.Ordinal);
            if (colon <= 0)
            {
                throw new HttpFormatException("malformed header field");
            }
            fields[line[..colon].ToLowerInvariant()] = line[(colon + 1)..].Trim();
        }
        return new HttpHead(lines[0], fields);
    }

    private async Task<string> ReadLineAsync(CancellationToken cancellation)
    {
        const int longest = 128;
        while (true)
        {
            int at = _buffer.AsSpan(_start, _end - _start).IndexOf("\r\n"u8);
            if (at is >= 0 and <= longest)
            {
                string line = Encoding.ASCII.GetString(_buffer, _start, at);
                _start += at + 2;
                return line;
            }
            if (_end - _start > longest || !await FillAsync(cancellation).ConfigureAwait(false))
            {
                throw new HttpFormatException("malformed chunk");
            }
        }
    }

    private async Task CopyAsync(Stream target, long count, CancellationToken cancellation)
    {
        while (count != 0)
        {
            if (_start == _end && !await FillAsync(cancellation).ConfigureAwait(false))
            {
                throw new HttpFormatException("connection ended within a body");
            }
            int part = (int)Math.Min(count, _end - _start);
            await target.WriteAsync(_buffer.AsMemory(_start, part), cancellation).ConfigureAwait(false);
            _start += part;
            count -= part;
        }
    }

    private async Task<bool> FillAsync(CancellationToken cancellation)
    {
        if (_start != 0)
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            (_start, _end) = (0, _end - _start);
        }
        if (_end == _buffer.Length)
        {
            Array.Resize(ref _buffer, _buffer.Length * 2);
        }
        int count = await stream.ReadAsync(_buffer.AsMemory(_end), cancellation).ConfigureAwait(false);
        _end += count;
        return count != 0;
    }

    /// <summary>Writes each piece as a chunk (RFC 9112, 7.1).</summary>
    private sealed class ChunkWriter(HttpConnection connection) : Stream
    {
        public override bool CanRead => false;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override async ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            if (!buffer.IsEmpty)
            {
                byte[] chunk = [.. Encoding.ASCII.GetBytes(buffer.Length.ToString("x", CultureInfo.InvariantCulture)), .. "\r\n"u8, .. buffer.Span, .. "\r\n"u8];
                await connection.WriteAsync(chunk, cancellationToken).ConfigureAwait(false);
            }
        }

        public override Task WriteAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) => WriteAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

        public override void Write(byte[] buffer, int offset, int count) => WriteAsync(buffer.AsMemory(offset, count)).AsTask().GetAwaiter().GetResult();

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }

    /// <summary>A stream of which the first bytes were read already.</summary>
    private sealed class RestStream(Stream stream, ReadOnlyMemory<byte> first) : Stream
    {
        private ReadOnlyMemory<byte> _first = first;

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => true;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override int Read(Span<byte> buffer)
        {
            int early = TakeFirst(buffer);
            return early != 0 ? early : stream.Read(buffer);
        }

        public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            int early = TakeFirst(buffer.Span);
            return early != 0 ? new(early) : stream.ReadAsync(buffer, cancellationToken);
        }

        public override Task<int> ReadAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) => ReadAsync(buffer.AsMemory(offset, count), cancellationToken).AsTask();

        public override void Write(byte[] buffer, int offset, int count) => stream.Write(buffer, offset, count);

        public override void Write(ReadOnlySpan<byte> buffer) => stream.Write(buffer);

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default) => stream.WriteAsync(buffer, cancellationToken);

        public override Task WriteAsync(byte[] buffer, int offset, int count, CancellationToken cancellationToken) => stream.WriteAsync(buffer, offset, count, cancellationToken);

        public override void Flush() => stream.Flush();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        protected override void Dispose(bool disposing)
        {
            if (disposing)
            {
                stream.Dispose();
            }
            base.Dispose(disposing);
        }

        private int TakeFirst(Span<byte> buffer)
        {
            int count = Math.Min(_first.Length, buffer.Length);
            _first.Span[..count].CopyTo(buffer);
            _first = _first[count..];
            return count;
        }
    }
}
