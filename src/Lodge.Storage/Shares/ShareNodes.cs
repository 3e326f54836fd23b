namespace Lodge.Storage.Shares;

/// <summary>A file or folder of the host that the guest knows by a number.</summary>
internal sealed class ShareNode
{
    /// <summary>The guest's number for it; the root has 1. Never used again.</summary>
    public required ulong Id { get; init; }

    /// <summary>Which file it is.</summary>
    public required ShareIdentity Identity { get; init; }

    /// <summary>Type of file (S_IFMT), which a file never changes.</summary>
    public required int Type { get; init; }

    /// <summary>O_PATH descriptor, or -1 while it is put away. Belongs to the table; valid while leased.</summary>
    public int Descriptor { get; set; } = -1;

    /// <summary>Modification and change as they were when the guest last opened the file, and when that was; the guest's cache is good while they stay.</summary>
    public ShareTime OpenedModification { get; set; }

    /// <summary>See <see cref="OpenedModification"/>.</summary>
    public ShareTime OpenedChange { get; set; }

    /// <summary>Whether <see cref="OpenedModification"/> was old enough then to tell every later change.</summary>
    public bool OpenedSettled { get; set; }

    // The rest is the table's, under its lock.
    internal long Lookups;
    internal int Users;             // leases
    internal int Children;          // nodes whose place is in this folder
    internal int OpenChildren;      // those of them with a descriptor
    internal ShareNode? Parent;     // its place when last seen: where a descriptor that was put away is opened again
    internal byte[] Name = [];      // ended by a zero byte
    internal bool Recent;           // leased since the sweep last came by
    internal bool Dead;
    internal ShareNode? Previous, Next;     // ring of the nodes with a descriptor
}

/// <summary>What makes a file the same: inode numbers are used again, times of birth are not.</summary>
internal readonly record struct ShareIdentity(ulong Device, ulong Inode)
{
    public static ShareIdentity Of(in ShareStatus status) => new(status.Device, status.Inode);
}

/// <summary>
/// The files and folders that the guest knows. Each is held by an O_PATH descriptor, so that no name is resolved twice. When there are too many
/// descriptors, those not used for long are put away, if the file is still found at its place; when it is needed again it is opened there, and when another
/// file has the place by then, the guest is told that its knowledge is stale and looks the name up again.
/// </summary>
internal sealed class ShareNodes : IDisposable
{
    public const ulong RootId = 1;
    private const int SweepSteps = 32;
    private readonly object _gate = new();
    private readonly Dictionary<ulong, ShareNode> _byId = [];
    private readonly Dictionary<ShareIdentity, ShareNode> _byIdentity = [];
    private readonly Dictionary<ulong, ShareTime> _births = [];     // by node ID, where the file system tells it
    private readonly int _mostNodes;
    private readonly int _mostDescriptors;
    private readonly List<int> _unused = [];    // descriptors to be closed outside of the lock: that may wait for the disk where a file was removed
    private volatile bool _hasUnused;
    private ShareNode? _hand;
    private int _descriptors;
    private ulong _lastId = RootId;

    public ShareNodes(int rootDescriptor, in ShareStatus root, int mostNodes, int mostDescriptors)
    {
        (_mostNodes, _mostDescriptors) = (mostNodes, mostDescriptors);
        Root = new ShareNode { Id = RootId, Identity = ShareIdentity.Of(root), Type = root.Type, Descriptor = rootDescriptor, Lookups = 1 };
        _byId[RootId] = Root;
        _byIdentity[Root.Identity] = Root;
    }

    /// <summary>The shared folder itself, which always has its descriptor.</summary>
    public ShareNode Root { get; }

    /// <summary>Nodes known, with the root.</summary>
    public int Count
    {
        get
        {
            lock (_gate)
            {
                return _byId.Count;
            }
        }
    }

    /// <summary>Descriptors held, without the root's.</summary>
    public int Descriptors
    {
        get
        {
            lock (_gate)
            {
                return _descriptors;
            }
        }
    }

    /// <summary>Takes a node with its descriptor until <see cref="Release"/>.</summary>
    /// <returns>0, or a negated error number: there is no such node, or its file is gone from its place.</returns>
    public int Acquire(ulong id, out ShareNode node)
    {
        lock (_gate)
        {
            if (!_byId.TryGetValue(id, out node!))
            {
                return -ErrorNumber.Stale;
            }
            int result = node.Descriptor < 0 ? OpenAgain(node) : 0;
            if (result < 0)
            {
                return result;
            }
            node.Users++;
            node.Recent = true;
            return 0;
        }
    }

