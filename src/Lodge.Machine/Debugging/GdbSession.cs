using System.Text;
using Lodge.Engine;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Machine.Debugging;

/// <summary>
/// The remote serial protocol of one client in all-stop mode (gdb manual, appendix E): packets in, replies and stop replies out. Thread n is processor n - 1.
/// Used by one thread at a time. The client is not trusted: whatever it sends ends in a reply.
/// </summary>
internal sealed partial class GdbSession
{
    private const string Ok = "OK", Unsupported = "", Exited = "W00";

    // Errno values as gdb shows them: EIO for what failed, EFAULT for memory that is not there, EINVAL for what cannot be understood.
    private const string Failed = "E05", BadAddress = "E0e", Invalid = "E16";

    private readonly IDebugTarget _target;
    private readonly Action<byte[]> _send;
    private readonly RegisterSet _registers;
    private readonly byte[] _description;
    private readonly BreakpointTable _breakpoints = new();
    private readonly Dictionary<VirtualProcessor, DebugEvent> _pending = [];
    private VirtualProcessor _current;
    private VirtualProcessor? _stepped;
    private bool _running;
    private bool _over;
    private string _lastStop;
    private bool _softwareStops;
    private bool _hardwareStops;
    private int _listed;

    /// <summary>Begins a session: the machine is held.</summary>
    /// <param name="target">The machine.</param>
    /// <param name="send">Sends the data of a packet to the client.</param>
    public GdbSession(IDebugTarget target, Action<byte[]> send)
    {
        _target = target;
        _send = send;
        _registers = new RegisterSet(target.Model);
        _description = Encoding.ASCII.GetBytes(TargetDescription.Build(_registers));
        Hold();
        _current = target.Processors[0];
        _lastStop = StopReply(5, _current, "");
    }

    /// <summary>The client does not want acknowledgements from its next packet on.</summary>
    public bool NoAcknowledgements { get; private set; }

    /// <summary>The machine runs, and no packet but an interrupt is expected.</summary>
    public bool Running => _running;

    /// <summary>Takes a packet.</summary>
    /// <returns>False when the session is over.</returns>
    public bool Receive(ReadOnlySpan<byte> packet)
    {
        string? reply;
        bool stays = true;
        try
        {
            if (packet.IsEmpty)
            {
                reply = Unsupported;
            }
            else if (packet[0] == 'X')
            {
                reply = WriteBinary(packet[1..]);
            }
            else
            {
                reply = Serve(Encoding.Latin1.GetString(packet), out stays);
            }
        }
        catch (Exception e) when (e is SavedStateException or InvalidOperationException or IOException)
        {
            reply = Failed; // a register value that no processor can have, or a machine that has ended meanwhile
        }
        if (reply is not null)
        {
            Send(reply);
        }
        return stays;
    }

    /// <summary>Ctrl-C.</summary>
    public void Interrupt()
    {
        if (_running && !_over)
        {
            const int SigInt = 2;
            Hold();
            _running = false;
            ReportStop(SigInt, _current, "");
        }
    }

    private void Hold()
    {
        while (true)
        {
            try
            {
                _target.Pause();
                return;
            }
            catch (DeviceBusyException)
            {
                // The guest goes on until its disk has answered.
            }
        }
    }

    /// <summary>The machine stopped by itself.</summary>
    public void Stopped(IReadOnlyList<VirtualProcessor> processors)
    {
        foreach (VirtualProcessor processor in processors)
        {
            // A processor at a breakpoint comes back to it. An access that was made, however, would not be told of again.
            if (processor.DebugEvent.Kind == DebugEventKind.Watchpoint)
            {
                _pending[processor] = processor.DebugEvent;
            }
        }
        if (_running && !_over && processors.Count > 0)
        {
            _running = false;
            VirtualProcessor first = processors.Contains(_current) ? _current : processors[0];
            _pending.Remove(first);
            ReportStop(first);
        }
    }

    /// <summary>The machine's run is over.</summary>
    public void Finish()
    {
        _over = true;
        if (_running)
        {
            _running = false;
            Send(Exited);
        }
    }

    /// <summary>The client left: the machine goes on without breakpoints.</summary>
    public void Detach()
    {
        _breakpoints.Clear();
        _pending.Clear();
        if (_over)
        {
            return;
        }
        Hold();
        foreach (VirtualProcessor processor in _target.Processors)
        {
            processor.SetDebug(DebugRequest.None);
        }
        _target.Resume(null);
        _running = true;
    }

    private void Send(string reply) => _send(Encoding.Latin1.GetBytes(reply));

    private string? Serve(string packet, out bool stays)
    {
        stays = true;
        ReadOnlySpan<char> rest = packet.AsSpan(1);
        switch (packet[0])
        {
            case '?':
                return _over ? Exited : _lastStop;
            case 'g':
                return HexText.Text(_registers.Read(_current.GetState()));
            case 'G':
                return WriteRegisters(rest);
            case 'p':
                return ReadRegister(rest);
            case 'P':
                return WriteRegister(rest);
            case 'm':
                return ReadMemory(rest);
            case 'M':
                return WriteMemory(rest);
            case 'c' or 's' or 'C' or 'S':
                return ResumeSimply(packet[0], rest);
            case 'v':
                return ServeNamed(packet, out stays);
            case 'Z' or 'z':
                return ChangeBreakpoint(packet[0] == 'Z', rest);
            case 'H':
                return SelectThread(rest);
            case 'T':
                return TryThread(rest, out _) ? Ok : Invalid;
            case 'q' or 'Q':
                return ServeQuery(packet);
            case 'D':
                Send(Ok);
                Detach();
                stays = false;
                return null;
            case 'k':
                _target.RequestStop();
                stays = false;
                return null;
            default:
                return Unsupported;
        }
    }

