using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Machine.Virtio;

namespace Lodge.Machine.Devices.Virtio.Balloon;

/// <summary>
/// Memory balloon (virtio 1.2, 5.5). The memory of inflated and of reported pages goes back to the host; a page that the guest uses again reads as zero
/// and is backed anew, so deflation needs no work.
/// </summary>
public sealed class VirtioBalloon : VirtioDevice
{
    private readonly VirtioBalloonConfiguration _configuration;
    private readonly TimerService _timers;
    private readonly MachineTimer _timer;
    private BalloonStatistics _statistics = new();
    private DescriptorChain? _statisticsBuffer;     // kept until statistics are wanted; worker only
    private volatile bool _statisticsWanted;
    private TaskCompletionSource<BalloonStatistics> _answer = NewAnswer();
    private volatile bool _running;
    private uint _target;
    private uint _actual;
    private uint _poison;
    private ulong _discarded;

    /// <summary>Creates the device.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="timers">Clock for statistics.</param>
    /// <param name="configuration">Its set-up.</param>
    public VirtioBalloon(GuestMemory memory, TimerService timers, VirtioBalloonConfiguration configuration)
        : base(
            VirtioDeviceType.Balloon,
            memory,
            [VirtioBalloonRegisters.QueueSize, VirtioBalloonRegisters.QueueSize, VirtioBalloonRegisters.QueueSize, VirtioBalloonRegisters.QueueSize])
    {
        _configuration = configuration;
        _timers = timers;
        _timer = timers.Create(RequestStatistics);
    }

    /// <summary>Bytes that the guest is asked to give up; rounded down to 4 KiB and limited to RAM. The guest follows in its own time.</summary>
    public ulong TargetBytes
    {
        get
        {
            lock (Gate)
            {
                return (ulong)_target << VirtioBalloonRegisters.PageShift;
            }
        }

        set
        {
            uint pages = (uint)Math.Min(Math.Min(value, Memory.Size) >> VirtioBalloonRegisters.PageShift, uint.MaxValue);
            lock (Gate)
            {
                if (pages == _target)
                {
                    return;
                }
                _target = pages;
            }
            ConfigurationChanged();
        }
    }

    /// <summary>Bytes that the guest says it has given up.</summary>
    public ulong ActualBytes
    {
        get
        {
            lock (Gate)
            {
                return (ulong)_actual << VirtioBalloonRegisters.PageShift;
            }
        }
    }

    /// <summary>Bytes given back to the host since power-on, by inflation and by reporting.</summary>
    public ulong DiscardedBytes => Volatile.Read(ref _discarded) << VirtioBalloonRegisters.PageShift;

    /// <summary>The last statistics.</summary>
    public BalloonStatistics Statistics => Volatile.Read(ref _statistics);

    /// <inheritdoc/>
    protected override ulong DeviceFeatures =>
        VirtioBalloonRegisters.FeatureStatistics
        | (_configuration.DeflateOnOutOfMemory ? VirtioBalloonRegisters.FeatureDeflateOnOom : 0)
        | (_configuration.FreePageReporting ? VirtioBalloonRegisters.FeatureReporting | VirtioBalloonRegisters.FeaturePagePoison : 0);

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => VirtioBalloonRegisters.ConfigurationLength;

    /// <summary>Asks the guest for statistics; <see cref="Statistics"/> changes when it answers. Any thread.</summary>
    public void RequestStatistics()
    {
        _statisticsWanted = true;
        Signal();
    }

