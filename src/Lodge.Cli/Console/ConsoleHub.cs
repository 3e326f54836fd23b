using System.Threading.Channels;
using Lodge.Machine;

namespace Lodge.Cli.Console;

/// <summary>
/// A character device of the guest with any number of viewers, who come and go: each sees all that the guest prints while it looks, and what any of them types goes to the guest. Nobody holds the guest up:
/// a viewer who does not read loses output.
/// </summary>
internal sealed class ConsoleHub : ICharacterBackend, IDisposable
{
    private const int MostBacklog = 256; // pieces of at most 64 KiB each
    private readonly Lock _gate = new();
    private readonly List<Channel<byte[]>> _viewers = [];
    private readonly SemaphoreSlim _turn = new(1, 1), _ready = new(0);
    private readonly OutputPort _output;
    private readonly OutputSink? _log;
    private ICharacterReceiver? _receiver;

    /// <summary>Creates one.</summary>
    /// <param name="log">Gets all output too, on a thread of its own; null for none.</param>
    public ConsoleHub(OutputSink? log)
    {
        _log = log;
        _output = new OutputPort(Spread);
    }

    public void Connect(ICharacterReceiver receiver)
    {
        _receiver = receiver;
        _output.Connect(receiver);
    }

    public int Write(ReadOnlySpan<byte> data) => _output.Write(data);

    public void InputReady() => _ready.Release();

    /// <summary>Tells the guest the size of a viewer's window.</summary>
    public void Resize(int columns, int rows) => _receiver?.Resize(columns, rows);

    /// <summary>Serves a viewer until it goes or <paramref name="cancellation"/> comes.</summary>
    public async Task ViewAsync(Stream viewer, CancellationToken cancellation)
    {
        Channel<byte[]> backlog = Channel.CreateBounded<byte[]>(new BoundedChannelOptions(MostBacklog) { FullMode = BoundedChannelFullMode.DropOldest, SingleReader = true });
        lock (_gate)
        {
            _viewers.Add(backlog);
        }
        using CancellationTokenSource end = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        try
        {
            Task output = ShowAsync(backlog, viewer, end.Token), input = TypeAsync(viewer, end.Token);
            await Task.WhenAny(output, input).ConfigureAwait(false);
            await end.CancelAsync().ConfigureAwait(false);
            await Task.WhenAll(output, input).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
        finally
        {
            lock (_gate)
            {
                _viewers.Remove(backlog);
            }
        }
    }

    /// <summary>Writes out what is buffered.</summary>
    public void Dispose() => _output.Dispose();

    private bool Spread(ReadOnlySpan<byte> data)
    {
        _ = _log?.Invoke(data);
        lock (_gate)
        {
            if (_viewers.Count != 0)
            {
                byte[] piece = data.ToArray();
                foreach (Channel<byte[]> viewer in _viewers)
                {
                    viewer.Writer.TryWrite(piece);
                }
            }
        }
        return true;
    }

    private static async Task ShowAsync(Channel<byte[]> backlog, Stream viewer, CancellationToken cancellation)
    {
        await foreach (byte[] piece in backlog.Reader.ReadAllAsync(cancellation).ConfigureAwait(false))
        {
            await viewer.WriteAsync(piece, cancellation).ConfigureAwait(false);
        }
    }

    private async Task TypeAsync(Stream viewer, CancellationToken cancellation)
    {
        byte[] buffer = new byte[4096];
        for (int count; (count = await viewer.ReadAsync(buffer, cancellation).ConfigureAwait(false)) != 0;)
        {
            await _turn.WaitAsync(cancellation).ConfigureAwait(false);
            try
            {
                for (ReadOnlyMemory<byte> left = buffer.AsMemory(0, count); !left.IsEmpty;)
                {
                    int accepted = _receiver?.Receive(left.Span) ?? left.Length;
                    left = left[accepted..];
                    if (!left.IsEmpty && accepted == 0)
                    {
                        await _ready.WaitAsync(cancellation).ConfigureAwait(false);
                    }
                }
            }
            finally
            {
                _turn.Release();
            }
        }
    }
}
