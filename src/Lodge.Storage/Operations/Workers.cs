namespace Lodge.Storage.Operations;

/// <summary>Runs the same work several times at once; the first failure ends the others and is the one that is thrown.</summary>
internal static class Workers
{
    public static async Task RunAsync(int count, Func<CancellationToken, Task> work, CancellationToken cancellation)
    {
        using var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        Exception? first = null;
        var tasks = new Task[count];
        for (var index = 0; index < count; index++)
        {
            tasks[index] = Task.Run(
                async () =>
                {
                    try
                    {
                        await work(stop.Token).ConfigureAwait(false);
                    }
                    catch (Exception failure)
                    {
                        Interlocked.CompareExchange(ref first, failure, null);
                        await stop.CancelAsync().ConfigureAwait(false);
                    }
                },
                CancellationToken.None);
        }

        await Task.WhenAll(tasks).ConfigureAwait(false);
        cancellation.ThrowIfCancellationRequested();
        if (first is not null)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(first);
        }
    }
}
