namespace Lodge.Engine.Processor;

/// <summary>A set of <see cref="CpuFeature"/>s as CPUID holds them: 32 bits for each <see cref="CpuFeatureWord"/>. Bits without a name may be in it, too.</summary>
public sealed class CpuFeatureSet
{
    private readonly uint[] _words = new uint[(int)CpuFeatureWord.Count];

    /// <summary>The empty set.</summary>
    public CpuFeatureSet()
    {
    }

    /// <summary>A set of features.</summary>
    public CpuFeatureSet(IEnumerable<CpuFeature> features)
    {
        foreach (CpuFeature feature in features)
        {
            Add(feature);
        }
    }

    /// <summary>A word of it.</summary>
    public uint this[CpuFeatureWord word]
    {
        get => _words[(int)word];
        set => _words[(int)word] = value;
    }

    /// <summary>Whether a feature is in it.</summary>
    public bool Has(CpuFeature feature) => ((_words[(int)feature >> 5] >> ((int)feature & 31)) & 1) != 0;

    /// <summary>Adds a feature.</summary>
    public void Add(CpuFeature feature) => _words[(int)feature >> 5] |= 1u << ((int)feature & 31);

    /// <summary>Takes a feature away.</summary>
    public void Remove(CpuFeature feature) => _words[(int)feature >> 5] &= ~(1u << ((int)feature & 31));

    /// <summary>Adds all of another set.</summary>
    public void Add(CpuFeatureSet other)
    {
        for (int i = 0; i < _words.Length; i++)
        {
            _words[i] |= other._words[i];
        }
    }

    /// <summary>A copy.</summary>
    public CpuFeatureSet Copy()
    {
        var copy = new CpuFeatureSet();
        copy.Add(this);
        return copy;
    }

    /// <summary>Names of the features that this set has and another lacks, by word and bit.</summary>
    public IReadOnlyList<string> Beyond(CpuFeatureSet other)
    {
        var names = new List<string>();
        for (int i = 0; i < _words.Length * 32; i++)
        {
            if (Has((CpuFeature)i) && !other.Has((CpuFeature)i))
            {
                names.Add(Enum.GetName((CpuFeature)i) ?? $"{(CpuFeatureWord)(i >> 5)} bit {i & 31}");
            }
        }
        return names;
    }
}
