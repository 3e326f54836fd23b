using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Lodge.Engine.Memory;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// Which pages of RAM hold translated code, for all processors of a partition: a flag by page (it keeps write tags out of the TLBs) and a bit for
/// each 64-byte grain (it tells stores into the code from stores beside it). A store into code drops the blocks of the page on every processor.
/// </summary>
internal sealed unsafe partial class CodePages
{
    private readonly TranslationPartition _partition;
    private readonly GuestMemory _memory;
    private readonly ulong* _grains;
    private readonly Lock _gate = new();
    private readonly Dictionary<ulong, int> _holders = [];

    public CodePages(TranslationPartition partition, GuestMemory memory)
    {
        _partition = partition;
        _memory = memory;
        _grains = (ulong*)mmap(null, (nuint)(memory.Size / GuestMemory.PageSize * 8), 3, 0x4022, -1, 0);
        if (_grains == (ulong*)-1)
        {
            throw new IOException("cannot map the code bitmap");
        }
        memory.CodeWritten += Written;
    }

    /// <summary>Whether a store of that size would hit translated code.</summary>
    public bool Hits(ulong physical, int size)
    {
        if (!_memory.TryGetOffset(physical, (ulong)size, out ulong offset))
        {
            return false;
        }
        ulong page = offset / GuestMemory.PageSize;
        int first = (int)(offset & 0xFFF) >> 6, last = (int)((offset + (ulong)size - 1) & 0xFFF) >> 6;
        ulong mask = (ulong.MaxValue << first) & (ulong.MaxValue >> (63 - last));
        return (_memory.PageFlagArray[page] & (byte)PageFlags.Code) != 0 && (Volatile.Read(ref _grains[page]) & mask) != 0;
    }

    /// <summary>Announces that a page is about to be translated: from now on stores to it are seen. Other processors give up write access first.</summary>
    public void Mark(Vcpu vcpu, ulong physical)
    {
        _memory.TryGetOffset(physical, 1, out ulong offset);
        byte* flags = _memory.PageFlagArray + (offset / GuestMemory.PageSize);
        if ((Volatile.Read(ref *flags) & (byte)PageFlags.Code) != 0)
        {
            return;
        }
        lock (_gate)
        {
            *flags |= (byte)PageFlags.Code;
        }
        Interlocked.MemoryBarrier();
        vcpu.TlbRevokeWrite(_memory.HostBase + (offset & ~0xFFFUL));
        foreach (Vcpu other in _partition.Vcpus)
        {
            if (other != vcpu)
            {
                other.RequestRevoke(vcpu);
            }
        }
    }

    /// <summary>Marks bytes that are about to be read for translation; before the read, so that no store between goes unseen.</summary>
    public void MarkGrains(ulong physical, int length)
    {
        _memory.TryGetOffset(physical, 1, out ulong offset);
        int first = (int)(offset & 0xFFF) >> 6, last = ((int)(offset & 0xFFF) + Math.Max(length, 1) - 1) >> 6;
        ulong mask = (ulong.MaxValue << first) & (ulong.MaxValue >> (63 - Math.Min(last, 63)));
        ref ulong grains = ref _grains[offset / GuestMemory.PageSize];
        if ((Volatile.Read(ref grains) & mask) != mask)
        {
            Interlocked.Or(ref grains, mask);
        }
    }

    /// <summary>A processor made its first block of a page.</summary>
    public void Hold(ulong page)
    {
        lock (_gate)
        {
            CollectionsMarshal.GetValueRefOrAddDefault(_holders, page, out _)++;
        }
    }

    /// <summary>A processor dropped its blocks of a page.</summary>
    public void Release(ulong page)
    {
        lock (_gate)
        {
            ref int count = ref CollectionsMarshal.GetValueRefOrAddDefault(_holders, page, out _);
            if (--count <= 0)
            {
                _holders.Remove(page);
                if (_memory.TryGetOffset(page, 1, out ulong offset))
                {
                    Volatile.Write(ref _grains[offset / GuestMemory.PageSize], 0);
                    _memory.PageFlagArray[offset / GuestMemory.PageSize] &= unchecked((byte)~(byte)PageFlags.Code);
                }
            }
        }
    }

    /// <summary>Some bytes of RAM were written by C# code, this processor's or a device's.</summary>
    private void Written(ulong address, ulong length)
    {
        for (ulong page = address & ~0xFFFUL; page < address + length; page += GuestMemory.PageSize)
        {
            ulong from = Math.Max(page, address), to = Math.Min(page + GuestMemory.PageSize, address + length);
            if (!Hits(from, (int)(to - from)))
            {
                continue;
            }
            foreach (Vcpu vcpu in _partition.Vcpus)
            {
                vcpu.InvalidateCode(page);
            }
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);
}
