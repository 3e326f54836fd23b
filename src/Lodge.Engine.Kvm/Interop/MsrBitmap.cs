using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>A range of model-specific registers with a bit for each that the guest may access (struct kvm_msr_filter_range, api.rst, 4.97).</summary>
internal sealed class MsrBitmap(uint first, int count)
{
    private readonly byte[] _bits = new byte[(count + 7) / 8];

    /// <summary>Whether a register lies in the range.</summary>
    public bool Contains(uint index) => index >= first && index - first < (uint)count;

    /// <summary>Allows a register.</summary>
    public void Allow(uint index) => _bits[(index - first) / 8] |= (byte)(1 << (int)((index - first) % 8));

    /// <summary>Whether a register is allowed.</summary>
    public bool IsAllowed(uint index) => Contains(index) && (_bits[(index - first) / 8] >> (int)((index - first) % 8) & 1) != 0;

    /// <summary>Has the kernel deny all other registers: an access then exits with <see cref="KvmExit.ReadMsr"/> or <see cref="KvmExit.WriteMsr"/>.</summary>
    public static unsafe void Apply(KvmVirtualMachine machine, IReadOnlyList<MsrBitmap> bitmaps)
    {
        var pins = new GCHandle[bitmaps.Count];
        try
        {
            var ranges = new KvmMsrFilterRange[bitmaps.Count];
            for (int i = 0; i < ranges.Length; i++)
            {
                pins[i] = GCHandle.Alloc(bitmaps[i]._bits, GCHandleType.Pinned);
                ranges[i] = new KvmMsrFilterRange
                {
                    Flags = KvmMsrFilterRange.Read | KvmMsrFilterRange.Write,
                    First = bitmaps[i].First,
                    Count = (uint)bitmaps[i]._bits.Length * 8,
                    Bitmap = (byte*)pins[i].AddrOfPinnedObject(),
                };
            }
            machine.SetMsrFilter(allowByDefault: false, ranges);
        }
        finally
        {
            foreach (GCHandle pin in pins)
            {
                if (pin.IsAllocated)
                {
                    pin.Free();
                }
            }
        }
    }

    private uint First => first;
}
