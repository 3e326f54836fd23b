using Lodge.Storage.Nbd;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>A peer that says given bytes and then ends, and takes all that it is told.</summary>
/// <param name="script">What it says.</param>
/// <param name="gates">Offsets in the script before which it must have been told so many messages; null for none.</param>
/// <param name="patience">How long it waits for them before it ends.</param>
internal sealed class ScriptedChannel(byte[] script, IReadOnlyList<(int Offset, int Told)>? gates = null, TimeSpan patience = default) : NbdChannel
{
    private readonly SemaphoreSlim _sent = new(0);
    private int _at;
    private int _told;
    private int _gate;

    public bool Disposed { get; private set; }

    public override async ValueTask<int> ReceiveAsync(Memory<byte> destination, CancellationToken cancellation)
    {
        if (_at % 3 == 0)
        {
            await Task.Yield(); // also the ways that do not complete at once
        }

        var end = script.Length;
        while (gates is not null && _gate < gates.Count && gates[_gate].Offset <= script.Length)
        {
            if (_at < gates[_gate].Offset)
            {
                end = gates[_gate].Offset;
                break;
            }

            if (_told >= gates[_gate].Told)
            {
                _gate++;
            }
            else if (await _sent.WaitAsync(patience))
            {
                _told++;
            }
            else
            {
                return 0;
            }
        }

        var count = Math.Max(0, Math.Min(destination.Length, end - _at));
        script.AsMemory(_at, count).CopyTo(destination);
        _at += count;
        return count;
    }

    public override ValueTask SendAsync(ReadOnlyMemory<byte> source, CancellationToken cancellation)
    {
        _sent.Release();
        return ValueTask.CompletedTask;
    }

    public override ValueTask FinishAsync(CancellationToken cancellation) => ValueTask.CompletedTask;

    public override void Abort()
    {
        _at = script.Length;
        _sent.Release(1000);
    }

    public override void Dispose() => Disposed = true;
}

/// <summary>Remembers what a peer says, and after how many messages to it.</summary>
internal sealed class RecordingChannel(NbdChannel inner) : NbdChannel
{
    private readonly MemoryStream _received = new();
    private int _told;

    public byte[] Received => _received.ToArray();

    public List<(int Offset, int Told)> Gates { get; } = [];

    public override async ValueTask<int> ReceiveAsync(Memory<byte> destination, CancellationToken cancellation)
    {
        var count = await inner.ReceiveAsync(destination, cancellation);
        Gates.Add(((int)_received.Length, Volatile.Read(ref _told)));
        _received.Write(destination.Span[..count]);
        return count;
    }

    public override ValueTask SendAsync(ReadOnlyMemory<byte> source, CancellationToken cancellation)
    {
        Interlocked.Increment(ref _told);
        return inner.SendAsync(source, cancellation);
    }

    public override ValueTask FinishAsync(CancellationToken cancellation) => inner.FinishAsync(cancellation);

    public override void Abort() => inner.Abort();

    public override void Dispose() => inner.Dispose();
}
