using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Templates;

/// <summary>A template that is being made; nothing remains of one that is not completed. No other process makes one meanwhile.</summary>
public sealed class TemplateDraft : IDisposable
{
    private readonly TemplateStore _store;
    private readonly SafeFileHandle _turn;
    private bool _completed;

    internal TemplateDraft(TemplateStore store, TemplateKey key, string folder, SafeFileHandle turn)
    {
        _store = store;
        _turn = turn;
        Key = key;
        Folder = folder;
    }

    /// <summary>What the machine is made from.</summary>
    public TemplateKey Key { get; }

    internal string Folder { get; }

    /// <summary>Writes the template and puts it into the store, from which the oldest ones are thrown away when there are too many.</summary>
    /// <param name="description">What it is; <see cref="TemplateDescription.StoredBytes"/> is filled in. One that was asked for is written through to the disk, which takes longer.</param>
    /// <param name="cards">MAC addresses of the machine's network cards.</param>
    /// <param name="state">State of devices and processors.</param>
    /// <param name="memory">Writes RAM to the file that it is given; returns how many bytes are not in holes.</param>
    /// <param name="code">Writes what was translated of the guest's code, and returns how many bytes; 0, or null: there is none.</param>
    /// <param name="disk">Writes the overlay on the image's disk, and returns how many bytes are not in holes; null: there is none.</param>
    /// <exception cref="IOException">The store cannot be written.</exception>
    /// <exception cref="UnauthorizedAccessException">Likewise.</exception>
    public TemplateDescription Complete(TemplateDescription description, IReadOnlyList<string> cards, ReadOnlySpan<byte> state, Func<SafeFileHandle, long> memory, Func<SafeFileHandle, long>? code = null, Func<SafeFileHandle, long>? disk = null)
    {
        Write(disk, () => TemplateStore.CreateDisk(this));
        Write(memory, () => TemplateStore.CreateMemory(this));
        Write(code, () => TemplateStore.CreateCode(this));
        TemplateStore.Compose(this, description, cards, state);
        _store.Publish(this);
        _completed = true;
        _store.Prune();
        return description;

        void Write(Func<SafeFileHandle, long>? write, Func<SafeFileHandle> create)
        {
            if (write is not null)
            {
                using SafeFileHandle file = create();
                description = description with { StoredBytes = description.StoredBytes + write(file) };
                if (description.Asked)
                {
                    RandomAccess.FlushToDisk(file);
                }
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        try
        {
            if (!_completed && Directory.Exists(Folder))
            {
                Directory.Delete(Folder, recursive: true);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The next maker removes it.
        }
        _turn.Dispose();
    }
}
