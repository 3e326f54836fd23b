using System.Runtime.CompilerServices;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage;

/// <summary>
/// One request of a guest while a disk works on it. The guest's buffers are lent to the disk from <see cref="DiskRequestQueue.Begin"/> until the request
/// is finished; nothing else completes it. Devices keep requests and use them again, so that an ordinary request allocates nothing.
/// </summary>
internal abstract class DiskRequest
{
    private readonly Action _continue;
    private ConfiguredValueTaskAwaitable.ConfiguredValueTaskAwaiter _awaiter;
    private DiskRequestQueue? _queue;

    protected DiskRequest() => _continue = Continue;

    /// <summary>How the disk failed; null: it did not.</summary>
    public DiskError? Error { get; private set; }

    /// <summary>Asks the disk. May throw what disks throw.</summary>
    protected abstract ValueTask Issue(CancellationToken cancellation);

    /// <summary>Begins; true when it is finished already, and <see cref="DiskRequestQueue"/> will not hear of it.</summary>
    internal bool Begin(DiskRequestQueue queue, CancellationToken cancellation)
    {
        Error = null;
        try
        {
            ConfiguredValueTaskAwaitable.ConfiguredValueTaskAwaiter awaiter = Issue(cancellation).ConfigureAwait(false).GetAwaiter();
            if (awaiter.IsCompleted)
            {
                awaiter.GetResult();
                return true;
            }
            _awaiter = awaiter;
            _queue = queue;
            queue.Began();
            awaiter.UnsafeOnCompleted(_continue);      // from here on the request may be finished
            return false;
        }
        catch (Exception failure)
        {
            Error = queue.Classify(failure);
            return true;
        }
    }

    private void Continue()
    {
        DiskRequestQueue queue = _queue!;
        try
        {
            _awaiter.GetResult();
        }
        catch (Exception failure)
        {
            Error = queue.Classify(failure);
        }
        _awaiter = default;
        _queue = null;
        queue.Finished(this);
    }
}
