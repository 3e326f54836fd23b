using System.Numerics;
using System.Security.Cryptography;
using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>
/// The connections that rules allowed, so that the answers pass. Bounded: a new one takes the place of the one that was silent longest, by preference one that was never
/// answered. Nothing is allocated after the construction.
/// </summary>
internal sealed class ConnectionTable
{
    /// <summary>Seconds of silence after which a connection is forgotten.</summary>
    public const int TcpOpening = 120, TcpOpen = 24 * 3600, TcpClosed = 30, UdpUnanswered = 60, Udp = 180, Echo = 30, OtherProtocol = 600;

    private const int None = -1;
    private const int EvictionChoice = 8;

    private readonly Entry[] _entries;
    private readonly int[] _buckets;
    private readonly TimeProvider _time;
    private readonly ulong _secret;
    private readonly ulong _secret2;
    private int _free;
    private int _newest = None;
    private int _oldest = None;

    public ConnectionTable(int capacity, TimeProvider time)
    {
        _entries = new Entry[capacity];
        _buckets = new int[BitOperations.RoundUpToPowerOf2((uint)capacity)];
        _time = time;
        Span<byte> random = stackalloc byte[16];
        RandomNumberGenerator.Fill(random);
        (_secret, _secret2) = (BitConverter.ToUInt64(random) | 1, BitConverter.ToUInt64(random[8..]) | 1);
        Clear();
    }

    [Flags]
    private enum Marks : byte
    {
        None = 0,
        OpenedOut = 1,
        Answered = 2,
        FinOut = 4,
        FinIn = 8,
        Reset = 16,
    }

    public int Count { get; private set; }

    public void Clear()
    {
        _buckets.AsSpan().Fill(None);
        for (int i = 0; i < _entries.Length; i++)
        {
            _entries[i].Next = i + 1 == _entries.Length ? None : i + 1;
        }
        _free = 0;
        _newest = _oldest = None;
        Count = 0;
    }

    /// <summary>Whether a packet belongs to a connection, which it keeps alive.</summary>
    public bool TryPass(in PacketFlow flow)
    {
        int place = Find(flow.Key);
        if (place == None)
        {
            return false;
        }
        Touch(place, flow);
        return true;
    }

    /// <summary>Whether there is the connection.</summary>
    public bool Contains(in FlowKey key) => Find(key) != None;

    /// <summary>Notes the connection of a packet that a rule allowed.</summary>
    public void Add(in PacketFlow flow)
    {
        int place = Find(flow.Key);
        if (place == None)
        {
            if (_free == None)
            {
                Remove(Victim());
            }
            place = _free;
            ref var entry = ref _entries[place];
            _free = entry.Next;
            int bucket = Bucket(flow.Key);
            entry = new() { Key = flow.Key, Marks = flow.IsOut ? Marks.OpenedOut : Marks.None, Next = _buckets[bucket], Older = None, Newer = None };
            _buckets[bucket] = place;
            Link(place);
            Count++;
        }
        else if (flow.Opens)
        {
            _entries[place].Marks = flow.IsOut ? Marks.OpenedOut : Marks.None;
        }
        Touch(place, flow);
    }

    private void Touch(int place, in PacketFlow flow)
    {
        ref var entry = ref _entries[place];
        if (flow.IsOut != ((entry.Marks & Marks.OpenedOut) != 0))
        {
            entry.Marks |= Marks.Answered;
        }
        if ((flow.Flags & TcpFlags.Fin) != 0)
        {
            entry.Marks |= flow.IsOut ? Marks.FinOut : Marks.FinIn;
        }
        if ((flow.Flags & TcpFlags.Rst) != 0)
        {
            entry.Marks |= Marks.Reset;
        }
        bool isAnswered = (entry.Marks & Marks.Answered) != 0;
        bool isClosed = (entry.Marks & Marks.Reset) != 0 || (entry.Marks & (Marks.FinIn | Marks.FinOut)) == (Marks.FinIn | Marks.FinOut);
        int seconds = entry.Key.Protocol switch
        {
            IpProtocol.Tcp => isClosed ? TcpClosed : isAnswered ? TcpOpen : TcpOpening,
            IpProtocol.Udp => isAnswered ? Udp : UdpUnanswered,
            IpProtocol.Icmp or IpProtocol.IcmpV6 => Echo,
            _ => OtherProtocol,
        };
        entry.Expires = _time.GetTimestamp() + (seconds * _time.TimestampFrequency);
        if (_newest != place)
        {
            Unlink(place);
            Link(place);
        }
    }

    /// <summary>The place of a connection that has not expired.</summary>
    private int Find(in FlowKey key)
    {
        for (int place = _buckets[Bucket(key)]; place != None; place = _entries[place].Next)
        {
            ref var entry = ref _entries[place];
            if (entry.Key == key)
            {
                if (entry.Expires > _time.GetTimestamp())
                {
                    return place;
                }
                Remove(place);
                return None;
            }
        }
        return None;
    }

    private int Victim()
    {
        int place = _oldest;
        for (int i = 0; i < EvictionChoice && place != None; i++, place = _entries[place].Newer)
        {
            if ((_entries[place].Marks & Marks.Answered) == 0)
            {
                return place;
            }
        }
        return _oldest;
    }

    private void Remove(int place)
    {
        ref int link = ref _buckets[Bucket(_entries[place].Key)];
        while (link != place)
        {
            link = ref _entries[link].Next;
        }
        link = _entries[place].Next;
        Unlink(place);
        _entries[place].Next = _free;
        _free = place;
        Count--;
    }

    private void Link(int place)
    {
        ref var entry = ref _entries[place];
        (entry.Older, entry.Newer) = (_newest, None);
        if (_newest != None)
        {
            _entries[_newest].Newer = place;
        }
        _newest = place;
        _oldest = _oldest == None ? place : _oldest;
    }

    private void Unlink(int place)
    {
        var entry = _entries[place];
        if (entry.Older != None)
        {
            _entries[entry.Older].Newer = entry.Newer;
        }
        else
        {
            _oldest = entry.Newer;
        }
        if (entry.Newer != None)
        {
            _entries[entry.Newer].Older = entry.Older;
        }
        else
        {
            _newest = entry.Older;
        }
    }

    /// <summary>Keyed by a secret, so that nobody can choose connections of one bucket.</summary>
    private int Bucket(in FlowKey key)
    {
        ulong ports = ((ulong)key.LocalPort << 32) | ((ulong)key.RemotePort << 8) | (byte)key.Protocol;
        ulong hash = Mix((ulong)key.Local ^ _secret, (ulong)(key.Local >> 64) ^ _secret2);
        hash = Mix(hash ^ (ulong)key.Remote, (ulong)(key.Remote >> 64) ^ _secret);
        hash = Mix(hash ^ ports, _secret2);
        return (int)(hash & (ulong)(_buckets.Length - 1));
    }

    private static ulong Mix(ulong a, ulong b)
    {
        ulong high = Math.BigMul(a, b, out ulong low);
        return high ^ low;
    }

    private struct Entry
    {
        public FlowKey Key;
        public long Expires;
        public int Next;
        public int Older;
        public int Newer;
        public Marks Marks;
    }
}
