using System.Diagnostics;

namespace Lodge.Storage.Operations;

/// <summary>Holds a copy at a number of bytes per second; several requests may wait at once.</summary>
internal sealed class RateLimit(long bytesPerSecond)
{
    private readonly long _start = Stopwatch.GetTimestamp();
    private long _sent;

    /// <summary>Returns when <paramref name="bytes"/> more may be sent.</summary>
    public async ValueTask WaitAsync(long bytes, CancellationToken cancellation)
    {
        var before = Interlocked.Add(ref _sent, bytes) - bytes;
        var due = TimeSpan.FromSeconds((double)before / bytesPerSecond) - Stopwatch.GetElapsedTime(_start);
        if (due > TimeSpan.Zero)
        {
            await Task.Delay(due, cancellation).ConfigureAwait(false);
        }
    }
}
