using Lodge.Storage.Shares;

namespace Lodge.Machine.Devices.Virtio.FileSystem;

/// <summary>How a file system device is set up.</summary>
/// <param name="Tag">What the guest mounts it by; 1 to 36 bytes.</param>
/// <param name="Server">Serves its requests. The device does not dispose it.</param>
public sealed record VirtioFileSystemConfiguration(string Tag, FuseServer Server)
{
    /// <summary>Request queues, 1 to 16: one for each processor is best.</summary>
    public int Queues { get; init; } = 1;
}
