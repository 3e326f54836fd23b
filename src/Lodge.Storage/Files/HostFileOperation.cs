using System.Threading.Tasks.Sources;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Files;

/// <summary>What an I/O thread does with a host file.</summary>
internal enum HostFileWork
{
    Read,
    Write,
    DirectRead,
    DirectWrite,
    Flush,
    WriteZeroes,
    Discard,
    Allocate,
    Resize,
}

/// <summary>A request on its way through an I/O thread. The objects are used again and again, so that a request allocates nothing.</summary>
internal sealed class HostFileOperation : IValueTaskSource, IIoWork
{
    private const int MostSpare = 256;
    private static readonly Lock Gate = new();
    private static readonly Stack<HostFileOperation> Spare = new();

    // Not on the I/O thread itself: what continues there could wait for another request, and with all threads doing so nothing would move.
    private ManualResetValueTaskSourceCore<bool> _source = new() { RunContinuationsAsynchronously = true };
    private HostFile? _file;
    private HostFileWork _work;
    private long _offset;
    private long _length;
    private IoVector _vector;
    private int _flags;

    /// <summary>Hands a request to an I/O thread.</summary>
    public static ValueTask Start(HostFile file, HostFileWork work, long offset, long length, in IoVector vector, int flags)
    {
        HostFileOperation? operation;
        lock (Gate)
        {
            Spare.TryPop(out operation);
        }

        operation ??= new HostFileOperation();
        operation._file = file;
        operation._work = work;
        operation._offset = offset;
        operation._length = length;
        operation._vector = vector;
        operation._flags = flags;
        var task = new ValueTask(operation, operation._source.Version);
        IoThreads.Queue(operation);
        return task;
    }

    public void Run()
    {
        try
        {
            _file!.Execute(_work, _offset, _length, _vector, _flags);
            _source.SetResult(true);
        }
        catch (Exception failure)
        {
            _source.SetException(failure);
        }
    }

    public void GetResult(short token)
    {
        try
        {
            _source.GetResult(token);
        }
        finally
        {
            _file = null;
            _vector = default;
            _source.Reset();
            lock (Gate)
            {
                if (Spare.Count < MostSpare)
                {
                    Spare.Push(this);
                }
            }
        }
    }

    public ValueTaskSourceStatus GetStatus(short token) => _source.GetStatus(token);

    public void OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
        _source.OnCompleted(continuation, state, token, flags);
}
