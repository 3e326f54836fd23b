using Lodge.Engine.State;

namespace Lodge.Machine;

/// <summary>Result of one access to a device.</summary>
public enum IoResult
{
    /// <summary>Done; data is valid.</summary>
    Done,

    /// <summary>No such register or width: reads give all ones, writes are dropped.</summary>
    Invalid,

    /// <summary>Will be completed later; the processor waits (see <c>AddressSpace</c>).</summary>
    Deferred,
}

/// <summary>Answers accesses to a claimed region. Called on vCPU threads, concurrently; must not throw, block or allocate without bound.</summary>
public interface IIoHandler
{
    /// <summary>Load of 1, 2, 4 or 8 bytes at <paramref name="offset"/> from the region's start.</summary>
    IoResult Read(ulong offset, Span<byte> data);

    /// <summary>Store of 1, 2, 4 or 8 bytes.</summary>
    IoResult Write(ulong offset, ReadOnlySpan<byte> data);
}

/// <summary>Which space a region lies in.</summary>
public enum RegionSpace
{
    /// <summary>I/O ports.</summary>
    Port,

    /// <summary>Guest physical memory.</summary>
    Memory,
}

/// <summary>A range of ports or memory that a device answers.</summary>
public sealed record RegionClaim(string Name, RegionSpace Space, ulong Base, ulong Length, IIoHandler Handler);

/// <summary>An interrupt input as a device sees it.</summary>
public interface IInterruptLine
{
    /// <summary>Drives the level. Any thread; idempotent.</summary>
    void Set(bool asserted);
}

/// <summary>Where message-signalled interrupts go.</summary>
public interface IMessageInterruptTarget
{
    /// <summary>Delivers a message (see <see cref="Engine.Partition.SignalMessage"/>). Any thread.</summary>
    void SignalMessage(ulong address, uint data);
}

/// <summary>
/// A device of the virtual computer. It knows its lines, its backend and guest memory through small interfaces, never the machine.
/// </summary>
public interface IDevice
{
    /// <summary>Unique name within the machine, also the key of its saved state, for example <c>serial0</c>.</summary>
    string Name { get; }

    /// <summary>
    /// Whether a saved state without this device can be taken: the device came with a later version than states that must still restore, and is then in its
    /// reset state, in which a guest that never saw it does not miss it.
    /// </summary>
    bool IsAbsentInOldStates => false;

    /// <summary>Fixed ports and memory that it answers (PCI BARs are not listed here).</summary>
    IReadOnlyList<RegionClaim> Claims { get; }

    /// <summary>Begins or continues work (threads, timers, I/O).</summary>
    void Start();

    /// <summary>Stops work; returns when no I/O is in flight. State can then be saved.</summary>
    void Stop();

    /// <summary>Back to the power-on state; only while stopped or before the first start.</summary>
    void Reset();

    /// <summary>Writes the saved state; only while stopped.</summary>
    void Save(StateWriter writer);

    /// <summary>Takes a saved state; only while stopped. Bounds-checked.</summary>
    /// <exception cref="SavedStateException">The state is malformed.</exception>
    void Restore(StateReader reader);
}

/// <summary>A device whose work ends when the host has done what it was asked for, which may take long, or for ever: disks, shared folders.</summary>
public interface IHostRequests : IDevice
{
    /// <summary>
    /// Begins no more work and waits until no I/O is in flight, so that <see cref="IDevice.Stop"/> has nothing to give up, which a guest would see as errors. Only while it works and processors stand still.
    /// </summary>
    /// <param name="patience">How long it waits.</param>
    /// <returns>True: <see cref="IDevice.Stop"/> or <see cref="IDevice.Start"/> follows. False: it took longer, and the device works on.</returns>
    bool TryFinish(TimeSpan patience);
}

/// <summary>Host side of a character device (serial port, console port), as the device sees it.</summary>
public interface ICharacterBackend
{
    /// <summary>Connects the device, which then receives input. Called once, before Start.</summary>
    void Connect(ICharacterReceiver receiver);

    /// <summary>Takes output of the guest; returns the number of bytes accepted. When fewer than offered, <see cref="ICharacterReceiver.OutputReady"/> follows.</summary>
    int Write(ReadOnlySpan<byte> data);

    /// <summary>The device can receive again after it had accepted less than offered.</summary>
    void InputReady();

    /// <summary>A program in the guest has opened or closed the device, where the device knows. On the device's worker: it must return at once.</summary>
    void GuestOpened(bool open)
    {
    }
}

/// <summary>Device side of a character backend. Called on any thread.</summary>
public interface ICharacterReceiver
{
    /// <summary>Offers input; returns how many bytes were accepted (0 when full).</summary>
    int Receive(ReadOnlySpan<byte> data);

    /// <summary>The backend accepts output again.</summary>
    void OutputReady();

    /// <summary>The terminal's size changed.</summary>
    void Resize(int columns, int rows);

    /// <summary>The host side opened or closed.</summary>
    void SetConnected(bool connected);
}
