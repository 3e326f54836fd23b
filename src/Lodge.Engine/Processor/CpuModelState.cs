using Lodge.Engine.State;

namespace Lodge.Engine.Processor;

/// <summary>
/// The processor that a saved guest saw: identity, features, and what else of CPUID must stay as it was. A machine that takes the saved state takes this too
/// (<see cref="CpuModel.Adopt"/>) or refuses.
/// </summary>
public sealed record CpuModelState : ISavedState<CpuModelState>
{
    /// <summary>Most leaves of Hyper-V's that are kept.</summary>
    internal const int MaximumHyperV = 16;

    private const int MaximumName = 64, MaximumWords = 64, Components = 19, LeafValues = 32;

    /// <summary>Name as <c>--cpu</c> has it.</summary>
    public string Name { get; init; } = "";

    /// <summary>Vendor string: EBX, ECX, EDX of leaf 0.</summary>
    public CpuidResult Vendor { get; init; }

    /// <summary>Leaf 1 EAX.</summary>
    public uint Signature { get; init; }

    /// <summary>Width of physical addresses, 32 to 52.</summary>
    public int PhysicalBits { get; init; }

    /// <summary>Features by <see cref="CpuFeatureWord"/>.</summary>
    public IReadOnlyList<uint> Features { get; init; } = [];

    /// <summary>Offset of each state component in a standard-format XSAVE area by its number; 0 for none.</summary>
    public IReadOnlyList<int> ComponentOffsets { get; init; } = [];

    /// <summary>Leaves that are the host's: four sub-leaves of leaf 4, then leaves 0x80000005, 0x80000006, 0xA and 0x8000000A.</summary>
    public IReadOnlyList<CpuidResult> Leaves { get; init; } = [];

    /// <summary>Hyper-V's leaves from 0x40000000 on; none without the enlightenments.</summary>
    public IReadOnlyList<CpuidResult> HyperV { get; init; } = [];

    /// <summary>Frequency of the time stamp counter in Hz, or 0 when it was not known.</summary>
    public long TimestampFrequency { get; init; }

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Text(1, Name);
        writer.UInt64Array(2, [Vendor.Ebx, Vendor.Ecx, Vendor.Edx]);
        writer.UInt64(3, Signature);
        writer.UInt64(4, (ulong)PhysicalBits);
        writer.UInt64(5, (ulong)Features.Count);
        writer.UInt64Array(6, [.. Features.Select(f => (ulong)f)]);
        ulong[] offsets = new ulong[Components];
        for (int i = 0; i < Components && i < ComponentOffsets.Count; i++)
        {
            offsets[i] = (ulong)ComponentOffsets[i];
        }
        writer.UInt64Array(7, offsets);
        ulong[] leaves = new ulong[LeafValues];
        for (int i = 0; i < Leaves.Count && i < LeafValues / 4; i++)
        {
            (leaves[i * 4], leaves[(i * 4) + 1], leaves[(i * 4) + 2], leaves[(i * 4) + 3]) = (Leaves[i].Eax, Leaves[i].Ebx, Leaves[i].Ecx, Leaves[i].Edx);
        }
        writer.UInt64Array(8, leaves);
        writer.Int64(9, TimestampFrequency);
        writer.UInt64(10, (ulong)HyperV.Count);
        writer.UInt64Array(11, [.. HyperV.SelectMany(l => new ulong[] { l.Eax, l.Ebx, l.Ecx, l.Edx })]);
    }

    /// <inheritdoc/>
    public static CpuModelState Read(StateReader reader)
    {
        const long MaximumFrequency = 100_000_000_000;
        int hyperV = reader.Int32(10, 0, MaximumHyperV);
        ulong[] enlightenments = Narrow(reader.UInt64Array(11, hyperV * 4), uint.MaxValue);
        int words = reader.Int32(5, 0, MaximumWords);
        ulong[] vendor = Narrow(reader.UInt64Array(2, 3), uint.MaxValue), features = Narrow(reader.UInt64Array(6, words), uint.MaxValue),
            offsets = Narrow(reader.UInt64Array(7, Components), XsaveLayout.MaximumLength), leaves = Narrow(reader.UInt64Array(8, LeafValues), uint.MaxValue);
        for (int i = 0; i < offsets.Length; i++)
        {
            if (offsets[i] != 0 && (offsets[i] < XsaveLayout.HeaderEnd || (XsaveLayout.Components.Contains(i) && offsets[i] > XsaveLayout.MaximumLength - (ulong)XsaveLayout.Size(i))))
            {
                throw new SavedStateException($"saved CPU model has state component {i} at {offsets[i]}");
            }
        }
        int bits = reader.Int32(4, 36, 52);
        if (bits < 32)
        {
            throw new SavedStateException($"saved CPU model has physical addresses of {bits} bits");
        }
        return new CpuModelState
        {
            Name = reader.Text(1, MaximumName),
            Vendor = new CpuidResult(0, (uint)vendor[0], (uint)vendor[1], (uint)vendor[2]),
            Signature = reader.UInt32(3),
            PhysicalBits = bits,
            Features = Words(features),
            ComponentOffsets = Numbers(offsets),
            Leaves = Results(leaves),
            HyperV = Results(enlightenments),
            TimestampFrequency = (long)reader.UInt64(9, 0, MaximumFrequency),
        };
    }

    // Loops, as every clone comes here: queries over numbers are compiled at each start.
    private static CpuidResult[] Results(ulong[] values)
    {
        CpuidResult[] results = new CpuidResult[values.Length / 4];
        for (int i = 0; i < results.Length; i++)
        {
            results[i] = new CpuidResult((uint)values[i * 4], (uint)values[(i * 4) + 1], (uint)values[(i * 4) + 2], (uint)values[(i * 4) + 3]);
        }
        return results;
    }

    private static uint[] Words(ulong[] values)
    {
        uint[] words = new uint[values.Length];
        for (int i = 0; i < words.Length; i++)
        {
            words[i] = (uint)values[i];
        }
        return words;
    }

    private static int[] Numbers(ulong[] values)
    {
        int[] numbers = new int[values.Length];
        for (int i = 0; i < numbers.Length; i++)
        {
            numbers[i] = (int)values[i];
        }
        return numbers;
    }

    private static ulong[] Narrow(ulong[] values, ulong maximum) =>
        Array.TrueForAll(values, v => v <= maximum) ? values : throw new SavedStateException("saved CPU model is malformed");
}
