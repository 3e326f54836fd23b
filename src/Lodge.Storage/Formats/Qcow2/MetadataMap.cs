using System.Collections.Concurrent;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>
/// The host clusters that hold metadata in use. No guest data is ever written to them, whatever a hostile or damaged image's tables say.
/// Questions take no lock.
/// </summary>
internal sealed class MetadataMap
{
    private readonly ConcurrentDictionary<long, ulong> _words = new();

    /// <summary>Adds a cluster; false if it was there.</summary>
    public bool Add(long cluster)
    {
        var bit = 1UL << (int)(cluster & 63);
        var before = _words.GetOrAdd(cluster >> 6, 0UL);
        _words[cluster >> 6] = before | bit;
        return (before & bit) == 0;
    }

    /// <summary>Adds clusters in a row; false if one was there.</summary>
    public bool Add(long first, long count)
    {
        var added = true;
        for (var cluster = first; cluster < first + count; cluster++)
        {
            added &= Add(cluster);
        }

        return added;
    }

    public void Remove(long first, long count)
    {
        for (var cluster = first; cluster < first + count; cluster++)
        {
            if (_words.TryGetValue(cluster >> 6, out var word))
            {
                word &= ~(1UL << (int)(cluster & 63));
                if (word == 0)
                {
                    _words.TryRemove(cluster >> 6, out _);
                }
                else
                {
                    _words[cluster >> 6] = word;
                }
            }
        }
    }

    public void Clear() => _words.Clear();

    /// <summary>Whether one of the clusters holds metadata.</summary>
    public bool Contains(long first, long last)
    {
        for (var word = first >> 6; word <= last >> 6; word++)
        {
            if (!_words.TryGetValue(word, out var bits))
            {
                continue;
            }

            var low = word == first >> 6 ? (int)(first & 63) : 0;
            var high = word == last >> 6 ? (int)(last & 63) : 63;
            if ((bits >> low << low & (ulong.MaxValue >> (63 - high))) != 0)
            {
                return true;
            }
        }

        return false;
    }
}
