namespace Lodge.Machine.Devices.Virtio.FileSystem;

/// <summary>Layout of the file system device's configuration and queues (virtio 1.2, 5.11).</summary>
internal static class VirtioFileSystemRegisters
{
    /// <summary>tag: UTF-8, padded with zero bytes, without an end when it fills the field.</summary>
    public const int Tag = 0;

    public const int TagLength = 36;

    /// <summary>num_request_queues.</summary>
    public const int RequestQueues = 36;

    /// <summary>Length without notify_buf_size, which is there only with VIRTIO_FS_F_NOTIFICATION.</summary>
    public const int Length = 40;

    /// <summary>Index of hiprio; the request queues follow, as there is no notification queue.</summary>
    public const int HighPriorityQueue = 0;

    public const ushort HighPriorityQueueSize = 128;

    /// <summary>Linux sends no more pages in one request than a queue has descriptors, less four.</summary>
    public const ushort RequestQueueSize = 1024;

    public const int MaximumRequestQueues = 16;

    /// <summary>Requests that are with the server at once, by queue; the others wait in the ring.</summary>
    public const int MaximumInFlight = 128;
}
