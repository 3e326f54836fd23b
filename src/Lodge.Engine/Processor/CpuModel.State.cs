using Lodge.Engine.State;

namespace Lodge.Engine.Processor;

// The saved form of the model, and taking it over from a machine that was saved elsewhere.
public sealed partial class CpuModel
{
    /// <summary>Largest difference of time stamp counter frequencies that a guest does not notice, in millionths: its clock discipline makes up for it.</summary>
    public const long TimestampTolerance = 250;

    /// <summary>The model in its saved form.</summary>
    public CpuModelState Save() => new()
    {
        Name = NameText(Name),
        Vendor = _vendor with { Eax = 0 },
        Signature = Signature,
        PhysicalBits = PhysicalBits,
        Features = FeatureWords(),
        ComponentOffsets = Offsets(),
        Leaves = [.. _caches, _amdLevel1, _amdLevel2, _performance, _svm],
        TimestampFrequency = TimestampFrequency,
        HyperV = _hyperV,
    };

    /// <summary>
    /// Becomes the processor that a saved guest saw: the same model with, perhaps, fewer features than this host has. Before the processors' states are set.
    /// </summary>
    /// <exception cref="SavedStateException">Another model, or the engine does not offer a feature here; the message names it. Nothing has changed.</exception>
    public void Adopt(CpuModelState saved)
    {
        CpuFeatureSet features = new();
        for (int i = 0; i < saved.Features.Count; i++)
        {
            if (i < (int)CpuFeatureWord.Count)
            {
                features[(CpuFeatureWord)i] = saved.Features[i];
            }
            else if (saved.Features[i] != 0)
            {
                throw new SavedStateException($"the machine was saved with CPU features that this Lodge does not know (word {i})");
            }
        }
        if (saved.Name != NameText(Name))
        {
            IReadOnlyList<string> lacking = features.Beyond(_features);
            string what = lacking.Count > 0 ? $", which lacks {string.Join(", ", lacking)}" : "";
            throw new SavedStateException($"the machine was saved with CPU model {Printable(saved.Name)} and this one has {NameText(Name)}{what}");
        }
        IReadOnlyList<string> missing = features.Beyond(_offer.Features);
        if (missing.Count > 0)
        {
            throw new SavedStateException($"the machine was saved with CPU features that {_offer.Engine} lacks: {string.Join(", ", missing)}");
        }
        if (Array.Find(s_onRequest, f => features.Has(f) && !_features.Has(f)) is var asked and not 0)
        {
            throw new SavedStateException($"the machine was saved with {asked}, which this one was not given ({(asked is CpuFeature.Vmx or CpuFeature.Svm ? "--nested" : "--pmu")})");
        }
        CheckHyperV(saved.HyperV);
        bool amd = saved.Vendor.Ebx == s_amd.Ebx;
        if (amd != _offer.IsAmd && !_offer.IsSoftware)
        {
            throw new SavedStateException($"the machine was saved with a processor of {VendorName(amd)}'s, which {_offer.Engine} cannot show");
        }
        if (saved.PhysicalBits > _offer.PhysicalBits && !_offer.IsSoftware)
        {
            throw new SavedStateException($"the machine was saved with physical addresses of {saved.PhysicalBits} bits; {_offer.Engine} has {_offer.PhysicalBits}");
        }
        ulong components = ComponentsOf(features);
        XsaveLayout layout = XsaveLayout.Of([.. saved.ComponentOffsets.Select((offset, component) => (component, offset)).Where(c => c.component is > 1 and < 19)]);
        foreach (int component in XsaveLayout.Components.Where(c => (components >> c & 1) != 0))
        {
            int offset = layout.Offset(component);
            if (_offer.IsSoftware ? offset is < XsaveLayout.HeaderEnd or > 4032 || (component == 2) != (offset == XsaveLayout.HeaderEnd) : offset != _offer.Layout.Offset(component))
            {
                throw new SavedStateException($"the machine was saved with state component {component} at {offset} of an XSAVE area; {_offer.Engine} has it elsewhere");
            }
        }
        if (saved.TimestampFrequency is not 0 and < 1_000_000)
        {
            throw new SavedStateException($"the machine was saved with a time stamp counter of {saved.TimestampFrequency} Hz");
        }
        byte[] before = Bytes();
        IsAmd = amd;
        _vendor = saved.Vendor with { Eax = 0 };
        Signature = saved.Signature;
        _features = features;
        _hyperV = [.. saved.HyperV];
        Layout = layout;
        SetPhysicalBits(saved.PhysicalBits);
        UpdateComponents();
        if (saved.Leaves.Count == _caches.Length + 4)
        {
            for (int i = 0; i < _caches.Length; i++)
            {
                _caches[i] = saved.Leaves[i];
            }
            (_amdLevel1, _amdLevel2, _performance, _svm) = (saved.Leaves[^4], saved.Leaves[^3], saved.Leaves[^2], saved.Leaves[^1]);
        }
        if (saved.TimestampFrequency != 0)
        {
            TimestampFrequency = saved.TimestampFrequency;
        }
        if (!before.AsSpan().SequenceEqual(Bytes()))
        {
            Revision++; // not without need: processors that have run keep their CPUID
        }
    }

    private byte[] Bytes()
    {
        var writer = new StateWriter();
        Save().Write(writer);
        return writer.ToArray();
    }

    /// <summary>Whether a guest whose time stamp counter ran at one frequency may go on at another without scaling.</summary>
    public static bool IsCloseEnough(long frequency, long other)
    {
        ulong high = Math.BigMul((ulong)Math.Abs(frequency - other), 1_000_000, out ulong low), most = Math.BigMul((ulong)frequency, TimestampTolerance, out ulong lowest);
        return high < most || (high == most && low <= lowest);
    }

    // Names come out of a file.
    // Loops, as every machine that starts comes here: queries over numbers are compiled at each start.
    private uint[] FeatureWords()
    {
        uint[] words = new uint[(int)CpuFeatureWord.Count];
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = _features[(CpuFeatureWord)i];
        }
        return words;
    }

    private int[] Offsets()
    {
        int[] offsets = new int[19];
        for (int i = 0; i < offsets.Length; i++)
        {
            offsets[i] = Layout.Offset(i);
        }
        return offsets;
    }

    private static string Printable(string name) => new([.. name.Take(32).Select(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.' ? c : '?')]);
}
