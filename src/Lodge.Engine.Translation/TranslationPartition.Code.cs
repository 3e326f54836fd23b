using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Processor;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine.Translation;

// Translated code that is kept. All processors take theirs from one file; it holds what the first one has, which boots the guest.
internal sealed partial class TranslationPartition
{
    private KeptCode? _kept;

    /// <inheritdoc/>
    public void Record()
    {
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Blocks.Records = true;
        }
    }

    /// <inheritdoc/>
    public long Save(SafeFileHandle file)
    {
        Vcpus[0].DropWrittenCode(); // by a device that ended what it did when the processor stood already
        return Vcpus[0].Blocks.Save(file);
    }

    /// <inheritdoc/>
    public bool TryUse(SafeFileHandle file)
    {
        _kept = KeptCode.TryOpen(file, Vcpus[0].Blocks.BlockStart);
        if (_kept is not { } kept)
        {
            return false;
        }
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Blocks.Use(kept);
        }
        return true;
    }
}
