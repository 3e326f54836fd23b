namespace Lodge.Storage.Formats.Vmdk;

/// <summary>Ranges of sectors that do not overlap, such as those of an extent's structures. Not safe for several threads.</summary>
internal sealed class SectorRanges
{
    private readonly List<(long Start, long End)> _ranges = [];

    /// <summary>The end of the last one.</summary>
    public long End => _ranges.Count == 0 ? 0 : _ranges[^1].End;

    /// <summary>Takes all ranges at once, in any order.</summary>
    /// <returns>The sector where two meet, or -1.</returns>
    public long AddAll(List<(long Start, long End)> ranges)
    {
        ranges.Sort();
        foreach (var range in ranges)
        {
            if (_ranges.Count != 0 && range.Start < _ranges[^1].End)
            {
                return range.Start;
            }

            Append(range);
        }

        return -1;
    }

    /// <summary>Adds one that overlaps no other.</summary>
    public void Add(long start, long end)
    {
        if (_ranges.Count == 0 || start >= _ranges[^1].End)
        {
            Append((start, end));
            return;
        }

        var index = _ranges.FindIndex(range => range.Start >= end);
        _ranges.Insert(index < 0 ? _ranges.Count : index, (start, end));
    }

    /// <summary>Whether a range meets any of them.</summary>
    public bool Overlaps(long start, long end)
    {
        var (low, high) = (0, _ranges.Count);
        while (low < high)
        {
            var middle = (low + high) / 2;
            (low, high) = _ranges[middle].End <= start ? (middle + 1, high) : (low, middle);
        }

        return low < _ranges.Count && _ranges[low].Start < end;
    }

    /// <summary>All, in order.</summary>
    public IReadOnlyList<(long Start, long End)> All => _ranges;

    private void Append((long Start, long End) range)
    {
        if (_ranges.Count != 0 && _ranges[^1].End == range.Start)
        {
            _ranges[^1] = (_ranges[^1].Start, range.End);
        }
        else
        {
            _ranges.Add(range);
        }
    }
}
