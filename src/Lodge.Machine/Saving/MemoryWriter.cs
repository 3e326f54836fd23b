using Lodge.Engine.Memory;
using Lodge.Storage.Compression;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Machine.Saving;

/// <summary>
/// Writes the chunks of RAM that are not zero, compressed each on its own, on several threads with a few MiB each. Frames lie in the file about in the order of RAM.
/// </summary>
internal sealed class MemoryWriter
{
    /// <summary>Base-2 logarithm of the bytes of a chunk: 64 KiB, some tens of microseconds to decompress for whoever waits for a page of it.</summary>
    public const int ChunkShift = 16;

    private const ulong ChunkBytes = 1UL << ChunkShift, BlockBytes = 1UL << 20;
    private const int Room = 4 << 20;

    private readonly MemoryImage _image;
    private readonly SafeFileHandle _file;
    private readonly SaveOptions _options;
    private readonly CancellationToken _cancellation;
    private readonly Lock _gate = new();
    private readonly List<PagedChunk> _chunks = [];
    private readonly ulong _total;
    private int _range;
    private ulong _next;
    private ulong _done;
    private long _end;
    private Exception? _failure;

    private MemoryWriter(MemoryImage image, SafeFileHandle file, long offset, SaveOptions options, CancellationToken cancellation)
    {
        (_image, _file, _end, _options, _cancellation) = (image, file, offset, options, cancellation);
        foreach (BackingRange range in image.Data)
        {
            _total += range.End - range.Start;
        }
    }

    /// <summary>Writes all from an offset on.</summary>
    /// <param name="end">Past the last frame.</param>
    /// <returns>The index, ascending.</returns>
    public static List<PagedChunk> Write(MemoryImage image, SafeFileHandle file, long offset, SaveOptions options, CancellationToken cancellation, out long end)
    {
        var writer = new MemoryWriter(image, file, offset, options, cancellation);
        var threads = new Thread[Math.Clamp(options.Threads, 1, 64)];
        for (int i = 0; i < threads.Length; i++)
        {
            threads[i] = new Thread(writer.Work) { IsBackground = true, Name = $"save{i}" };
            threads[i].Start();
        }
        foreach (Thread thread in threads)
        {
            thread.Join();
        }
        if (writer._failure is { } failure)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failure);
        }
        writer._chunks.Sort(static (a, b) => a.Chunk.CompareTo(b.Chunk));
        end = writer._end;
        return writer._chunks;
    }

    private void Work()
    {
        try
        {
            using var compressor = new ZstandardCompressor(_options.Level, checksum: true);
            byte[] plain = GC.AllocateUninitializedArray<byte>((int)ChunkBytes), packed = GC.AllocateUninitializedArray<byte>(Room);
            int bound = Zstandard.Bound((int)ChunkBytes), used = 0;
            var pending = new List<PagedChunk>();
            while (Take(out ulong start, out ulong end))
            {
                for (ulong chunk = start; chunk < end; chunk += ChunkBytes)
                {
                    Span<byte> contents = plain.AsSpan(0, (int)Math.Min(ChunkBytes, end - chunk));
                    _image.Read(chunk, contents);
                    if (!contents.ContainsAnyExcept((byte)0))
                    {
                        continue;
                    }
                    int length = compressor.TryCompress(contents, packed.AsSpan(used));
                    if (length == 0)
                    {
                        throw new IOException("libzstd cannot compress a chunk of memory");
                    }
                    pending.Add(new PagedChunk { Offset = (ulong)used, Chunk = (uint)(chunk >> ChunkShift), Length = (uint)length });
                    used += length;
                    if (Room - used < bound)
                    {
                        Put(packed, ref used, pending);
                    }
                }
            }
            Put(packed, ref used, pending);
        }
        catch (Exception e)
        {
            lock (_gate)
            {
                _failure ??= e;
            }
        }
    }

    /// <summary>The next piece of RAM: chunks, at most a block, that touch data.</summary>
    private bool Take(out ulong start, out ulong end)
    {
        ulong done;
        lock (_gate)
        {
            _cancellation.ThrowIfCancellationRequested();
            while (_range < _image.Data.Count && _image.Data[_range].End <= _next)
            {
                _range++;
            }
            (start, end) = (0, 0);
            if (_failure is not null || _range == _image.Data.Count)
            {
                return false;
            }
            BackingRange range = _image.Data[_range];
            start = Math.Max(_next, range.Start & ~(ChunkBytes - 1));
            end = Math.Min(_image.Size, Math.Min((start & ~(BlockBytes - 1)) + BlockBytes, (range.End + ChunkBytes - 1) & ~(ChunkBytes - 1)));
            _next = end;
            _done = Math.Min(_total, _done + (Math.Min(end, range.End) - Math.Max(start, range.Start)));
            done = _done;
        }
        _options.Progress?.Invoke(done, _total);
        return true;
    }

    private void Put(byte[] packed, ref int used, List<PagedChunk> pending)
    {
        if (pending.Count == 0)
        {
            return;
        }
        long place;
        lock (_gate)
        {
            place = _end;
            _end += used;
            foreach (PagedChunk chunk in pending)
            {
                _chunks.Add(chunk with { Offset = chunk.Offset + (ulong)place });
            }
        }
        RandomAccess.Write(_file, packed.AsSpan(0, used), place);
        pending.Clear();
        used = 0;
    }
}
