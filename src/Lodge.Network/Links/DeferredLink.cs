using Lodge.Network.Packets;

namespace Lodge.Network.Links;

/// <summary>
/// A link that is opened when the card sends its first frame: for networks where nothing comes before that. If it cannot be opened then, frames are dropped as by a cable that
/// leads nowhere.
/// </summary>
/// <param name="open">Opens the link, on the card's thread.</param>
/// <param name="failed">Told why it could not be opened, once.</param>
/// <param name="sendOffloads">What the link will report as <see cref="ILink.SendOffloads"/>.</param>
/// <param name="maximumFrame">What it will report as <see cref="ILink.MaximumFrame"/>.</param>
public sealed class DeferredLink(Func<ILink> open, Action<NetworkException> failed, OffloadFeatures sendOffloads, int maximumFrame) : ILink
{
    private OffloadFeatures _accepted;
    private Action? _wake;
    private ILink? _link;
    private bool _tried;

    /// <inheritdoc/>
    public OffloadFeatures SendOffloads => sendOffloads;

    /// <inheritdoc/>
    public int MaximumFrame => maximumFrame;

    /// <inheritdoc/>
    public bool IsUp => _link?.IsUp ?? true;

    /// <summary>The link, or null while it is not open.</summary>
    public ILink? Inner => _link;

    /// <inheritdoc/>
    public void AcceptOffloads(OffloadFeatures accepted)
    {
        _accepted = accepted;
        _link?.AcceptOffloads(accepted);
    }

    /// <inheritdoc/>
    public void Connect(Action wake)
    {
        _wake = wake;
        _link?.Connect(wake);
    }

    /// <inheritdoc/>
    public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (!_tried)
        {
            Open();
        }
        return _link?.TrySend(frame, offload) ?? true;
    }

    /// <inheritdoc/>
    public int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        if (_link is { } link)
        {
            return link.TryReceive(buffer, out offload);
        }
        offload = default;
        return 0;
    }

    /// <inheritdoc/>
    public void Dispose() => _link?.Dispose();

    private void Open()
    {
        _tried = true;
        try
        {
            ILink link = open();
            link.AcceptOffloads(_accepted);
            if (_wake is { } wake)
            {
                link.Connect(wake);
            }
            _link = link;
        }
        catch (NetworkException e)
        {
            failed(e);
        }
    }
}