    /// <summary>Asks the guest for statistics and gives its answer. Any thread.</summary>
    /// <returns>Completes when the guest answers: not before its driver is there and the machine runs, so wait with a limit.</returns>
    public Task<BalloonStatistics> GetStatisticsAsync(CancellationToken cancellation = default)
    {
        Task<BalloonStatistics> answer = Volatile.Read(ref _answer).Task;
        RequestStatistics();
        return answer.WaitAsync(cancellation);
    }

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
        destination.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBalloonRegisters.NumPages..], _target);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBalloonRegisters.Actual..], _actual);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioBalloonRegisters.PoisonValue..], _poison);
    }

    /// <inheritdoc/>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
        Span<byte> all = stackalloc byte[VirtioBalloonRegisters.ConfigurationLength];
        ReadConfiguration(all);
        data.CopyTo(all[offset..]);
        _actual = BinaryPrimitives.ReadUInt32LittleEndian(all[VirtioBalloonRegisters.Actual..]);
        if (Has(VirtioBalloonRegisters.FeaturePagePoison))
        {
            _poison = BinaryPrimitives.ReadUInt32LittleEndian(all[VirtioBalloonRegisters.PoisonValue..]);
        }
    }

    /// <inheritdoc/>
    protected override void OnStart()
    {
        _running = true;
        ArmTimer();
    }

    /// <inheritdoc/>
    protected override void OnStop()
    {
        _running = false;
        _timer.Cancel();
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        _statisticsBuffer = null;
        _actual = 0;
        _poison = 0;
        Volatile.Write(ref _statistics, new BalloonStatistics());
    }

    /// <inheritdoc/>
    protected override void OnQueueReset(VirtQueue queue)
    {
        if (queue.Index == StatisticsQueue)
        {
            _statisticsBuffer = null;
        }
    }

    /// <inheritdoc/>
    protected override void OnSignal()
    {
        // The buffer goes back to the driver, which fills it and makes it available again (5.5.6.3).
        if (_statisticsWanted && _statisticsBuffer is { } buffer)
        {
            _statisticsWanted = false;
            _statisticsBuffer = null;
            VirtQueue queue = Queues[StatisticsQueue];
            queue.Complete(buffer);
            Notify(queue);
        }
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        if (queue.Index == VirtioBalloonRegisters.InflateQueue)
        {
            return Inflate(queue, chain);
        }
        if (queue.Index == VirtioBalloonRegisters.DeflateQueue)
        {
            queue.Complete(chain);
            return true;
        }
        if (queue.Index == StatisticsQueue)
        {
            return TakeStatistics(queue, chain);
        }
        if (queue.Index == ReportingQueue)
        {
            return Report(queue, chain);
        }
        Reject(queue, chain);
        return false;
    }

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer) => writer.Nested(1, new VirtioBalloonState(_target, _actual, _poison));

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader)
    {
        VirtioBalloonState state = reader.Nested(1, new VirtioBalloonState(0, 0, 0));
        (_target, _actual, _poison) = (state.TargetPages, state.ActualPages, state.PoisonValue);
    }

    /// <summary>Queues of features that were not negotiated do not exist, and the later ones move up (5.5.2).</summary>
    private int StatisticsQueue => Has(VirtioBalloonRegisters.FeatureStatistics) ? 2 : -1;

    private int ReportingQueue => !Has(VirtioBalloonRegisters.FeatureReporting) ? -1 : Has(VirtioBalloonRegisters.FeatureStatistics) ? 3 : 2;

    private bool Inflate(VirtQueue queue, DescriptorChain chain)
    {
        if (chain.ReadableLength > VirtioBalloonRegisters.MaximumRequest)
        {
            Reject(queue, chain);
            return false;
        }
        var runs = new PageRuns(Memory);
        Span<byte> buffer = stackalloc byte[1024];
        for (int length; (length = chain.Read(buffer)) >= sizeof(uint);)
        {
            for (int at = 0; at + sizeof(uint) <= length; at += sizeof(uint))
            {
                runs.Add(BinaryPrimitives.ReadUInt32LittleEndian(buffer[at..]));
            }
        }
        runs.Flush();
        Volatile.Write(ref _discarded, _discarded + runs.Discarded);
        queue.Complete(chain);
        return true;
    }

    private bool Report(VirtQueue queue, DescriptorChain chain)
    {
        // With a poison value the guest expects to find it in reported pages; zeros would break that (5.5.6.7).
        if (!Has(VirtioBalloonRegisters.FeaturePagePoison) || Volatile.Read(ref _poison) == 0)
        {
            const ulong Offset = GuestMemory.PageSize - 1;
            foreach (ChainSegment segment in chain.Writable)
            {
                ulong start = (segment.Address + Offset) & ~Offset;
                ulong end = (segment.Address + segment.Length) & ~Offset;
                if (start < end && Memory.TryDiscard(start, end - start))
                {
                    Volatile.Write(ref _discarded, _discarded + ((end - start) >> VirtioBalloonRegisters.PageShift));
                }
            }
        }
        queue.Complete(chain);
        return true;
    }

    private bool TakeStatistics(VirtQueue queue, DescriptorChain chain)
    {
        if (_statisticsBuffer is not null)
        {
            Reject(queue, chain);       // the driver has one buffer only
            return false;
        }
        BalloonStatistics result = new() { Updates = Statistics.Updates + 1 };
        Span<byte> entry = stackalloc byte[VirtioBalloonRegisters.StatisticLength];
        for (int i = 0; i < VirtioBalloonRegisters.MaximumStatistics && chain.Read(entry) == entry.Length; i++)
        {
            ulong value = BinaryPrimitives.ReadUInt64LittleEndian(entry[2..]);
            result = BinaryPrimitives.ReadUInt16LittleEndian(entry) switch
            {
                0 => result with { SwapIn = value },
                1 => result with { SwapOut = value },
                2 => result with { MajorFaults = value },
                3 => result with { MinorFaults = value },
                4 => result with { Free = value },
                5 => result with { Total = value },
                6 => result with { Available = value },
                7 => result with { Caches = value },
                8 => result with { HugePageAllocations = value },
                9 => result with { HugePageFailures = value },
                _ => result,
            };
        }
        Volatile.Write(ref _statistics, result);
        Interlocked.Exchange(ref _answer, NewAnswer()).TrySetResult(result);
        _statisticsBuffer = chain;
        ArmTimer();
        if (_statisticsWanted)
        {
            Signal();       // asked for while the driver had the buffer
        }
        return true;
    }

    private static TaskCompletionSource<BalloonStatistics> NewAnswer() => new(TaskCreationOptions.RunContinuationsAsynchronously);

    private void ArmTimer()
    {
        if (_configuration.StatisticsInterval > TimeSpan.Zero && _running)
        {
            _timer.Arm(_timers.Clock.Now + (long)_configuration.StatisticsInterval.TotalNanoseconds);
        }
    }
}
