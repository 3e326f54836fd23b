using Lodge.Network.Packets;

namespace Lodge.Network.Capture;

/// <summary>
/// A file that frames are captured into. The data path copies a frame into memory of a bounded size (<see cref="MaximumMemory"/>) and never waits: a thread writes it, at
/// least every second, and when the disk is slower than the network frames are left out and counted. An error of the file ends the capture.
/// </summary>
public sealed class CaptureFile : IDisposable
{
    /// <summary>Bytes of a frame that are kept unless something else is said: more than any frame has.</summary>
    public const int DefaultSnapLength = 128 * 1024;

    /// <summary>Bytes of memory for frames that are not written yet.</summary>
    public const int MaximumMemory = MaximumChunks * ChunkLength;

    private const int ChunkLength = 256 * 1024;
    private const int MaximumChunks = 16;

    private readonly object _gate = new();
    private readonly string _path;
    private readonly CaptureFormat _format;
    private readonly int _snapLength;
    private readonly TimeProvider _time;
    private readonly Action<string>? _report;
    private readonly Stream _stream;
    private readonly Thread _writer;
    private readonly List<Interface> _interfaces = [];
    private readonly Queue<Chunk> _full = new();
    private readonly Stack<Chunk> _free = new();
    private Chunk? _current;
    private int _chunks;
    private bool _failed;
    private bool _closing;
    private long _frames;
    private long _drops;

    /// <summary>Captures into a stream, which it owns.</summary>
    internal CaptureFile(Stream stream, string path, CaptureFormat format, int snapLength, TimeProvider? time, Action<string>? report)
    {
        _stream = stream;
        _path = path;
        _format = format;
        _snapLength = Math.Clamp(snapLength, 64, DefaultSnapLength);
        _time = time ?? TimeProvider.System;
        _report = report;
        Append(format == CaptureFormat.Pcap ? CaptureRecords.PcapHeader(_snapLength) : CaptureRecords.SectionHeader());
        _writer = new Thread(Write) { IsBackground = true, Name = "capture" };
        _writer.Start();
    }

    /// <summary>Frames captured.</summary>
    public long Frames => Interlocked.Read(ref _frames);

    /// <summary>Frames left out because the disk was too slow or failed.</summary>
    public long Drops => Interlocked.Read(ref _drops);

    /// <summary>
    /// Creates a file, or empties it, readable by its owner only: pcapng when its name ends in <c>.pcapng</c>, otherwise pcap. <paramref name="report"/> is told, on another
    /// thread and at most once, the line that says why the capture ended early.
    /// </summary>
    /// <exception cref="NetworkException">It cannot be created.</exception>
    public static CaptureFile Create(string path, Action<string>? report = null, int snapLength = DefaultSnapLength, TimeProvider? time = null)
    {
        try
        {
            var stream = new FileStream(path, new FileStreamOptions
            {
                Mode = FileMode.Create,
                Access = FileAccess.Write,
                Share = FileShare.ReadWrite,
                BufferSize = 0,
                UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
            });
            var format = path.EndsWith(".pcapng", StringComparison.OrdinalIgnoreCase) ? CaptureFormat.Pcapng : CaptureFormat.Pcap;
            return new CaptureFile(stream, path, format, snapLength, time, report);
        }
        catch (Exception error) when (IsOfFile(error))
        {
            throw new NetworkException($"the capture file '{path}' cannot be created: {OneLine(error)}", error);
        }
    }

    /// <summary>Adds an interface; returns its number for <see cref="Add"/>.</summary>
    public int AddInterface(string name, MacAddress? address = null)
    {
        lock (_gate)
        {
            _interfaces.Add(new());
            if (_format == CaptureFormat.Pcapng)
            {
                Append(CaptureRecords.InterfaceDescription(name.Length > 200 ? name[..200] : name, address, _snapLength));
            }
            return _interfaces.Count - 1;
        }
    }

