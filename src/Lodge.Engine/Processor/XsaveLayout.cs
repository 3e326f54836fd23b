namespace Lodge.Engine.Processor;

/// <summary>
/// Where the state components lie in a standard-format XSAVE area (Intel SDM vol. 1, 13.4.3). Sizes are the architecture's; offsets are the processor's: Intel's
/// and AMD's differ, and the hardware writes its own whatever CPUID tells a guest.
/// </summary>
public sealed class XsaveLayout
{
    /// <summary>Bytes of the legacy region and the header.</summary>
    public const int HeaderEnd = 576;

    /// <summary>Longest area: AMX's tiles end here on Intel's processors, with room for components that are not known yet.</summary>
    public const int MaximumLength = 16384;

    // Component number, size in bytes, alignment in a compacted area (1: none). 2 AVX, 5-7 AVX-512, 9 PKRU, 17 and 18 AMX.
    private static readonly (int Number, int Size, int Alignment)[] s_components = [(2, 256, 1), (5, 64, 1), (6, 512, 1), (7, 1024, 1), (9, 8, 1), (17, 64, 64), (18, 8192, 64)];

    private readonly int[] _offsets = new int[19];

    private XsaveLayout()
    {
    }

    /// <summary>As Intel's processors have it.</summary>
    public static XsaveLayout Intel { get; } = Of((2, 576), (5, 1088), (6, 1152), (7, 1664), (9, 2688), (17, 2752), (18, 2816));

    /// <summary>Numbers of the components beyond x87 and SSE that are known.</summary>
    public static IEnumerable<int> Components => s_components.Select(c => c.Number);

    /// <summary>Offset of a component, or 0 when the processor has none.</summary>
    public int Offset(int component) => _offsets[component];

    /// <summary>Size of a component in bytes.</summary>
    public static int Size(int component) => s_components.First(c => c.Number == component).Size;

    /// <summary>Whether a component is aligned to 64 bytes in a compacted area.</summary>
    public static bool IsAligned(int component) => s_components.First(c => c.Number == component).Alignment > 1;

    /// <summary>Reads leaf 0xD of a processor; offsets that make no sense are left out, AVX is always at 576.</summary>
    public static XsaveLayout Read(Func<uint, uint, CpuidResult> cpuid)
    {
        var layout = new XsaveLayout();
        foreach ((int number, int size, _) in s_components)
        {
            CpuidResult leaf = cpuid(0xD, (uint)number);
            bool sensible = leaf.Eax == (uint)size && leaf.Ebx >= HeaderEnd && leaf.Ebx <= MaximumLength - (uint)size;
            layout._offsets[number] = number == 2 ? HeaderEnd : sensible ? (int)leaf.Ebx : 0;
        }
        return layout;
    }

    /// <summary>A layout by component and offset.</summary>
    public static XsaveLayout Of(params ReadOnlySpan<(int Component, int Offset)> offsets)
    {
        var layout = new XsaveLayout();
        foreach ((int component, int offset) in offsets)
        {
            layout._offsets[component] = offset;
        }
        return layout;
    }

    /// <summary>Bytes of a standard-format area that holds the components in a mask of XCR0.</summary>
    public int StandardSize(ulong components)
    {
        int end = HeaderEnd;
        foreach ((int number, int size, _) in s_components)
        {
            if ((components >> number & 1) != 0)
            {
                end = Math.Max(end, _offsets[number] + size);
            }
        }
        return end;
    }

    /// <summary>Bytes of a compacted area that holds the components in a mask of XCR0.</summary>
    public static int CompactedSize(ulong components)
    {
        int end = HeaderEnd;
        foreach ((int number, int size, int alignment) in s_components)
        {
            if ((components >> number & 1) != 0)
            {
                end = ((end + alignment - 1) & -alignment) + size;
            }
        }
        return end;
    }
}
