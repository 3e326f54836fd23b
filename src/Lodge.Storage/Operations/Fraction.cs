namespace Lodge.Storage.Operations;

/// <summary>Counts what parallel workers have done and reports it as a fraction from 0 to 1, at most a thousand times.</summary>
internal sealed class Fraction(IProgress<double>? progress, long total)
{
    private long _done;
    private long _reported;

    /// <summary>So much more is done.</summary>
    public void Add(long amount)
    {
        var done = Interlocked.Add(ref _done, amount);
        if (progress is null || total <= 0)
        {
            return;
        }

        var step = total > long.MaxValue / 1000 ? done / (total / 1000) : done * 1000 / total;
        var reported = Volatile.Read(ref _reported);
        if (step > reported && Interlocked.CompareExchange(ref _reported, step, reported) == reported)
        {
            progress.Report(step / 1000.0);
        }
    }
}
