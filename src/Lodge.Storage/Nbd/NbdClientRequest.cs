using System.Threading.Tasks.Sources;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>A request of the client under way; reused.</summary>
internal sealed class NbdClientRequest(int slot) : IValueTaskSource
{
    private const int MaximumChunks = 65536;

    private readonly List<(long Start, long End)> _covered = []; // sorted; neighbours are joined
    private ManualResetValueTaskSourceCore<bool> _source = new() { RunContinuationsAsynchronously = true };
    private uint _generation;
    private int _chunks;

    /// <summary>Its place in the connection's table.</summary>
    public int Slot => slot;

    /// <summary>What it asks.</summary>
    public NbdCommand Command { get; private set; }

    /// <summary>Offset in bytes.</summary>
    public long Offset { get; private set; }

    /// <summary>Length in bytes.</summary>
    public long Length { get; private set; }

    /// <summary>Where what is read goes.</summary>
    public IoVector Destination { get; private set; }

    /// <summary>The first error that the server told, or none.</summary>
    public NbdError Error { get; set; }

    /// <summary>The first extent of each context.</summary>
    public List<(uint Context, long Length, ulong Flags)> Extents { get; } = [];

    /// <summary>Marks the request on the wire.</summary>
    public ulong Cookie => ((ulong)_generation << 32) | (uint)slot;

    /// <summary>Completes when the last chunk has arrived or the connection is gone.</summary>
    public ValueTask Completion => new(this, _source.Version);

    /// <summary>Starts anew.</summary>
    /// <param name="command">What it asks.</param>
    /// <param name="offset">Offset in bytes.</param>
    /// <param name="length">Length in bytes.</param>
    /// <param name="destination">Where what is read goes.</param>
    /// <param name="inPlace">Whether what waits for a success goes on on the receiving thread, without a change of threads.</param>
    public void Begin(NbdCommand command, long offset, long length, IoVector destination, bool inPlace)
    {
        _source.Reset();
        _source.RunContinuationsAsynchronously = !inPlace;
        _generation++;
        _covered.Clear();
        _chunks = 0;
        Extents.Clear();
        Error = NbdError.None;
        (Command, Offset, Length, Destination) = (command, offset, length, destination);
    }

    /// <summary>Notes that a range was delivered.</summary>
    /// <returns>The memory for it.</returns>
    /// <exception cref="NbdProtocolException">It lies outside of the request or overlaps what was delivered.</exception>
    public IoVector Deliver(long offset, long length)
    {
        if (Command != NbdCommand.Read || length <= 0 || offset < Offset || length > Length || offset - Offset > Length - length || ++_chunks > MaximumChunks)
        {
            throw new NbdProtocolException("a chunk lies outside of its request");
        }

        var start = offset - Offset;
        var index = 0;
        if (_covered.Count > 0)
        {
            index = _covered.BinarySearch((start, long.MaxValue));
            index = index < 0 ? ~index : index;
        }

        if ((index > 0 && _covered[index - 1].End > start) || (index < _covered.Count && _covered[index].Start < start + length))
        {
            throw new NbdProtocolException("chunks of a reply overlap");
        }

        if (index > 0 && _covered[index - 1].End == start)
        {
            _covered[index - 1] = (_covered[index - 1].Start, start + length);
        }
        else
        {
            _covered.Insert(index, (start, start + length));
        }

        return Destination.Slice(start, length);
    }

    /// <summary>Ends with what the server said.</summary>
    /// <exception cref="NbdProtocolException">The server claims success but did not deliver all.</exception>
    public void Finish()
    {
        if (Command == NbdCommand.Read && Error == NbdError.None)
        {
            long total = 0;
            foreach (var (start, end) in _covered)
            {
                total += end - start;
            }

            if (total != Length)
            {
                throw new NbdProtocolException("a reply lacks data");
            }
        }

        Destination = default;
        _source.SetResult(true);
    }

    /// <summary>Ends because the connection is gone.</summary>
    public void Fail(Exception failure)
    {
        Destination = default;
        _source.RunContinuationsAsynchronously = true; // a connection that ends has more to do
        _source.SetException(failure);
    }

    void IValueTaskSource.GetResult(short token) => _source.GetResult(token);

    ValueTaskSourceStatus IValueTaskSource.GetStatus(short token) => _source.GetStatus(token);

    void IValueTaskSource.OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) => _source.OnCompleted(continuation, state, token, flags);
}
