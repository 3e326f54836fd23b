using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Virtio;

namespace Lodge.Machine.Devices.Virtio.Console;

/// <summary>
/// Console device (virtio 1.2, 5.3): one terminal, or with VIRTIO_CONSOLE_F_MULTIPORT several terminals and named channels. Flow control goes both ways
/// without unbounded buffers: see <see cref="ConsolePort"/>.
/// </summary>
public sealed class VirtioConsole : VirtioDevice
{
    private const int ChainsPerTurn = 64;
    private const int OutputPerTurn = 64 << 10;     // a chain may describe 4 GiB: what is left waits for the next turn
    private const int EmergencyCapacity = 256;

    private readonly VirtioConsoleConfiguration _configuration;
    private readonly ConsolePort[] _ports;
    private readonly bool _multiport;
    private readonly byte[] _staging = new byte[4096];
    private readonly byte[] _emergency = new byte[EmergencyCapacity];
    private int _emergencyCount;

    /// <summary>Creates the device and connects its ports to their host sides.</summary>
    /// <exception cref="ArgumentException">There is no port, there are more than 31, or a name is too long.</exception>
    public VirtioConsole(GuestMemory memory, VirtioConsoleConfiguration configuration)
        : base(VirtioDeviceType.Console, memory, QueueSizes(configuration))
    {
        _configuration = configuration;
        _multiport = configuration.Ports.Count > 1 || !configuration.Ports[0].IsConsole;
        _ports = new ConsolePort[configuration.Ports.Count];
        for (int i = 0; i < _ports.Length; i++)
        {
            _ports[i] = new ConsolePort(i, configuration.Ports[i], configuration.Columns, configuration.Rows, Signal, Resized);
        }
        foreach (ConsolePort port in _ports)
        {
            port.Backend?.Connect(port);
        }
    }

    /// <summary>The ports.</summary>
    public IReadOnlyList<ConsolePort> Ports => _ports;

    /// <inheritdoc/>
    protected override ulong DeviceFeatures =>
        VirtioConsoleRegisters.FeatureSize
        | VirtioConsoleRegisters.FeatureEmergencyWrite
        | (_multiport ? VirtioConsoleRegisters.FeatureMultiport : 0);

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => VirtioConsoleRegisters.ConfigurationLength;

    private bool Multiport => Has(VirtioConsoleRegisters.FeatureMultiport);

