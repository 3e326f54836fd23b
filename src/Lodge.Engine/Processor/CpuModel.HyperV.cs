using Lodge.Engine.State;

namespace Lodge.Engine.Processor;

// Hyper-V's leaves (Microsoft, Hypervisor Top Level Functional Specification, 2.4), which come before KVM's own when a guest has them.
public sealed partial class CpuModel
{
    private const uint FirstHyperV = 0x4000_0000;

    private CpuidResult[] _hyperV = [];

    /// <summary>Whether the guest finds Hyper-V's leaves; KVM's are at 0x40000100 then.</summary>
    public bool HasHyperV => _hyperV.Length > 0;

    /// <summary>Hyper-V's leaves from 0x40000000 on, as an engine offers them; none takes them away.</summary>
    public void SetHyperV(IReadOnlyList<CpuidResult> leaves) => _hyperV = [.. leaves.Take(CpuModelState.MaximumHyperV)];

    private bool TryHyperV(uint leaf, out CpuidResult result)
    {
        result = default;
        if (_hyperV.Length == 0 || leaf is < FirstHyperV or > 0x4000_01FF)
        {
            return false;
        }
        uint number = leaf - FirstHyperV;
        result = number < (uint)_hyperV.Length ? _hyperV[number] : leaf switch
        {
            0x4000_0100 => new CpuidResult(0x4000_0101, 0x4B4D_564B, 0x564B_4D56, 0x0000_004D), // "KVMKVMKVM"
            0x4000_0101 => new CpuidResult(_features[CpuFeatureWord.KvmFeatures], 0, 0, 0),
            _ => default,
        };
        return true;
    }

    // Features and privileges (leaf 3), recommendations (leaf 4): nothing may be missing that the guest was told of.
    private void CheckHyperV(IReadOnlyList<CpuidResult> saved)
    {
        if (saved.Count > 0 != HasHyperV)
        {
            throw new SavedStateException(saved.Count > 0
                ? "the machine was saved with Hyper-V's enlightenments, which this one was not given (--hyperv)"
                : "the machine was saved without Hyper-V's enlightenments, which this one has (--hyperv)");
        }
        for (int i = 3; i <= 4 && i < saved.Count; i++)
        {
            CpuidResult own = i < _hyperV.Length ? _hyperV[i] : default;
            uint missing = (saved[i].Eax & ~own.Eax) | (i == 3 ? (saved[i].Ebx & ~own.Ebx) | (saved[i].Edx & ~own.Edx) : 0);
            if (missing != 0)
            {
                throw new SavedStateException($"the machine was saved with Hyper-V's enlightenments of leaf 0x{FirstHyperV + (uint)i:X} (bits 0x{missing:X}) that {_offer.Engine} lacks");
            }
        }
    }
}
