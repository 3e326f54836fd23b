using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Tests.Kill;

/// <summary>The process that is killed: it opens an image and makes the requests of a plan, and tells of each when it begins and when it has ended.</summary>
internal sealed class KillWriter(IImage image, KillPlan plan, int seed)
{
    private static readonly FileStream Pipe = new(new SafeFileHandle(1, ownsHandle: false), FileAccess.Write, 0);
    private static readonly Lock Gate = new();

    /// <summary>Arguments: case, path, seed, cache mode, requests until it closes the image (0: never).</summary>
    public static int Run(string[] arguments)
    {
        var kind = KillCase.All.First(known => known.Name == arguments[0]);
        var (path, seed, cache, most) = (arguments[1], int.Parse(arguments[2]), Enum.Parse<CacheMode>(arguments[3]), int.Parse(arguments[4]));

        // Whoever forgets to kill it is not left with it.
        using var end = new Timer(_ => Environment.Exit(3), null, 20_000, Timeout.Infinite);
        try
        {
            var image = kind.OpenAsync(path, false, cache).GetAwaiter().GetResult();
            var writer = new KillWriter(image, new KillPlan(kind, seed, image is ICompressedWrite compressed ? compressed.CompressionUnit : 512), seed);
            writer.RunAsync(most > 0 ? most : int.MaxValue).GetAwaiter().GetResult();
            Thread.Sleep(10_000);
            return 0;
        }
        catch (Exception failure)
        {
            Console.Error.WriteLine(failure);
            Tell(new KillRecord(KillEvent.Failed, 0, 0));
            return 1;
        }
    }

    private static void Tell(KillRecord record)
    {
        Span<byte> bytes = stackalloc byte[KillRecord.Size];
        record.Write(bytes);
        lock (Gate)
        {
            Pipe.Write(bytes);
        }
    }

    private async Task RunAsync(int most)
    {
        Tell(new KillRecord(KillEvent.Ready, 0, 0));
        await Task.WhenAll(Enumerable.Range(0, plan.Workers).Select(worker => Task.Run(() => WorkAsync(worker, most))));
        Tell(new KillRecord(KillEvent.CloseBegin, 0, 0));
        await image.DisposeAsync();
        Tell(new KillRecord(KillEvent.CloseEnd, 0, 0));
    }

    private async Task WorkAsync(int worker, int most)
    {
        var buffer = GC.AllocateUninitializedArray<byte>(4 << 20);
        foreach (var operation in plan.Of(worker).Take(most))
        {
            Tell(new KillRecord(KillEvent.Begin, worker, operation.Number));
            await DoAsync(worker, operation, buffer.AsMemory(0, operation.Length));
            Tell(new KillRecord(KillEvent.End, worker, operation.Number));
        }
    }

    private async ValueTask DoAsync(int worker, KillOperation operation, Memory<byte> bytes)
    {
        switch (operation.Action)
        {
            case KillAction.Write or KillAction.WriteThrough:
                KillPlan.Fill(bytes.Span, seed, worker, operation);
                await image.WriteAsync(operation.Offset, bytes, operation.Action == KillAction.WriteThrough ? WriteOptions.ForceUnitAccess : WriteOptions.None);
                break;
            case KillAction.Compressed:
                KillPlan.Fill(bytes.Span, seed, worker, operation);
                await ((ICompressedWrite)image).WriteCompressedAsync(operation.Offset, bytes);
                break;
            case KillAction.Zero:
                await image.ZeroAsync(operation.Offset, operation.Length);
                break;
            case KillAction.ZeroKeeping:
                await image.ZeroAsync(operation.Offset, operation.Length, ZeroOptions.None);
                break;
            case KillAction.Discard:
                await image.TryDiscardAsync(operation.Offset, operation.Length);
                break;
            case KillAction.Read:
                await image.ReadAsync(operation.Offset, bytes);
                break;
            case KillAction.Flush:
                await image.FlushAsync();
                break;
            case KillAction.CreateSnapshot:
                await ((ISnapshots)image).CreateSnapshotAsync($"s{operation.Snapshot}");
                break;
            case KillAction.ApplySnapshot:
                await ((ISnapshots)image).ApplySnapshotAsync($"s{operation.Snapshot}");
                break;
            case KillAction.DeleteSnapshot:
                await ((ISnapshots)image).DeleteSnapshotAsync($"s{operation.Snapshot}");
                break;
            default:
                await image.SetLengthAsync(operation.Offset);
                break;
        }
    }
}
