using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>Segment registers and their descriptor's bits one by one, as KVM has them (api.rst, 4.13).</summary>
internal static class Segments
{
    /// <summary>To KVM's form.</summary>
    public static KvmSegment ToKvm(SegmentState s) => new()
    {
        Base = s.Base,
        Limit = s.Limit,
        Selector = s.Selector,
        Type = (byte)(s.Attributes & 15),
        S = (byte)((s.Attributes >> 4) & 1),
        Dpl = (byte)((s.Attributes >> 5) & 3),
        Present = (byte)((s.Attributes >> 7) & 1),
        Avl = (byte)((s.Attributes >> 12) & 1),
        L = (byte)((s.Attributes >> 13) & 1),
        Db = (byte)((s.Attributes >> 14) & 1),
        G = (byte)((s.Attributes >> 15) & 1),
        Unusable = (byte)((s.Attributes >> 16) & 1),
    };

    /// <summary>From KVM's form.</summary>
    public static SegmentState FromKvm(in KvmSegment s) => new(s.Selector, s.Base, s.Limit,
        (uint)(s.Type | (s.S << 4) | (s.Dpl << 5) | (s.Present << 7) | (s.Avl << 12) | (s.L << 13) | (s.Db << 14) | (s.G << 15) | (s.Unusable << 16)));
}
