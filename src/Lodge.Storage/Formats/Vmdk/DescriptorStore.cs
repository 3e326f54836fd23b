using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>The descriptor where it is stored, and the changes that an image in use makes to it.</summary>
/// <param name="file">The file that it is in.</param>
/// <param name="offset">Where in it, in bytes.</param>
/// <param name="bytes">The bytes as they are.</param>
/// <param name="room">Bytes that it may take; 0 is a file of its own.</param>
internal sealed class DescriptorStore(IStorageFile file, long offset, byte[] bytes, int room)
{
    private readonly SemaphoreSlim _turn = new(1, 1);
    private byte[] _bytes = bytes;
    private volatile bool _changed;

    /// <summary>What it says now.</summary>
    public VmdkDescriptor Descriptor { get; private set; } = VmdkDescriptor.Parse(bytes, file.Name);

    /// <summary>
    /// Gives the content another id before its first change, by which images that have this one as their parent see that it is not what it was. Only the digits
    /// are written, as many as there are, so that a torn write leaves a descriptor, too.
    /// </summary>
    public ValueTask MarkChangedAsync(CancellationToken cancellation) => _changed ? ValueTask.CompletedTask : ChangeAsync(cancellation);

    /// <summary>Names another parent, or none.</summary>
    public async ValueTask SetParentAsync(string? name, uint contentId, CancellationToken cancellation)
    {
        await _turn.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            var text = Encoding.UTF8.GetBytes(VmdkDescriptor.WithParent(Encoding.UTF8.GetString(_bytes), name, contentId));
            if (room != 0 && text.Length > room)
            {
                throw new DiskException(DiskError.Unsupported, $"{file.Name}: its descriptor has no room for the parent's name {name}");
            }

            var old = _bytes.Length;
            Array.Resize(ref text, room != 0 ? room : text.Length);
            await file.WriteAsync(offset, text, WriteOptions.None, cancellation).ConfigureAwait(false);
            if (room == 0 && text.Length < old)
            {
                await file.ResizeAsync(text.Length, cancellation).ConfigureAwait(false);
            }

            await file.FlushAsync(cancellation).ConfigureAwait(false);
            _bytes = text;
            Descriptor = VmdkDescriptor.Parse(text, file.Name);
        }
        finally
        {
            _turn.Release();
        }
    }

    /// <summary>Makes changes durable; needed for a file of its own.</summary>
    public ValueTask FlushAsync(CancellationToken cancellation) => _changed && room == 0 ? file.FlushAsync(cancellation) : ValueTask.CompletedTask;

    private async ValueTask ChangeAsync(CancellationToken cancellation)
    {
        await _turn.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            var (start, length) = VmdkDescriptor.FindDigits(_bytes, "CID"u8);
            if (!_changed && length != 0)
            {
                var digits = Encoding.ASCII.GetBytes(NewId(Descriptor.ContentId, length).ToString("x" + length.ToString(CultureInfo.InvariantCulture), CultureInfo.InvariantCulture));
                await file.WriteAsync(offset + start, digits, WriteOptions.None, cancellation).ConfigureAwait(false);
                digits.CopyTo(_bytes, start);
                Descriptor = VmdkDescriptor.Parse(_bytes, file.Name);
            }

            _changed = true;
        }
        finally
        {
            _turn.Release();
        }
    }

    private static uint NewId(uint old, int digits)
    {
        Span<byte> random = stackalloc byte[4];
        while (true)
        {
            RandomNumberGenerator.Fill(random);
            var id = BitConverter.ToUInt32(random) & (uint)((1L << (4 * digits)) - 1);

            // The two highest are reserved, 0 is an image whose descriptor has none.
            if (id != old && id is > 0 and < VmdkDescriptor.NoParent - 1)
            {
                return id;
            }
        }
    }
}