    /// <summary>Gives a node back.</summary>
    public void Release(ShareNode node)
    {
        lock (_gate)
        {
            node.Users--;
            Collect(node);
        }
    }

    /// <summary>The guest looked a name up: counts one look-up of its node, which is made where it is new, and leases it.</summary>
    /// <param name="parent">Folder, leased by the caller.</param>
    /// <param name="name">Name in it, ended by a zero byte.</param>
    /// <param name="descriptor">O_PATH descriptor of the file, which the table takes over, also when it fails.</param>
    /// <param name="status">Of the file.</param>
    /// <param name="node">Its node.</param>
    /// <returns>0 or a negated error number.</returns>
    public int Enter(ShareNode parent, ReadOnlySpan<byte> name, int descriptor, in ShareStatus status, out ShareNode node)
    {
        lock (_gate)
        {
            ShareIdentity identity = ShareIdentity.Of(status);
            if (_byIdentity.TryGetValue(identity, out ShareNode? known) && !SameBirth(known, status))
            {
                // The number was given to another file while this one had no descriptor: the old node leads nowhere any more.
                _byIdentity.Remove(identity);
                known = null;
            }
            if (known is null)
            {
                if (_byId.Count >= _mostNodes || !HasRoom())
                {
                    _ = ShareSystemCalls.Close(descriptor);
                    node = null!;
                    return -ErrorNumber.TooManyOpen;
                }
                known = new ShareNode { Id = ++_lastId, Identity = identity, Type = status.Type };
                _byId[known.Id] = known;
                _byIdentity[identity] = known;
                if (status.Birth.Seconds != 0)
                {
                    _births[known.Id] = status.Birth;
                }
            }
            Place(known, parent, name);
            if (known.Descriptor < 0)
            {
                Hold(known, descriptor);
            }
            else
            {
                _ = ShareSystemCalls.Close(descriptor);
            }
            known.Lookups++;
            known.Users++;
            known.Recent = true;
            node = known;
            return 0;
        }
    }

    /// <summary>A file that the guest may know has a new place.</summary>
    public void Moved(in ShareStatus status, ShareNode parent, ReadOnlySpan<byte> name)
    {
        lock (_gate)
        {
            if (_byIdentity.TryGetValue(ShareIdentity.Of(status), out ShareNode? node) && SameBirth(node, status))
            {
                Place(node, parent, name);
            }
        }
    }

    /// <summary>The guest forgets <paramref name="count"/> look-ups.</summary>
    public void Forget(ulong id, ulong count)
    {
        lock (_gate)
        {
            if (id != RootId && _byId.TryGetValue(id, out ShareNode? node))
            {
                node.Lookups -= (long)Math.Min(count, (ulong)node.Lookups);
                Collect(node);
            }
        }
    }

    /// <summary>Whether there is something for <see cref="CloseUnused"/>.</summary>
    public bool HasUnused => _hasUnused;

    /// <summary>Closes descriptors that are not needed any more.</summary>
    public void CloseUnused()
    {
        if (!_hasUnused)
        {
            return;
        }
        int[] unused;
        lock (_gate)
        {
            unused = [.. _unused];
            _unused.Clear();
            _hasUnused = false;
        }
        foreach (int descriptor in unused)
        {
            _ = ShareSystemCalls.Close(descriptor);
        }
    }

    /// <summary>The guest forgets everything; what is leased goes when it is given back.</summary>
    public void Clear()
    {
        lock (_gate)
        {
            foreach (ShareNode node in _byId.Values.ToArray())
            {
                if (node != Root)
                {
                    node.Lookups = 0;
                    Collect(node);
                }
            }
        }
        CloseUnused();
    }

    /// <summary>Closes everything; nothing is leased any more.</summary>
    public void Dispose()
    {
        Clear();
        lock (_gate)
        {
            if (Root.Descriptor >= 0)
            {
                _ = ShareSystemCalls.Close(Root.Descriptor);
                Root.Descriptor = -1;
            }
        }
    }

    private bool SameBirth(ShareNode node, in ShareStatus status)
    {
        if (node.Descriptor >= 0)
        {
            return true;        // the file exists, so nothing else has its number
        }
        ShareTime birth = _births.GetValueOrDefault(node.Id);
        return node.Type == status.Type && birth.Seconds == status.Birth.Seconds && birth.Nanoseconds == status.Birth.Nanoseconds;
    }

