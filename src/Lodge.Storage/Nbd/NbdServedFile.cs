using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Raw;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Nbd;

/// <summary>The host file from which a disk's data may be sent as it is.</summary>
/// <param name="Handle">The file.</param>
/// <param name="Mapped">Whether <see cref="BlockExtent.HostOffset"/> tells where data is; else each byte is at its own offset.</param>
internal sealed record NbdServedFile(SafeFileHandle Handle, bool Mapped)
{
    /// <summary>The file of a disk, or null where its data must pass through memory.</summary>
    /// <remarks>
    /// A file that is read past the page cache is not sent. In a mapped image, what is mapped now may hold other data when it is sent if anybody writes, so that only one
    /// opened for reading is sent from its file; and one of several files, or encrypted, never is.
    /// </remarks>
    public static NbdServedFile? Of(IDisk disk) => disk switch
    {
        RawImage { File: HostFile { RequestAlignment: 1 } file } => new NbdServedFile(file.Handle, false),
        IImage { IsReadOnly: true, File: HostFile { RequestAlignment: 1 } file } image when image.Describe() is { Encrypted: false, Parts.Count: 0 } => new NbdServedFile(file.Handle, true),
        _ => null,
    };
}