    /// <summary>Ports that the driver knows of.</summary>
    private ReadOnlySpan<ConsolePort> UsedPorts => Multiport ? _ports : _ports.AsSpan(0, 1);

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
        destination.Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioConsoleRegisters.Columns..], _ports[0].Columns);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioConsoleRegisters.Rows..], _ports[0].Rows);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioConsoleRegisters.MaximumPorts..], (uint)_ports.Length);
    }

    /// <inheritdoc/>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
        int at = VirtioConsoleRegisters.EmergencyWrite - offset;
        if (at >= 0 && at < data.Length && _emergencyCount < EmergencyCapacity)
        {
            _emergency[_emergencyCount++] = data[at];
            Signal();
        }
    }

    /// <inheritdoc/>
    protected override bool ServesOnKick(VirtQueue queue)
    {
        if (queue.Index == VirtioConsoleRegisters.ControlTransmitQueue)
        {
            return Multiport;
        }
        return (queue.Index & 1) != 0 && PortOf(queue) is { Output: null };
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        if (queue.Index == VirtioConsoleRegisters.ControlTransmitQueue)
        {
            TakeControl(chain);
            queue.Complete(chain);
            return true;
        }
        if (PortOf(queue) is not { } port)
        {
            Reject(queue, chain);
            return false;
        }
        port.Output = chain;
        chain.Skip(port.OutputOffset);
        port.OutputOffset = 0;
        return SendOutput(port, queue);
    }

    /// <inheritdoc/>
    protected override void OnWake()
    {
        Span<byte> bytes = stackalloc byte[EmergencyCapacity];
        int count;
        lock (Gate)
        {
            count = _emergencyCount;
            _emergency.AsSpan(0, count).CopyTo(bytes);
        }
        if (count == 0)
        {
            return;
        }
        int taken = _ports[0].Backend?.Write(bytes[..count]) ?? count;
        lock (Gate)
        {
            _emergencyCount -= taken;
            _emergency.AsSpan(taken, _emergencyCount).CopyTo(_emergency);
        }
    }

    /// <inheritdoc/>
    protected override void OnSignal()
    {
        SendControl();
        foreach (ConsolePort port in UsedPorts)
        {
            GiveInput(port);
            if (port is { Output: not null, Blocked: false })
            {
                VirtQueue queue = Queues[VirtioConsoleRegisters.ReceiveQueue(port.Index) + 1];
                if (SendOutput(port, queue))
                {
                    Notify(queue);
                    Kick(queue.Index);
                }
            }
        }
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        foreach (ConsolePort port in _ports)
        {
            port.Reset();
        }
    }

    /// <inheritdoc/>
    protected override void OnQueueReset(VirtQueue queue)
    {
        if ((queue.Index & 1) != 0 && PortOf(queue) is { } port)
        {
            port.Output = null;
            port.OutputOffset = 0;
        }
    }

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer) => writer.Nested(1, new VirtioConsoleState(Array.ConvertAll(_ports, port => port.Save())));

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader)
    {
        VirtioConsoleState state = reader.Nested(1, new VirtioConsoleState([]));
        for (int i = 0; i < Math.Min(state.Ports.Count, _ports.Length); i++)
        {
            _ports[i].Restore(state.Ports[i]);
        }
    }

    private static ushort[] QueueSizes(VirtioConsoleConfiguration configuration)
    {
        int ports = configuration.Ports.Count;
        if (ports is 0 or > VirtioConsoleConfiguration.MaximumPorts || configuration.Ports.Any(port => Encoding.UTF8.GetByteCount(port.Name) > 64))
        {
            throw new ArgumentException($"{configuration.Name}: 1 to {VirtioConsoleConfiguration.MaximumPorts} ports with names of at most 64 bytes are possible");
        }
        bool multiport = ports > 1 || !configuration.Ports[0].IsConsole;
        ushort[] sizes = new ushort[multiport ? (2 * ports) + 2 : 2];
        Array.Fill(sizes, VirtioConsoleRegisters.QueueSize);
        return sizes;
    }

    /// <summary>The port that a receive or transmit queue belongs to; null for the control queues and for ports that the driver does not know of.</summary>
    private ConsolePort? PortOf(VirtQueue queue)
    {
        int pair = queue.Index / 2;
        if (pair == 0)
        {
            return _ports[0];
        }
        return Multiport && pair >= 2 && pair - 1 < _ports.Length ? _ports[pair - 1] : null;
    }

    /// <summary>Hands output over. True when the chain was finished; otherwise it stays with the port.</summary>
    private bool SendOutput(ConsolePort port, VirtQueue queue)
    {
        DescriptorChain chain = port.Output!;
        for (int sent = 0; chain.Unread != 0;)
        {
            if (sent >= OutputPerTurn)
            {
                Signal();
                return false;
            }
            int length = chain.Read(_staging);
            port.Blocked = true;
            int accepted = port.Backend?.Write(_staging.AsSpan(0, length)) ?? length;
            if (accepted < length)
            {
                chain.Rewind((uint)(length - Math.Max(accepted, 0)));
                return false;
            }
            port.Blocked = false;
            sent += length;
        }
        port.Output = null;
        port.Blocked = false;
        queue.Complete(chain);
        return true;
    }

    private void GiveInput(ConsolePort port)
    {
        // A channel that nobody has open keeps its input; Linux would drop it.
        if (!Multiport || port.IsConsole || port.GuestOpen)
        {
            VirtQueue queue = Queues[VirtioConsoleRegisters.ReceiveQueue(port.Index)];
            int left = port.InputCount;
            for (int i = 0; left != 0; i++)
            {
                if (i == ChainsPerTurn)
                {
                    Signal();
                    break;
                }
                if (queue.TryPop() is not { } chain)
                {
                    if (!queue.ResumeNotifications())
                    {
                        break;
                    }
                    continue;
                }
                if (chain.WritableLength == 0)
                {
                    Reject(queue, chain);
                    break;
                }
                left = port.Fill(chain);
                queue.Complete(chain);
            }
            Notify(queue);
            if (port.TakeClosing())
            {
                port.Request(PendingMessages.Open);
            }
        }
        if (port.TakeRefused())
        {
            port.Backend?.InputReady();
        }
    }

    /// <summary>A control message of the driver. What is malformed or unknown is ignored, as later versions may know more.</summary>
    private void TakeControl(DescriptorChain chain)
    {
        if (!chain.TryReadUInt32(out uint id) || !chain.TryReadUInt16(out ushort what) || !chain.TryReadUInt16(out ushort value))
        {
            return;
        }
        if ((ConsoleEvent)what == ConsoleEvent.DeviceReady)
        {
            foreach (ConsolePort each in value == 1 ? _ports : [])
            {
                each.Request(PendingMessages.Add);
            }
            return;
        }
        if (id >= (uint)_ports.Length)
        {
            return;
        }
        ConsolePort port = _ports[id];
        if ((ConsoleEvent)what == ConsoleEvent.PortReady && value == 1)
        {
            port.Ready = true;
            port.Request(
                (port.IsConsole ? PendingMessages.Console | PendingMessages.Resize : PendingMessages.None)
                | (port.Name.Length != 0 ? PendingMessages.Name : PendingMessages.None)
                | (port.Connected ? PendingMessages.Open : PendingMessages.None));
        }
        else if ((ConsoleEvent)what == ConsoleEvent.PortReady)
        {
            port.Ready = false;
        }
        else if ((ConsoleEvent)what == ConsoleEvent.PortOpen)
        {
            port.SetGuestOpen(value != 0);
            Signal();
        }
    }

    /// <summary>Sends what is to be said about the ports, as far as the driver has given buffers.</summary>
    private void SendControl()
    {
        if (!Multiport)
        {
            return;
        }
        VirtQueue queue = Queues[VirtioConsoleRegisters.ControlReceiveQueue];
        Span<byte> message = stackalloc byte[VirtioConsoleRegisters.ControlLength + 64];
        foreach (ConsolePort port in _ports)
        {
            while (port.Pending != PendingMessages.None)
            {
                DescriptorChain? chain = queue.TryPop();
                if (chain is null)
                {
                    if (queue.ResumeNotifications())
                    {
                        continue;
                    }
                    Notify(queue);
                    return;
                }
                var next = (PendingMessages)((byte)port.Pending & -(byte)port.Pending);
                port.Sent(next);    // before the value is looked at: a change from now on is sent again
                int length = Compose(port, next, message);
                if (next == PendingMessages.Open)
                {
                    port.Told = (byte)(message[6] != 0 ? 2 : 1); // value
                }
                if (chain.WritableLength < (uint)length)
                {
                    Reject(queue, chain);
                    return;
                }
                chain.Write(message[..length]);
                queue.Complete(chain);
            }
        }
        Notify(queue);
    }

    private int Compose(ConsolePort port, PendingMessages kind, Span<byte> message)
    {
        Span<byte> body = message[VirtioConsoleRegisters.ControlLength..];
        (ConsoleEvent what, ushort value, int length) = kind switch
        {
            PendingMessages.Add => (ConsoleEvent.DeviceAdd, (ushort)1, 0),
            PendingMessages.Console => (ConsoleEvent.ConsolePort, (ushort)1, 0),
            PendingMessages.Open => (ConsoleEvent.PortOpen, (ushort)(port.Connected ? 1 : 0), 0),
            PendingMessages.Name => (ConsoleEvent.PortName, (ushort)1, Encoding.UTF8.GetBytes(port.Name, body)),
            _ => (ConsoleEvent.Resize, (ushort)0, 4),
        };
        if (kind == PendingMessages.Resize)
        {
            bool rowsFirst = _configuration.ResizeOrder == ResizeOrder.RowsFirst;
            BinaryPrimitives.WriteUInt16LittleEndian(body, rowsFirst ? port.Rows : port.Columns);
            BinaryPrimitives.WriteUInt16LittleEndian(body[2..], rowsFirst ? port.Columns : port.Rows);
        }
        BinaryPrimitives.WriteUInt32LittleEndian(message, (uint)port.Index);
        BinaryPrimitives.WriteUInt16LittleEndian(message[4..], (ushort)what);
        BinaryPrimitives.WriteUInt16LittleEndian(message[6..], value);
        return VirtioConsoleRegisters.ControlLength + length;
    }

    private void Resized(ConsolePort port)
    {
        if (port.Index == 0)
        {
            ConfigurationChanged();
        }
        if (port is { Ready: true, IsConsole: true })
        {
            port.Request(PendingMessages.Resize);
        }
    }
}
