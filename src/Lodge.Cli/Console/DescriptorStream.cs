namespace Lodge.Cli.Console;

/// <summary>A file descriptor of this process as a stream.</summary>
/// <param name="descriptor">The descriptor; it stays open.</param>
internal sealed class DescriptorStream(int descriptor) : Stream
{
    public override bool CanRead => true;

    public override bool CanSeek => false;

    public override bool CanWrite => true;

    public override long Length => throw new NotSupportedException();

    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    public override int Read(byte[] buffer, int offset, int count) => HostFile.Read(descriptor, buffer.AsSpan(offset, count));

    public override int Read(Span<byte> buffer) => HostFile.Read(descriptor, buffer);

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        if (!HostFile.Write(descriptor, buffer))
        {
            throw new IOException("nobody reads the output");
        }
    }

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();
}
