using System.Diagnostics;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Operations;

/// <summary>What a disk is loaded with, in the terms of <c>qemu-img bench</c>.</summary>
public sealed record DiskBenchOptions
{
    /// <summary>Requests in all.</summary>
    public long Count { get; init; } = 75000;

    /// <summary>Requests in flight.</summary>
    public int Depth { get; init; } = 64;

    /// <summary>Bytes of a request.</summary>
    public int BufferSize { get; init; } = 4096;

    /// <summary>Bytes from the beginning of a request to that of the next; 0 means the request's size.</summary>
    public long Step { get; init; }

    /// <summary>Where the first begins, in bytes; at the disk's end it goes on at 0.</summary>
    public long Offset { get; init; }

    /// <summary>Whether requests write.</summary>
    public bool Write { get; init; }

    /// <summary>The byte that is written.</summary>
    public byte Pattern { get; init; }

    /// <summary>A flush after so many writes; 0 means none.</summary>
    public int FlushInterval { get; init; }

    /// <summary>Whether a flush waits for the requests before it and holds up those after it.</summary>
    public bool Drain { get; init; } = true;

    /// <summary>Whether offsets are random multiples of the step instead of one after the other.</summary>
    public bool Random { get; init; }

    /// <summary>Seed of random offsets.</summary>
    public int Seed { get; init; } = 1;
}

/// <summary>Times requests to a disk.</summary>
public sealed class DiskBench
{
    private readonly IDisk _disk;
    private readonly DiskBenchOptions _options;
    private readonly long _step;
    private readonly Lock _gate = new();
    private readonly Random _random;
    private long _next;
    private long _issued;

    /// <summary>Prepares a run.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>: a value that makes no sense for the disk.</exception>
    public DiskBench(IDisk disk, DiskBenchOptions options)
    {
        if (options.BufferSize <= 0 || options.BufferSize > disk.Length || options.Offset < 0 || options.Offset > disk.Length - options.BufferSize)
        {
            throw new DiskException(DiskError.InvalidOption, $"requests of {options.BufferSize} bytes from {options.Offset} do not fit on the disk of {disk.Length} bytes");
        }

        if (options.FlushInterval != 0 && (!options.Write || options.FlushInterval < 0 || (options.Drain && options.FlushInterval < options.Depth)))
        {
            throw new DiskException(DiskError.InvalidOption, "--flush-interval is for writes (-w) and, without --no-drain, not below the depth (-d)");
        }

        _disk = disk;
        _options = options;
        _step = options.Step > 0 ? options.Step : options.BufferSize;
        _next = options.Offset;
        _random = new Random(options.Seed);
    }

    /// <summary>Runs all requests; gives the time they took.</summary>
    public async Task<TimeSpan> RunAsync(CancellationToken cancellation = default)
    {
        var start = Stopwatch.GetTimestamp();
        if (_options is { FlushInterval: > 0, Drain: true })
        {
            for (long done = 0; done < _options.Count;)
            {
                var part = Math.Min(_options.FlushInterval, _options.Count - done);
                await BatchAsync(done + part, cancellation).ConfigureAwait(false);
                done += part;
                await _disk.FlushAsync(cancellation).ConfigureAwait(false);
            }
        }
        else
        {
            await BatchAsync(_options.Count, cancellation).ConfigureAwait(false);
        }

        return Stopwatch.GetElapsedTime(start);
    }

    private Task BatchAsync(long until, CancellationToken cancellation) => Workers.RunAsync(
        (int)Math.Min(_options.Depth, _options.Count),
        async stop =>
        {
            var buffer = AlignedMemory.Allocate(_options.BufferSize);
            buffer.Span.Fill(_options.Pattern);
            IoVector vector = buffer;
            while (Claim(until, out var offset, out var flush))
            {
                stop.ThrowIfCancellationRequested();
                await (_options.Write ? _disk.WriteAsync(offset, vector, WriteOptions.None, stop) : _disk.ReadAsync(offset, vector, stop)).ConfigureAwait(false);
                if (flush)
                {
                    await _disk.FlushAsync(stop).ConfigureAwait(false);
                }
            }
        },
        cancellation);

    private bool Claim(long until, out long offset, out bool flush)
    {
        lock (_gate)
        {
            (offset, flush) = (0, false);
            if (_issued >= until)
            {
                return false;
            }

            _issued++;
            flush = _options is { FlushInterval: > 0, Drain: false } && _issued % _options.FlushInterval == 0;
            var last = _disk.Length - _options.BufferSize;
            if (_options.Random)
            {
                offset = _random.NextInt64(0, (last / _step) + 1) * _step;
                return true;
            }

            offset = _next;
            _next += _step;
            if (_next > last)
            {
                _next = _step >= _disk.Length ? 0 : _next % Math.Max(last + 1, 1);
                _next = _next / _options.BufferSize * _options.BufferSize;
            }

            return true;
        }
    }
}
