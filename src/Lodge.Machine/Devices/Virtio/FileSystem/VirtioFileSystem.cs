using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Numerics;
using System.Text;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Virtio;

namespace Lodge.Machine.Devices.Virtio.FileSystem;

/// <summary>
/// File system device (virtio 1.2, 5.11): carries FUSE requests to a server, without a notification queue or shared memory (DAX). The worker hands requests to
/// the server's threads as they come and completes them in any order; data goes directly between files and guest memory, and every byte that the guest gets is
/// reported to guest memory like other DMA. A stop or reset waits for what the server has in hand.
/// </summary>
public sealed class VirtioFileSystem : VirtioDevice
{
    private readonly VirtioFileSystemConfiguration _configuration;
    private readonly byte[] _tag = new byte[VirtioFileSystemRegisters.TagLength];
    private readonly ConcurrentQueue<FileSystemRequest> _finished = new();
    private readonly Stack<FileSystemRequest> _free = new();
    private readonly FileSystemRequest _priority;
    private readonly int[] _inFlight;       // by queue; changed on the worker, or while it is stopped
    private readonly object _gate = new();
    private int _running;                   // under _gate
    private ulong _waiting;                 // queues that have more while too much is in flight

    /// <summary>Creates the device.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="configuration">Its set-up.</param>
    public VirtioFileSystem(GuestMemory memory, VirtioFileSystemConfiguration configuration)
        : base(VirtioDeviceType.FileSystem, memory, QueueSizes(configuration.Queues))
    {
        _configuration = configuration;
        byte[] tag = Encoding.UTF8.GetBytes(configuration.Tag);
        if (tag.Length is 0 or > VirtioFileSystemRegisters.TagLength || configuration.Tag.Contains('\0'))
        {
            throw new ArgumentException($"tag '{configuration.Tag}' of a file system device has not 1 to {VirtioFileSystemRegisters.TagLength} bytes", nameof(configuration));
        }
        tag.CopyTo(_tag, 0);
        _inFlight = new int[Queues.Count];
        _priority = new FileSystemRequest(static _ => { });
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => 0;

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => VirtioFileSystemRegisters.Length;

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
        _tag.CopyTo(destination[VirtioFileSystemRegisters.Tag..]);
        BinaryPrimitives.WriteInt32LittleEndian(destination[VirtioFileSystemRegisters.RequestQueues..], Queues.Count - 1);
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        if (queue.Index == VirtioFileSystemRegisters.HighPriorityQueue)
        {
            _priority.Begin(queue, chain);
            _configuration.Server.ServePriority(_priority);
            _priority.End();
            queue.Complete(chain);
            return true;
        }
        FileSystemRequest request = _free.TryPop(out FileSystemRequest? spare) ? spare : new FileSystemRequest(Finished);
        request.Begin(queue, chain);
        _inFlight[queue.Index]++;
        lock (_gate)
        {
            _running++;
        }
        _configuration.Server.Submit(request);
        return ServesOnKick(queue);
    }

    /// <inheritdoc/>
    protected override bool ServesOnKick(VirtQueue queue)
    {
        if (_inFlight[queue.Index] < VirtioFileSystemRegisters.MaximumInFlight)
        {
            return true;
        }
        _waiting |= 1UL << queue.Index;
        return false;
    }

    /// <inheritdoc/>
    protected override void OnCollect()
    {
        ulong touched = 0;
        while (_finished.TryDequeue(out FileSystemRequest? request))
        {
            VirtQueue queue = request.Queue;
            DescriptorChain chain = request.Chain;
            _inFlight[queue.Index]--;
            touched |= 1UL << queue.Index;
            request.End();
            _free.Push(request);
            queue.Complete(chain);
        }
        for (; touched != 0; touched &= touched - 1)
        {
            int index = BitOperations.TrailingZeroCount(touched);
            Notify(Queues[index]);
            if ((_waiting & (1UL << index)) != 0)
            {
                _waiting &= ~(1UL << index);
                Kick(index);
            }
        }
    }

    /// <inheritdoc/>
    protected override bool HoldsBuffers(VirtQueue queue) => _inFlight[queue.Index] != 0;

    /// <inheritdoc/>
    protected override bool TryFinishRequests(TimeSpan patience)
    {
        lock (_gate)
        {
            long end = Environment.TickCount64 + (long)patience.TotalMilliseconds;
            while (_running != 0 && Math.Max(0, end - Environment.TickCount64) is > 0 and var left)
            {
                Monitor.Wait(_gate, (int)left);
            }
            return _running == 0;
        }
    }

    /// <inheritdoc/>
    protected override void OnStop()
    {
        lock (_gate)
        {
            while (_running != 0)
            {
                Monitor.Wait(_gate);        // guest memory is lent: no way around it
            }
        }
        OnCollect();
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        _waiting = 0;
        _configuration.Server.Reset();
    }

    /// <inheritdoc/>
    /// <exception cref="SavedStateException">The guest has the folder mounted: what it has open lives in this process and on this host.</exception>
    protected override void SaveDevice(StateWriter writer)
    {
        if (_configuration.Server.InSession)
        {
            throw new SavedStateException($"the guest has shared folder '{_configuration.Tag}' mounted, and a machine with open files of the host cannot be saved; unmount it in the guest first");
        }
        writer.Nested(1, new VirtioFileSystemState(_configuration.Tag));
    }

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader)
    {
        string tag = reader.Nested(1, new VirtioFileSystemState(_configuration.Tag)).Tag;
        if (tag != _configuration.Tag)
        {
            throw new SavedStateException($"saved state has shared folder '{tag}' where this machine has '{_configuration.Tag}'");
        }
    }

    private static ushort[] QueueSizes(int requestQueues)
    {
        var sizes = new ushort[1 + Math.Clamp(requestQueues, 1, VirtioFileSystemRegisters.MaximumRequestQueues)];
        Array.Fill(sizes, VirtioFileSystemRegisters.RequestQueueSize);
        sizes[VirtioFileSystemRegisters.HighPriorityQueue] = VirtioFileSystemRegisters.HighPriorityQueueSize;
        return sizes;
    }

    /// <summary>The server is done with a request. On its thread.</summary>
    private void Finished(FileSystemRequest request)
    {
        _finished.Enqueue(request);
        Signal();
        lock (_gate)
        {
            if (--_running == 0)
            {
                Monitor.PulseAll(_gate);
            }
        }
    }
}