    /// <summary>Captures a frame; returns at once.</summary>
    public void Add(int number, CaptureDirection direction, ReadOnlySpan<byte> frame)
    {
        var captured = frame[..Math.Min(frame.Length, _snapLength)];
        lock (_gate)
        {
            var one = _interfaces[number];
            var chunk = Room(captured.Length + CaptureRecords.MaximumOverhead);
            if (chunk is null)
            {
                one.Drops++;
                Interlocked.Increment(ref _drops);
                return;
            }
            long now = Nanoseconds();
            var rest = chunk.Bytes.AsSpan(chunk.Used);
            chunk.Used += _format == CaptureFormat.Pcap
                ? CaptureRecords.PcapPacket(rest, now, captured, frame.Length)
                : CaptureRecords.EnhancedPacket(rest, (uint)number, direction, now, captured, frame.Length);
            one.Frames++;
            Interlocked.Increment(ref _frames);
        }
    }

    /// <summary>Writes what is left and closes the file.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_closing)
            {
                return;
            }
            if (_format == CaptureFormat.Pcapng)
            {
                for (int number = 0; number < _interfaces.Count; number++)
                {
                    Append(CaptureRecords.InterfaceStatistics((uint)number, Nanoseconds(), _interfaces[number].Frames, _interfaces[number].Drops));
                }
            }
            _closing = true;
            Monitor.PulseAll(_gate);
        }
        // A disk that hangs does not keep the machine from ending.
        _writer.Join(TimeSpan.FromSeconds(10));
    }

    private static bool IsOfFile(Exception error) => error is IOException or UnauthorizedAccessException or NotSupportedException or ArgumentException or System.Security.SecurityException;

    private static string OneLine(Exception error) => error.Message.ReplaceLineEndings(" ");

    private long Nanoseconds() => (_time.GetUtcNow() - DateTimeOffset.UnixEpoch).Ticks * 100;

    private void Append(ReadOnlySpan<byte> record)
    {
        lock (_gate)
        {
            if (Room(record.Length) is { } chunk)
            {
                record.CopyTo(chunk.Bytes.AsSpan(chunk.Used));
                chunk.Used += record.Length;
            }
        }
    }

    /// <summary>A chunk with room for that many bytes, at most <see cref="ChunkLength"/>; null when all are full.</summary>
    private Chunk? Room(int length)
    {
        if (_failed || _closing)
        {
            return null;
        }
        if (_current is { } current && current.Bytes.Length - current.Used >= length)
        {
            return current;
        }
        if (_free.Count == 0 && _chunks == MaximumChunks)
        {
            return null;
        }
        if (_current is not null)
        {
            _full.Enqueue(_current);
        }
        _chunks += _free.Count == 0 ? 1 : 0;
        _current = _free.Count == 0 ? new Chunk() : _free.Pop();
        Monitor.PulseAll(_gate);
        return _current;
    }

    /// <summary>The thread that writes.</summary>
    private void Write()
    {
        long written = 0;
        while (true)
        {
            Chunk? chunk;
            lock (_gate)
            {
                while (_full.Count == 0 && !_closing)
                {
                    if (!Monitor.Wait(_gate, _current is null ? Timeout.Infinite : 1000))
                    {
                        break;
                    }
                }
                if (!_full.TryDequeue(out chunk))
                {
                    (chunk, _current) = (_current, null);
                }
                if (chunk is null)
                {
                    if (_closing)
                    {
                        break;
                    }
                    continue;
                }
            }
            try
            {
                _stream.Write(chunk.Bytes, 0, chunk.Used);
                written += chunk.Used;
            }
            catch (Exception error) when (IsOfFile(error))
            {
                Fail(error, written);
                break;
            }
            lock (_gate)
            {
                chunk.Used = 0;
                _free.Push(chunk);
            }
        }
        try
        {
            _stream.Dispose();
        }
        catch (Exception error) when (IsOfFile(error))
        {
            // All that the file took is there already.
        }
    }

    private void Fail(Exception error, long written)
    {
        lock (_gate)
        {
            _failed = true;
            _full.Clear();
            _free.Clear();
            _current = null;
        }
        try
        {
            // A record that is written in part would make readers complain.
            if (_stream.CanSeek)
            {
                _stream.SetLength(written);
            }
        }
        catch (Exception later) when (IsOfFile(later))
        {
            // It is left as it is.
        }
        _report?.Invoke($"the capture into '{_path}' ended after {written} bytes: {OneLine(error)}");
    }

    private sealed class Chunk
    {
        public byte[] Bytes { get; } = GC.AllocateUninitializedArray<byte>(ChunkLength);

        public int Used { get; set; }
    }

    private sealed class Interface
    {
        public long Frames { get; set; }

        public long Drops { get; set; }
    }
}
