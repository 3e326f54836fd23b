using Lodge.Network.Packets;

namespace Lodge.Network.Links;

/// <summary>A link that passes frames on to another one, which it owns; a decorator changes what it wants to.</summary>
public abstract class LinkDecorator(ILink inner) : ILink
{
    /// <summary>The link below.</summary>
    public ILink Inner => inner;

    /// <inheritdoc/>
    public virtual OffloadFeatures SendOffloads => inner.SendOffloads;

    /// <inheritdoc/>
    public virtual int MaximumFrame => inner.MaximumFrame;

    /// <inheritdoc/>
    public virtual bool IsUp => inner.IsUp;

    /// <inheritdoc/>
    public virtual void AcceptOffloads(OffloadFeatures accepted) => inner.AcceptOffloads(accepted);

    /// <inheritdoc/>
    public virtual void Connect(Action wake) => inner.Connect(wake);

    /// <inheritdoc/>
    public virtual bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload) => inner.TrySend(frame, offload);

    /// <inheritdoc/>
    public virtual int TryReceive(Span<byte> buffer, out FrameOffload offload) => inner.TryReceive(buffer, out offload);

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Releases what the decorator has, then the link below.</summary>
    protected virtual void Dispose(bool disposing) => inner.Dispose();
}
