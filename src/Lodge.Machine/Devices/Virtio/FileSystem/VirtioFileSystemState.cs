using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.FileSystem;

/// <summary>Saved state of a file system device beside its queues. It is saved only while the guest has not mounted it: there is no session.</summary>
/// <param name="Tag">What the guest knows it by.</param>
public sealed record VirtioFileSystemState(string Tag) : ISavedState<VirtioFileSystemState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer) => writer.Text(1, Tag);

    /// <inheritdoc/>
    public static VirtioFileSystemState Read(StateReader reader) => new(reader.Text(1, VirtioFileSystemRegisters.TagLength));
}
