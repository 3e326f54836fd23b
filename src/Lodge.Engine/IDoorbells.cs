namespace Lodge.Engine;

/// <summary>A place where a guest's write is only a signal.</summary>
/// <param name="IsPort">An I/O port, as opposed to a guest physical address.</param>
/// <param name="Address">Port or address.</param>
/// <param name="Width">1, 2, 4 or 8 bytes: writes of other widths go to the bus. 0: any width.</param>
/// <param name="Value">The value whose write is the signal (others go to the bus), or null for any.</param>
public readonly record struct Doorbell(bool IsPort, ulong Address, int Width, ulong? Value);

/// <summary>Lets guest writes signal eventfds without the processor leaving the guest for the bus (KVM's ioeventfd).</summary>
public interface IDoorbells
{
    /// <summary>From now on such writes are added to the eventfd in place of reaching the bus. Any thread, also while processors run.</summary>
    /// <returns>False when the place is taken or the engine has no more: the writes then go on reaching the bus.</returns>
    bool TryAttach(in Doorbell doorbell, int eventDescriptor);

    /// <summary>Undoes <see cref="TryAttach"/> with the same arguments. A write under way still signals.</summary>
    void Detach(in Doorbell doorbell, int eventDescriptor);
}

/// <summary>Lets an eventfd raise a message-signalled interrupt without passing through this process (KVM's irqfd).</summary>
public interface IInterruptEvents
{
    /// <summary>Every signal of the eventfd is from now on the message, which must be edge-triggered, sent to the local APICs. Any thread.</summary>
    /// <returns>The binding, or null when the engine has no more.</returns>
    IInterruptEvent? TryAttach(int eventDescriptor, ulong address, uint data);
}

/// <summary>An eventfd bound to a message. Disposing unbinds it; the eventfd remains its owner's.</summary>
public interface IInterruptEvent : IDisposable
{
    /// <summary>Changes the message, as a guest does when it moves an interrupt to another processor.</summary>
    void Route(ulong address, uint data);
}