    private string? ServeNamed(string packet, out bool stays)
    {
        stays = true;
        if (packet == "vCont?")
        {
            return "vCont;c;C;s;S;t";
        }
        if (packet.StartsWith("vCont;", StringComparison.Ordinal))
        {
            return ResumeByThread(packet["vCont;".Length..]);
        }
        if (packet.StartsWith("vKill;", StringComparison.Ordinal))
        {
            _target.RequestStop();
            _over = true; // nothing follows but the end of the connection
            return Ok;
        }
        return Unsupported; // vMustReplyEmpty among them
    }

    private string WriteRegisters(ReadOnlySpan<char> text)
    {
        if (HexText.Bytes(text) is not { } values)
        {
            return Invalid;
        }
        ProcessorState state = _current.GetState();
        if (!_registers.TryWrite(state, values))
        {
            return Failed;
        }
        _current.SetState(state);
        return Ok;
    }

    private string ReadRegister(ReadOnlySpan<char> text)
    {
        if (!HexText.TryNumber(text, out ulong number) || number >= (ulong)_registers.Registers.Count)
        {
            return Invalid;
        }
        RegisterDefinition register = _registers.Registers[(int)number];
        byte[] value = new byte[register.Bytes];
        register.Get(_current.GetState(), value);
        return HexText.Text(value);
    }

    private string WriteRegister(ReadOnlySpan<char> text)
    {
        int equals = text.IndexOf('=');
        if (equals < 0 || !HexText.TryNumber(text[..equals], out ulong number) || number >= (ulong)_registers.Registers.Count
            || HexText.Bytes(text[(equals + 1)..]) is not { } value || value.Length != _registers.Registers[(int)number].Bytes)
        {
            return Invalid;
        }
        ProcessorState state = _current.GetState();
        if (!_registers.Registers[(int)number].Set(state, value))
        {
            return Failed;
        }
        _current.SetState(state);
        return Ok;
    }

    private string ReadMemory(ReadOnlySpan<char> text)
    {
        if (!HexText.TryPair(text, ',', out ulong address, out ulong length))
        {
            return Invalid;
        }
        byte[] data = new byte[(int)Math.Min(length, PacketReader.MaximumLength / 2)]; // less than asked for is allowed
        int done = LinearMemory.Read(_target, _current, address, data);
        return done == 0 && length != 0 ? BadAddress : HexText.Text(data.AsSpan(0, done));
    }

    private string WriteMemory(ReadOnlySpan<char> text)
    {
        int colon = text.IndexOf(':');
        if (colon < 0 || !HexText.TryPair(text[..colon], ',', out ulong address, out ulong length) || HexText.Bytes(text[(colon + 1)..]) is not { } data
            || (ulong)data.Length != length)
        {
            return Invalid;
        }
        return LinearMemory.TryWrite(_target, _current, address, data) ? Ok : BadAddress;
    }

    private string WriteBinary(ReadOnlySpan<byte> packet)
    {
        int colon = packet.IndexOf((byte)':');
        if (colon < 0 || !HexText.TryPair(Encoding.Latin1.GetString(packet[..colon]), ',', out ulong address, out ulong length)
            || (ulong)(packet.Length - colon - 1) != length)
        {
            return Invalid;
        }
        return LinearMemory.TryWrite(_target, _current, address, packet[(colon + 1)..]) ? Ok : BadAddress;
    }

    private string ChangeBreakpoint(bool insert, ReadOnlySpan<char> text)
    {
        // type,address,kind and then conditions or commands, which were not offered.
        if (text.Length < 2 || text[0] is < '0' or > '4' || text[1] != ',' || text.Contains(';') || !HexText.TryPair(text[2..], ',', out ulong address, out ulong length))
        {
            return Invalid;
        }
        BreakpointKind kind = (BreakpointKind)(text[0] - '0');
        if (insert)
        {
            return _breakpoints.TryInsert(kind, address, length) ? Ok : Failed;
        }
        _breakpoints.Remove(kind, address, length);
        return Ok;
    }

    private string SelectThread(ReadOnlySpan<char> text)
    {
        // Hg: whose registers and memory; Hc: whom c and s mean, superseded by vCont.
        if (text.Length < 2 || text[0] is not ('g' or 'c'))
        {
            return Invalid;
        }
        if (text[1..] is "0" or "-1")
        {
            _stepped = text[0] == 'c' ? null : _stepped; // any, all
            return Ok;
        }
        if (!TryThread(text[1..], out VirtualProcessor? processor))
        {
            return Invalid;
        }
        if (text[0] == 'g')
        {
            _current = processor;
        }
        else
        {
            _stepped = processor;
        }
        return Ok;
    }

    private bool TryThread(ReadOnlySpan<char> text, [System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out VirtualProcessor? processor)
    {
        processor = HexText.TryNumber(text, out ulong id) && id >= 1 && id <= (ulong)_target.Processors.Count ? _target.Processors[(int)id - 1] : null;
        return processor is not null;
    }

    private int ThreadOf(VirtualProcessor processor)
    {
        for (int i = 0; i < _target.Processors.Count; i++)
        {
            if (_target.Processors[i] == processor)
            {
                return i + 1;
            }
        }
        return 1;
    }
}
