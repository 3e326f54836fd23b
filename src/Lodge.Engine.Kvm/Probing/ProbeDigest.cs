using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Probing;

/// <summary>
/// FNV-1a with 64 bits (draft-eastlake-fnv-17): finds damage and tells hosts apart. A cryptographic hash would cost the start of each machine the loading of OpenSSL, and
/// nobody is kept out by it: whoever can write the file can write its digest.
/// </summary>
internal struct ProbeDigest()
{
    private const ulong Prime = 0x100_0000_01B3;
    private ulong _value = 0xCBF2_9CE4_8422_2325;

    /// <summary>Takes in bytes and their number.</summary>
    public void Add(ReadOnlySpan<byte> data)
    {
        foreach (byte one in data)
        {
            _value = (_value ^ one) * Prime;
        }
        _value = (_value ^ (uint)data.Length) * Prime;
    }

    /// <summary>Takes in a text.</summary>
    public void Add(string text) => Add(MemoryMarshal.AsBytes(text.AsSpan()));

    /// <summary>The digest in 16 digits.</summary>
    public override readonly string ToString() => _value.ToString("x16", System.Globalization.CultureInfo.InvariantCulture);
}
