namespace Lodge.Storage.Shares;

/// <summary>A file or folder that the guest has open.</summary>
internal sealed class ShareHandle
{
    /// <summary>Descriptor of the host.</summary>
    public required int Descriptor { get; init; }

    /// <summary>Whether writes go to the end (the descriptor itself has no O_APPEND, as the guest's page cache writes through it in place).</summary>
    public bool Append { get; init; }

    /// <summary>Reading of a folder; null for a file.</summary>
    public FolderStream? Folder { get; init; }

    internal int Users;
    internal bool Released;
}

/// <summary>What the guest has open, by numbers that are not used again.</summary>
internal sealed class ShareHandles(int most)
{
    private readonly Dictionary<ulong, ShareHandle> _handles = [];
    private ulong _last;

    /// <summary>Handles open.</summary>
    public int Count
    {
        get
        {
            lock (_handles)
            {
                return _handles.Count;
            }
        }
    }

    /// <summary>Whether there is room for one more.</summary>
    public bool HasRoom => Count < most;

    /// <summary>Adds one.</summary>
    /// <returns>Its number; 0 when there are too many, and the descriptor is closed.</returns>
    public ulong Add(ShareHandle handle)
    {
        lock (_handles)
        {
            if (_handles.Count < most)
            {
                _handles[++_last] = handle;
                return _last;
            }
        }
        _ = ShareSystemCalls.Close(handle.Descriptor);
        return 0;
    }

    /// <summary>Takes one until <see cref="GiveBack"/>; null when there is none of that kind.</summary>
    public ShareHandle? Take(ulong number, bool folder)
    {
        lock (_handles)
        {
            if (!_handles.TryGetValue(number, out ShareHandle? handle) || handle.Folder is not null != folder)
            {
                return null;
            }
            handle.Users++;
            return handle;
        }
    }

    /// <summary>Gives one back.</summary>
    public void GiveBack(ShareHandle handle)
    {
        bool close;
        lock (_handles)
        {
            close = --handle.Users == 0 && handle.Released;
        }
        if (close)
        {
            _ = ShareSystemCalls.Close(handle.Descriptor);
        }
    }

    /// <summary>The guest closes one; false when there is none of that kind.</summary>
    public bool Release(ulong number, bool folder)
    {
        ShareHandle? handle;
        bool close;
        lock (_handles)
        {
            if (!_handles.TryGetValue(number, out handle) || handle.Folder is not null != folder)
            {
                return false;
            }
            _handles.Remove(number);
            handle.Released = true;
            close = handle.Users == 0;
        }
        if (close)
        {
            _ = ShareSystemCalls.Close(handle.Descriptor);
        }
        return true;
    }

    /// <summary>Closes all; what is in use is closed when it is given back.</summary>
    public void Clear()
    {
        List<int> close = [];
        lock (_handles)
        {
            foreach (ShareHandle handle in _handles.Values)
            {
                handle.Released = true;
                if (handle.Users == 0)
                {
                    close.Add(handle.Descriptor);
                }
            }
            _handles.Clear();
        }
        foreach (int descriptor in close)
        {
            _ = ShareSystemCalls.Close(descriptor);
        }
    }
}
