using System.Net.Sockets;
using Lodge.Engine;

namespace Lodge.Machine.Debugging;

/// <summary>
/// One client's connection: a thread reads the socket; the caller's thread serves what comes from there and from the machine, one thing at a time, with a
/// <see cref="GdbSession"/>.
/// </summary>
internal sealed class GdbConnection
{
    // A client waits for each reply, so that more than a few packets at once are not gdb's.
    private const int MaximumWaiting = 32;
    private const int MaximumRefusals = 16;

    private readonly Socket _socket;
    private readonly IDebugTarget _target;
    private readonly object _gate = new();
    private readonly Queue<byte[]> _packets = new();
    private readonly Queue<IReadOnlyList<VirtualProcessor>> _stops = new();
    private readonly Lock _sendGate = new();
    private byte[] _lastPacket = [];
    private bool _interrupt;
    private bool _readAll;
    private bool _closing;
    private bool _finished;
    private volatile bool _acknowledges = true;
    private int _refusals;

    /// <summary>Takes a client that has connected.</summary>
    public GdbConnection(Socket socket, IDebugTarget target)
    {
        _socket = socket;
        _target = target;
        // A client that does not take what it asked for is gone.
        socket.SendTimeout = 5_000;
        if (socket.ProtocolType == ProtocolType.Tcp)
        {
            socket.NoDelay = true;
        }
    }

    /// <summary>Serves the client until it leaves; the machine then runs on unless it has ended. Does not throw.</summary>
    public void Run()
    {
        _target.DebugStopped += OnStopped;
        GdbSession? session = null;
        try
        {
            session = new GdbSession(_target, data => Send(data, session is { NoAcknowledgements: true }));
            _target.Completion.ContinueWith(_ => Wake(), TaskScheduler.Default);
            Thread reader = new(Read) { IsBackground = true, Name = "gdb reader" };
            reader.Start();
            while (ServeNext(session))
            {
            }
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException or InvalidOperationException)
        {
            // The connection is broken, or the machine is gone: the same to the client.
        }
        finally
        {
            _target.DebugStopped -= OnStopped;
            Disconnect();
            try
            {
                session?.Detach();
            }
            catch (Exception e) when (e is InvalidOperationException or IOException)
            {
                // The machine has ended meanwhile.
            }
        }
    }

    /// <summary>Ends it soon, after telling the client of a machine whose run is over. Any thread.</summary>
    public void Close()
    {
        lock (_gate)
        {
            _closing = true;
            Monitor.PulseAll(_gate);
        }
    }

    private void Wake()
    {
        lock (_gate)
        {
            Monitor.PulseAll(_gate);
        }
    }

    private void Disconnect()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Already.
        }
        _socket.Dispose();
    }

    private bool ServeNext(GdbSession session)
    {
        byte[]? packet = null;
        IReadOnlyList<VirtualProcessor>? stop = null;
        bool finished = false;
        lock (_gate)
        {
            // While the machine runs, packets wait for its stop; only an interrupt does not.
            while (!_closing && !_readAll && _stops.Count == 0 && (_finished || !_target.Completion.IsCompleted) && !_interrupt && (session.Running || _packets.Count == 0))
            {
                Monitor.Wait(_gate);
            }
            if (_stops.Count > 0)
            {
                stop = _stops.Dequeue();
            }
            else if (!_finished && _target.Completion.IsCompleted)
            {
                finished = _finished = true;
            }
            else if (_closing)
            {
                return false;
            }
            else if (!session.Running && _packets.Count > 0)
            {
                packet = _packets.Dequeue();
            }
            else if (_interrupt)
            {
                _interrupt = false;
            }
            else
            {
                return false; // the client has gone, and everything that it sent is served
            }
        }
        if (stop is not null)
        {
            session.Stopped(stop);
        }
        else if (finished)
        {
            session.Finish();
        }
        else if (packet is not null)
        {
            return session.Receive(packet);
        }
        else
        {
            session.Interrupt();
        }
        return true;
    }

    private void OnStopped(IReadOnlyList<VirtualProcessor> processors)
    {
        lock (_gate)
        {
            _stops.Enqueue(processors);
            Monitor.PulseAll(_gate);
        }
    }

    private void Send(byte[] data, bool quiet)
    {
        byte[] packet = PacketReader.Frame(data);
        lock (_sendGate)
        {
            _acknowledges &= !quiet; // from before the answer that says so: the client's next packet may come at once
            _lastPacket = packet;
            SendAll(packet);
        }
    }

    // With the send gate held: the reader's acknowledgements must not fall into a packet.
    private void SendAll(ReadOnlySpan<byte> data)
    {
        while (!data.IsEmpty)
        {
            data = data[_socket.Send(data)..];
        }
    }

    private void Read()
    {
        PacketReader reader = new();
        byte[] buffer = new byte[4096];
        try
        {
            while (true)
            {
                int count = _socket.Receive(buffer);
                if (count == 0)
                {
                    break;
                }
                foreach (byte b in buffer.AsSpan(0, count))
                {
                    if (reader.Take(b) is { } kind && !Note(kind, reader.Data))
                    {
                        return;
                    }
                }
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Told of below.
        }
        finally
        {
            lock (_gate)
            {
                _readAll = true;
                Monitor.PulseAll(_gate);
            }
        }
    }

    // False when the client is not worth listening to any more.
    private bool Note(PacketKind kind, ReadOnlySpan<byte> data)
    {
        switch (kind)
        {
            case PacketKind.Packet:
                Acknowledge("+"u8);
                lock (_gate)
                {
                    if (_packets.Count >= MaximumWaiting)
                    {
                        return false;
                    }
                    _packets.Enqueue(data.ToArray());
                    Monitor.PulseAll(_gate);
                }
                return true;
            case PacketKind.Damaged:
                Acknowledge("-"u8);
                return true;
            case PacketKind.Refused:
                lock (_sendGate)
                {
                    if (_acknowledges)
                    {
                        SendAll(_lastPacket);
                    }
                }
                return ++_refusals <= MaximumRefusals;
            case PacketKind.Interrupt:
                lock (_gate)
                {
                    _interrupt = true;
                    Monitor.PulseAll(_gate);
                }
                return true;
            default:
                _refusals = 0;
                return true;
        }
    }

    private void Acknowledge(ReadOnlySpan<byte> answer)
    {
        if (_acknowledges)
        {
            lock (_sendGate)
            {
                SendAll(answer);
            }
        }
    }
}
