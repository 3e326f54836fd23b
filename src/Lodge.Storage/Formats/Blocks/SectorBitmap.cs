namespace Lodge.Storage.Formats.Blocks;

/// <summary>Which sectors of a block are in the file.</summary>
/// <param name="block">The block's number.</param>
/// <param name="offset">The bitmap's place in the file.</param>
/// <param name="bits">A bit for each sector, set for one that is there.</param>
/// <param name="highBitFirst">Whether the first sector of a byte is its highest bit.</param>
internal sealed class SectorBitmap(long block, long offset, byte[] bits, bool highBitFirst)
{
    private readonly Lock _gate = new();

    public long Block => block;

    public long Offset => offset;

    /// <summary>Users that hold it in memory; guarded by the cache.</summary>
    public int Pins { get; set; }

    /// <summary>Whether it was used since the cache last looked; guarded by the cache.</summary>
    public bool Used { get; set; }

    public int ByteLength => bits.Length;

    public bool IsDirty { get; private set; }

    /// <summary>Whether <paramref name="sector"/> is there, and how many from it on, at most <paramref name="limit"/>, are alike.</summary>
    public (bool Present, int Count) Run(int sector, int limit)
    {
        lock (_gate)
        {
            var present = IsSet(sector);
            var end = sector + 1;
            var stop = sector + limit;
            while (end < stop)
            {
                if (end % 8 == 0 && stop - end >= 8 && bits[end / 8] == (present ? 0xFF : 0))
                {
                    end += 8;
                }
                else if (IsSet(end) == present)
                {
                    end++;
                }
                else
                {
                    break;
                }
            }

            return (present, end - sector);
        }
    }

    /// <summary>Says that sectors are there.</summary>
    public void Set(int sector, int count)
    {
        lock (_gate)
        {
            for (; count > 0; sector++, count--)
            {
                if (!IsSet(sector))
                {
                    bits[sector / 8] |= Mask(sector);
                    IsDirty = true;
                }
            }
        }
    }

    /// <summary>Its bytes if they changed, which then count as written; else null.</summary>
    public byte[]? Take()
    {
        lock (_gate)
        {
            if (!IsDirty)
            {
                return null;
            }

            IsDirty = false;
            return bits.ToArray();
        }
    }

    /// <summary>Says that the bytes taken were not written.</summary>
    public void PutBack()
    {
        lock (_gate)
        {
            IsDirty = true;
        }
    }

    private bool IsSet(int sector) => (bits[sector / 8] & Mask(sector)) != 0;

    private byte Mask(int sector) => highBitFirst ? (byte)(0x80 >> (sector % 8)) : (byte)(1 << (sector % 8));
}

/// <summary>Bitmaps of sectors in memory; of those that are unchanged and unused only a bounded number stays.</summary>
internal sealed class SectorBitmapCache
{
    private const long MaximumBytes = 32 << 20;
    private readonly Lock _gate = new();
    private readonly Dictionary<long, SectorBitmap> _bitmaps = [];
    private long _bytes;

    /// <summary>Whether so much is changed or used that it should be written to make room.</summary>
    public bool IsFull => Volatile.Read(ref _bytes) > MaximumBytes;

    public bool IsDirty
    {
        get
        {
            lock (_gate)
            {
                foreach (var bitmap in _bitmaps.Values)
                {
                    if (bitmap.IsDirty)
                    {
                        return true;
                    }
                }

                return false;
            }
        }
    }

    /// <summary>Takes hold of a bitmap if it is in memory; give it back with <see cref="Release"/>.</summary>
    public SectorBitmap? Pin(long block)
    {
        lock (_gate)
        {
            return _bitmaps.TryGetValue(block, out var bitmap) ? Pin(bitmap) : null;
        }
    }

    /// <summary>Puts a bitmap in, unless one came first, and takes hold of the one that is there.</summary>
    public SectorBitmap Add(SectorBitmap bitmap)
    {
        lock (_gate)
        {
            if (_bitmaps.TryGetValue(bitmap.Block, out var earlier))
            {
                return Pin(earlier);
            }

            if (_bytes + bitmap.ByteLength > MaximumBytes)
            {
                Trim();
            }

            _bitmaps.Add(bitmap.Block, bitmap);
            _bytes += bitmap.ByteLength;
            return Pin(bitmap);
        }
    }

    public void Release(SectorBitmap bitmap)
    {
        lock (_gate)
        {
            bitmap.Pins--;
        }
    }

    public List<SectorBitmap> Dirty()
    {
        lock (_gate)
        {
            return [.. _bitmaps.Values.Where(bitmap => bitmap.IsDirty)];
        }
    }

    /// <summary>Forgets all.</summary>
    public void Clear()
    {
        lock (_gate)
        {
            _bitmaps.Clear();
            _bytes = 0;
        }
    }

    private static SectorBitmap Pin(SectorBitmap bitmap)
    {
        bitmap.Pins++;
        bitmap.Used = true;
        return bitmap;
    }

    // Second chance: what was used since the last time stays once more, unless nothing else goes.
    private void Trim()
    {
        for (var round = 0; round < 2 && _bytes > MaximumBytes * 3 / 4; round++)
        {
            foreach (var bitmap in _bitmaps.Values)
            {
                if (bitmap is { Pins: 0, IsDirty: false, Used: false })
                {
                    _bitmaps.Remove(bitmap.Block);
                    _bytes -= bitmap.ByteLength;
                }

                bitmap.Used = false;
            }
        }
    }
}
