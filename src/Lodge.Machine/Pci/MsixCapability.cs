using System.Buffers.Binary;
using Lodge.Engine.State;

namespace Lodge.Machine.Pci;

/// <summary>
/// MSI-X (PCI Local Bus 3.0, 6.8.2): a table of messages, a mask for each vector and for the function, and pending bits for what came while masked.
/// Messages only go to the interrupt address range; a table entry that points elsewhere sends nothing, so that a device cannot be made to write
/// memory or registers by it.
/// </summary>
public sealed class MsixCapability : IIoHandler
{
    /// <summary>Most vectors that a function may have.</summary>
    public const int MaximumVectors = 2048;

    /// <summary>Bytes of a table entry: message address (8), data (4), vector control (4).</summary>
    public const int EntrySize = 16;

    private const int ControlOffset = 2;        // in the capability
    private const ushort ControlEnable = 1 << 15;
    private const ushort ControlMask = 1 << 14;
    private const ulong InterruptRange = 0xFEE0_0000, InterruptRangeMask = ~0xF_FFFFUL;

    private readonly Lock _gate = new();
    private readonly int _capability;
    private readonly byte[] _table;
    private readonly byte[] _pending;
    private IMessageInterruptTarget? _target;
    private volatile bool _enabled;
    private bool _open;         // enabled, not masked as a whole, bus master

    internal MsixCapability(int vectors, int bar, uint tableOffset, uint pendingOffset, PciConfigurationSpace space)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(vectors);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(vectors, MaximumVectors);
        Vectors = vectors;
        _table = new byte[vectors * EntrySize];
        _pending = new byte[(vectors + 63) / 64 * 8];
        Span<byte> body = stackalloc byte[10];
        BinaryPrimitives.WriteUInt16LittleEndian(body, (ushort)(vectors - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(body[2..], tableOffset | (uint)bar);
        BinaryPrimitives.WriteUInt32LittleEndian(body[6..], pendingOffset | (uint)bar);
        Span<byte> writable = stackalloc byte[10];
        BinaryPrimitives.WriteUInt16LittleEndian(writable, ControlEnable | ControlMask);
        _capability = space.AddCapability(PciRegisters.CapabilityMsix, body, writable);
        MaskAll();
    }

    /// <summary>Number of vectors.</summary>
    public int Vectors { get; }

    /// <summary>Bytes of the table.</summary>
    public int TableLength => _table.Length;

    /// <summary>Bytes of the pending bit array.</summary>
    public int PendingLength => _pending.Length;

    /// <summary>Whether the guest enabled MSI-X; INTx is then not used.</summary>
    public bool Enabled => _enabled;

    /// <summary>Sends the message of a vector, or notes it as pending while masked. Without effect when MSI-X is disabled. Any thread.</summary>
    public void Signal(int vector)
    {
        if ((uint)vector >= (uint)Vectors || !_enabled)
        {
            return;
        }
        ulong address;
        uint data;
        lock (_gate)
        {
            if (!_open || Masked(vector))
            {
                _pending[vector / 8] |= (byte)(1 << (vector % 8));
                return;
            }
            (address, data) = Message(vector);
        }
        Send(address, data);
    }

    /// <summary>Loads 4 or 8 aligned bytes of the table.</summary>
    public IoResult Read(ulong offset, Span<byte> data) => Load(_table, offset, data);

    /// <summary>Loads 4 or 8 aligned bytes of the pending bit array.</summary>
    public IoResult ReadPending(ulong offset, Span<byte> data) => Load(_pending, offset, data);

    /// <summary>Stores 4 or 8 aligned bytes of the table; unmasking sends what is pending.</summary>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if (!Fits(_table, offset, data.Length))
        {
            return IoResult.Invalid;
        }
        int vector = (int)(offset / EntrySize);
        lock (_gate)
        {
            data.CopyTo(_table.AsSpan((int)offset));
            _table.AsSpan((vector * EntrySize) + 13, 3).Clear();
            _table[(vector * EntrySize) + 12] &= 1;
        }
        Flush(vector, vector + 1);
        return IoResult.Done;
    }

