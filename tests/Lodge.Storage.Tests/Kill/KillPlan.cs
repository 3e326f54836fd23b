namespace Lodge.Storage.Tests.Kill;

/// <summary>What the writer is asked for.</summary>
public enum KillAction
{
    Write,
    WriteThrough,
    Compressed,
    Zero,
    ZeroKeeping,
    Discard,
    Read,
    Flush,
    CreateSnapshot,
    ApplySnapshot,
    DeleteSnapshot,
    Resize,
}

/// <summary>A request of a writer.</summary>
/// <param name="Number">Its number among its worker's, from 0.</param>
/// <param name="Action">What is asked for.</param>
/// <param name="Offset">Where, in bytes; of a resize the new size.</param>
/// <param name="Length">How much, in bytes.</param>
/// <param name="Snapshot">The number in a snapshot's name.</param>
public readonly record struct KillOperation(int Number, KillAction Action, long Offset = 0, int Length = 0, int Snapshot = 0);

/// <summary>The requests that come from a seed: the writer makes them, and who looks at the image afterwards knows them, too.</summary>
public sealed class KillPlan
{
    /// <summary>Of disks larger than this only some places are written.</summary>
    public const int Large = 64 << 20;

    private const int MostSnapshots = 3;
    private readonly KillCase _case;
    private readonly int _seed;
    private readonly bool _aligned;
    private readonly bool _discards;
    private readonly int _unit;
    private readonly int _span;
    private readonly int _flushes;

    public KillPlan(KillCase kind, int seed, int compressionUnit)
    {
        _case = kind;
        _seed = seed;
        CompressionUnit = compressionUnit;
        var random = new Random(seed);
        Workers = kind.Snapshots || kind.Resizes ? 1 : random.Next(1, 5);
        _aligned = random.Next(2) == 0;
        _discards = _aligned && !kind.Snapshots && random.Next(3) != 0;
        _unit = kind.Length > Large ? 1 << 20 : Workers == 1 ? int.MaxValue : 4096 << (random.Next(5) * 2);
        _span = 512 << random.Next(3, 11);
        _flushes = random.Next(3, 40);
    }

    /// <summary>How many work at the same time, each on parts of the disk that are only his.</summary>
    public int Workers { get; }

    /// <summary>Bytes in a unit that is written compressed.</summary>
    public int CompressionUnit { get; }

    /// <summary>The bytes of a write: they tell who wrote them, when and for which place; some compress well, some are zeroes.</summary>
    public static void Fill(Span<byte> bytes, int seed, int worker, in KillOperation operation)
    {
        var key = Mix(((ulong)(uint)seed << 32) ^ ((ulong)(uint)operation.Number << 8) ^ (uint)worker);
        if (key % 11 == 0)
        {
            bytes.Clear();
            return;
        }

        var compressible = operation.Action == KillAction.Compressed ? key % 5 != 0 : key % 3 == 0;
        for (var at = 0; at < bytes.Length; at++)
        {
            var place = operation.Offset + at;
            var word = Mix(key + (ulong)(compressible ? place / 512 : place / 8));
            if ((place & 7) == 0 && bytes.Length - at >= 8)
            {
                System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(bytes[at..], word);
                at += 7;
            }
            else
            {
                bytes[at] = (byte)(word >> (int)((place & 7) * 8));
            }
        }
    }

    /// <summary>A worker's requests, without end.</summary>
    public IEnumerable<KillOperation> Of(int worker)
    {
        var random = new Random(HashCode(_seed, worker));
        var snapshots = new List<(int Number, long Length)>();
        long length = _case.Length;
        for (var number = 0; ; number++)
        {
            if (random.Next(_flushes) == 0)
            {
                yield return new KillOperation(number, KillAction.Flush);
                continue;
            }

            if (_case.Snapshots && random.Next(12) == 0)
            {
                if (snapshots.Count == 0 || (snapshots.Count < MostSnapshots && random.Next(2) == 0))
                {
                    snapshots.Add((number, length));
                    yield return new KillOperation(number, KillAction.CreateSnapshot, 0, 0, number);
                }
                else
                {
                    var chosen = random.Next(snapshots.Count);
                    var snapshot = snapshots[chosen];
                    var apply = random.Next(2) == 0;
                    if (apply)
                    {
                        length = snapshot.Length;
                    }
                    else
                    {
                        snapshots.RemoveAt(chosen);
                    }

                    yield return new KillOperation(number, apply ? KillAction.ApplySnapshot : KillAction.DeleteSnapshot, 0, 0, snapshot.Number);
                }

                continue;
            }

            if (_case.Resizes && random.Next(25) == 0)
            {
                length = (long)random.Next(_case.Length >> 21, _case.Length >> 19) << 20;
                yield return new KillOperation(number, KillAction.Resize, length);
                continue;
            }

            yield return Transfer(random, worker, number, length);
        }
    }

    private KillOperation Transfer(Random random, int worker, int number, long length)
    {
        // Most hit again what was hit before: of a large disk only some places are used.
        var unit = (int)Math.Min(_unit, length);
        var units = length / unit;
        var index = Math.Min((random.NextInt64(units) / Workers * Workers) + worker, Math.Max(units - 1, 0));
        index = index % Workers == worker || Workers == 1 ? index : worker;
        if (_case.Length > Large)
        {
            index = (index % 40 * (units / 40) / Workers * Workers) + worker;
        }

        var start = index * unit;
        var room = (int)Math.Min(unit, length - start);
        var size = random.Next(1, Math.Min(_span, room) + 1);
        var at = random.Next(room - size + 1);
        if (_aligned || random.Next(2) == 0)
        {
            at &= ~511;
            size = Math.Min((size + 511) & ~511, room - at);
        }

        var action = random.Next(20) switch
        {
            < 11 => KillAction.Write,
            11 => KillAction.WriteThrough,
            < 14 => KillAction.Zero,
            14 => KillAction.ZeroKeeping,
            < 17 when _discards => KillAction.Discard,
            < 19 => _case.Compresses ? KillAction.Compressed : KillAction.Write,
            _ => KillAction.Read,
        };
        if (action == KillAction.Compressed)
        {
            if (room < CompressionUnit)
            {
                return new KillOperation(number, KillAction.Write, start + at, size);
            }

            return new KillOperation(number, action, (start + at) / CompressionUnit * CompressionUnit, CompressionUnit) is var whole && whole.Offset + CompressionUnit <= start + room
                ? whole
                : whole with { Offset = start };
        }

        return new KillOperation(number, action, start + at, size);
    }

    private static int HashCode(int seed, int worker) => (int)(Mix(((ulong)(uint)seed << 8) + (uint)worker) & int.MaxValue);

    private static ulong Mix(ulong value)
    {
        value += 0x9E3779B97F4A7C15;
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
        return value ^ (value >> 31);
    }
}
