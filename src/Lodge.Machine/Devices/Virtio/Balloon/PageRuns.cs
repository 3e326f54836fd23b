using Lodge.Engine.Memory;

namespace Lodge.Machine.Devices.Virtio.Balloon;

/// <summary>Gives pages back to the host, neighbours (ascending or descending) in one call.</summary>
internal ref struct PageRuns(GuestMemory memory)
{
    private ulong _first;
    private ulong _count;

    /// <summary>Pages given back; those outside RAM are passed over.</summary>
    public ulong Discarded { get; private set; }

    /// <summary>Adds a 4 KiB page by number.</summary>
    public void Add(uint page)
    {
        if (_count != 0 && page == _first + _count)
        {
            _count++;
        }
        else if (_count != 0 && page + 1UL == _first)
        {
            _first--;
            _count++;
        }
        else
        {
            Flush();
            _first = page;
            _count = 1;
        }
    }

    /// <summary>Gives the last run back.</summary>
    public void Flush()
    {
        if (_count == 0)
        {
            return;
        }
        if (memory.TryDiscard(_first << VirtioBalloonRegisters.PageShift, _count << VirtioBalloonRegisters.PageShift))
        {
            Discarded += _count;
        }
        else if (_count > 1)
        {
            // Part of the run may be RAM: each page alone.
            for (ulong page = _first; page < _first + _count; page++)
            {
                if (memory.TryDiscard(page << VirtioBalloonRegisters.PageShift, GuestMemory.PageSize))
                {
                    Discarded++;
                }
            }
        }
        _count = 0;
    }
}