    /// <summary>Opens a node that was put away, and the folders above it that were.</summary>
    private int OpenAgain(ShareNode node)
    {
        List<ShareNode> path = [];
        for (ShareNode? at = node; at is { Descriptor: < 0 }; at = at.Parent)
        {
            path.Add(at);
        }
        for (int i = path.Count - 1; i >= 0; i--)
        {
            ShareNode at = path[i];
            if (at.Parent is not { Descriptor: >= 0 } parent)
            {
                return -ErrorNumber.Stale;
            }
            if (!HasRoom(parent))
            {
                return -ErrorNumber.TooManyOpen;
            }
            int descriptor = ShareSystemCalls.OpenName(parent.Descriptor, at.Name, ShareSystemCalls.PathOnly);
            if (descriptor < 0)
            {
                return descriptor is -ErrorNumber.NoEntry or -ErrorNumber.NotFolder ? -ErrorNumber.Stale : descriptor;
            }
            if (ShareSystemCalls.Status(descriptor, out ShareStatus status) < 0 || ShareIdentity.Of(status) != at.Identity || !SameBirth(at, status))
            {
                _ = ShareSystemCalls.Close(descriptor);
                return -ErrorNumber.Stale;
            }
            Hold(at, descriptor);
        }
        return 0;
    }

    private void Place(ShareNode node, ShareNode parent, ReadOnlySpan<byte> name)
    {
        if (node == Root || (node.Parent == parent && name.SequenceEqual(node.Name)))
        {
            return;
        }
        for (ShareNode? at = node.Children == 0 ? null : parent; at is not null; at = at.Parent)
        {
            if (at == node)
            {
                return;         // only when the host moves folders about: a place below itself would never be reached
            }
        }
        ShareNode? old = node.Parent;
        node.Parent = parent;
        node.Name = name.ToArray();
        parent.Children++;
        if (node.Descriptor >= 0)
        {
            parent.OpenChildren++;
        }
        if (old is not null)
        {
            old.Children--;
            if (node.Descriptor >= 0)
            {
                old.OpenChildren--;
            }
            Collect(old);
        }
    }

    private void Hold(ShareNode node, int descriptor)
    {
        node.Descriptor = descriptor;
        _descriptors++;
        if (node.Parent is { } parent)
        {
            parent.OpenChildren++;
        }
        if (_hand is null)
        {
            _hand = node.Previous = node.Next = node;
        }
        else
        {
            // Before the hand: the sweep comes to it last.
            (node.Previous, node.Next) = (_hand.Previous, _hand);
            _hand.Previous!.Next = node;
            _hand.Previous = node;
        }
    }

    private void PutAway(ShareNode node)
    {
        _unused.Add(node.Descriptor);
        _hasUnused = true;
        node.Descriptor = -1;
        _descriptors--;
        if (node.Parent is { } parent)
        {
            parent.OpenChildren--;
        }
        if (node.Next == node)
        {
            _hand = null;
        }
        else
        {
            if (_hand == node)
            {
                _hand = node.Next;
            }
            node.Previous!.Next = node.Next;
            node.Next!.Previous = node.Previous;
        }
        node.Previous = node.Next = null;
    }

    /// <summary>Whether one more descriptor may be held. Above the limit some that were not used lately are put away; twice the limit is never passed.</summary>
    private bool HasRoom(ShareNode? keep = null)
    {
        for (int step = 0; step < SweepSteps && _descriptors >= _mostDescriptors && _hand is { } node; step++)
        {
            _hand = node.Next;
            if (node.Recent)
            {
                node.Recent = false;
            }
            else if (node != keep && node is { Users: 0, OpenChildren: 0, Parent.Descriptor: >= 0 }
                && ShareSystemCalls.StatusOfName(node.Parent.Descriptor, node.Name, out ShareStatus status) == 0 && ShareIdentity.Of(status) == node.Identity)
            {
                PutAway(node);
            }
        }
        return _descriptors < 2 * _mostDescriptors;
    }

    /// <summary>Removes a node that nobody knows any more, and the folders above that were only kept for it.</summary>
    private void Collect(ShareNode? node)
    {
        while (node is { Lookups: 0, Users: 0, Children: 0, Dead: false } && node != Root)
        {
            node.Dead = true;
            if (node.Descriptor >= 0)
            {
                PutAway(node);
            }
            _byId.Remove(node.Id);
            _births.Remove(node.Id);
            if (_byIdentity.TryGetValue(node.Identity, out ShareNode? known) && known == node)
            {
                _byIdentity.Remove(node.Identity);
            }
            ShareNode? parent = node.Parent;
            node.Parent = null;
            if (parent is not null)
            {
                parent.Children--;
            }
            node = parent;
        }
    }
}
