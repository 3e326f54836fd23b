using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation;

/// <summary>A machine's processors on the software engine.</summary>
internal sealed partial class TranslationPartition
{
    internal PartitionOptions Options = null!;
    internal Vcpu[] Vcpus = [];
}
