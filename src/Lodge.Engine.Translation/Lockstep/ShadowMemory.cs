using System.Runtime.InteropServices;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Translation.Lockstep;

/// <summary>
/// Guest RAM as it was before a block ran: T1 writes the real pages, and each is copied before its first store; T0 then runs on the copies. Real memory
/// is never put back, so that what a device writes meanwhile is not lost.
/// </summary>
internal sealed unsafe class ShadowMemory(GuestMemory memory) : IDisposable
{
    /// <summary>A comparison with more written pages than this is given up (a REP STOS over megabytes).</summary>
    public const int MaximumPages = 4096;

    private const ulong PageSize = GuestMemory.PageSize;

    // Accessed and dirty: set by walks, which T0 makes at every access and T1 at a TLB miss.
    private const ulong MarkBits = 0x60;

    private readonly Dictionary<nint, int> _slots = [];
    private readonly List<nint> _real = [];
    private readonly List<nint> _copies = [];
    private readonly HashSet<ulong> _marked = [];

    /// <summary>More than <see cref="MaximumPages"/> were written: the copies are not complete.</summary>
    public bool Overflowed { get; private set; }

    /// <summary>Forgets all copies.</summary>
    public void Clear()
    {
        _slots.Clear();
        _real.Clear();
        _marked.Clear();
        Overflowed = false;
    }

    /// <summary>Copies the page of a host address unless that was done. Before it is written.</summary>
    public void Keep(byte* host)
    {
        if (Overflowed)
        {
            return;
        }
        byte* page = memory.HostBase + ((ulong)(host - memory.HostBase) & ~(PageSize - 1));
        if (!_slots.TryAdd((nint)page, _real.Count))
        {
            return;
        }
        if (_real.Count == MaximumPages)
        {
            Overflowed = true;
            return;
        }
        if (_copies.Count == _real.Count)
        {
            _copies.Add((nint)NativeMemory.AlignedAlloc((nuint)PageSize, (nuint)PageSize));
        }
        Buffer.MemoryCopy(page, (void*)_copies[_real.Count], (long)PageSize, (long)PageSize);
        _real.Add((nint)page);
    }

    /// <summary>Where T0 finds a byte of RAM: in the copy when there is one; for a store there is one afterwards.</summary>
    public byte* Redirect(byte* host, bool store)
    {
        if (store)
        {
            Keep(host);
            if (Overflowed)
            {
                throw new Processor.EngineFailure("T0 writes far more memory than T1 did");
            }
        }
        ulong inside = (ulong)(host - memory.HostBase) & (PageSize - 1);
        return _slots.TryGetValue((nint)(host - inside), out int slot) ? (byte*)_copies[slot] + inside : host;
    }

    /// <summary>A walk set accessed or dirty bits of the entry at a physical address: they are not compared.</summary>
    public void NoteMarked(ulong physical) => _marked.Add(physical & ~7UL);

    /// <summary>The first 8 bytes that differ between what T0 and what T1 wrote; null when nothing does.</summary>
    public string? Difference()
    {
        for (int i = 0; i < _real.Count; i++)
        {
            ulong* one = (ulong*)_real[i], zero = (ulong*)_copies[i];
            if (new ReadOnlySpan<byte>(one, (int)PageSize).SequenceEqual(new ReadOnlySpan<byte>(zero, (int)PageSize)))
            {
                continue;
            }
            ulong physical = memory.AddressOfOffset((ulong)((byte*)one - memory.HostBase));
            for (ulong k = 0; k < PageSize / 8; k++)
            {
                ulong different = one[k] ^ zero[k];
                if (different != 0 && ((different & ~MarkBits) != 0 || !_marked.Contains(physical + (k * 8))))
                {
                    return $"memory at physical {physical + (k * 8):x}: T0 {zero[k]:x16}, T1 {one[k]:x16}";
                }
            }
        }
        return null;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (nint copy in _copies)
        {
            NativeMemory.AlignedFree((void*)copy);
        }
        _copies.Clear();
        Clear();
    }
}