    internal void Connect(IMessageInterruptTarget target) => _target = target;

    internal void Disconnect() => _target = null;

    internal void ControlWritten(PciConfigurationSpace space, bool busMaster)
    {
        ushort control = space.UInt16(_capability + ControlOffset);
        bool opened;
        lock (_gate)
        {
            bool was = _open;
            _enabled = (control & ControlEnable) != 0;
            _open = _enabled && (control & ControlMask) == 0 && busMaster;
            opened = _open && !was;
        }
        if (opened)
        {
            Flush(0, Vectors);
        }
    }

    internal void Reset(PciConfigurationSpace space)
    {
        space.SetBits16(_capability + ControlOffset, ControlEnable | ControlMask, false);
        lock (_gate)
        {
            Array.Clear(_table);
            Array.Clear(_pending);
            MaskAll();
            _enabled = _open = false;
        }
    }

    internal MsixState Save()
    {
        lock (_gate)
        {
            return new MsixState([.. _table], [.. _pending]);
        }
    }

    internal void Restore(MsixState? state, PciConfigurationSpace space)
    {
        state ??= MsixState.Empty;
        if ((state.Table.Length != 0 && state.Table.Length != _table.Length) || (state.Pending.Length != 0 && state.Pending.Length != _pending.Length))
        {
            throw new SavedStateException($"saved state has {state.Table.Length / EntrySize} MSI-X vectors, the function {Vectors}");
        }
        lock (_gate)
        {
            Array.Clear(_table);
            Array.Clear(_pending);
            MaskAll();
            state.Table.CopyTo(_table, 0);
            state.Pending.CopyTo(_pending, 0);
            for (int i = 0; i < Vectors; i++)
            {
                _table.AsSpan((i * EntrySize) + 13, 3).Clear();
                _table[(i * EntrySize) + 12] &= 1;
            }
            _open = false;      // ControlWritten follows and sends what is pending
        }
    }

    private static bool Fits(byte[] registers, ulong offset, int length) =>
        length is 4 or 8 && offset % (ulong)length == 0 && offset < (ulong)registers.Length && (ulong)length <= (ulong)registers.Length - offset;

    private IoResult Load(byte[] registers, ulong offset, Span<byte> data)
    {
        if (!Fits(registers, offset, data.Length))
        {
            return IoResult.Invalid;
        }
        lock (_gate)
        {
            registers.AsSpan((int)offset, data.Length).CopyTo(data);
        }
        return IoResult.Done;
    }

    private void Flush(int first, int end)
    {
        for (int vector = first; vector < end; vector++)
        {
            ulong address;
            uint data;
            lock (_gate)
            {
                byte bit = (byte)(1 << (vector % 8));
                if (!_open || Masked(vector) || (_pending[vector / 8] & bit) == 0)
                {
                    continue;
                }
                _pending[vector / 8] &= (byte)~bit;
                (address, data) = Message(vector);
            }
            Send(address, data);
        }
    }

    private void Send(ulong address, uint data)
    {
        if ((address & InterruptRangeMask) == InterruptRange)
        {
            _target?.SignalMessage(address, data);
        }
    }

    private bool Masked(int vector) => (_table[(vector * EntrySize) + 12] & 1) != 0;

    private (ulong Address, uint Data) Message(int vector)
    {
        ReadOnlySpan<byte> entry = _table.AsSpan(vector * EntrySize, EntrySize);
        return (BinaryPrimitives.ReadUInt64LittleEndian(entry), BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]));
    }

    private void MaskAll()
    {
        for (int vector = 0; vector < Vectors; vector++)
        {
            _table[(vector * EntrySize) + 12] = 1;
        }
    }
}
