using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Network.Capture;

/// <summary>Captures what passes, as it is at this place: large offloaded frames whole, partial checksums partial. A refused frame is captured when it was taken.</summary>
public sealed class CapturedLink : LinkDecorator
{
    private readonly CaptureFile _file;
    private readonly bool _ownsFile;
    private readonly int _number;

    /// <summary>Takes ownership of <paramref name="inner"/>, and of the file unless several links share it.</summary>
    public CapturedLink(ILink inner, CaptureFile file, string name, MacAddress? address = null, bool ownsFile = true)
        : base(inner)
    {
        _file = file;
        _ownsFile = ownsFile;
        _number = file.AddInterface(name, address);
    }

    /// <inheritdoc/>
    public override bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (!Inner.TrySend(frame, offload))
        {
            return false;
        }
        _file.Add(_number, CaptureDirection.Outbound, frame);
        return true;
    }

    /// <inheritdoc/>
    public override int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        int length = Inner.TryReceive(buffer, out offload);
        if (length != 0)
        {
            _file.Add(_number, CaptureDirection.Inbound, buffer[..length]);
        }
        return length;
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        base.Dispose(disposing);
        if (_ownsFile)
        {
            _file.Dispose();
        }
    }
}
