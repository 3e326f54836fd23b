namespace Lodge.Storage.Shares;

/// <summary>
/// Who owns what on both sides. As root with real owners, files are made with the guest caller's user and group as the file system IDs of the serving thread
/// (setfsuid(2)). Else one host user stands for one guest user, all others are nobody, and files cannot be given away.
/// </summary>
internal sealed class ShareOwners
{
    private const uint Nobody = 65534;
    private const uint Unchanged = uint.MaxValue;
    private const ulong DacOverride = 1 << 1, DacReadSearch = 1 << 2, FileSetId = 1 << 4, SetGroupId = 1 << 6, SetUserId = 1 << 7;
    private readonly bool _real;
    private readonly bool _switches;        // this process may take other users' file system IDs
    private readonly ulong _effective, _permitted, _inheritable;
    private readonly uint _hostUser, _hostGroup, _ownUser, _ownGroup;
    private readonly ShareOwner _guest;

    public ShareOwners(ShareOwner? owner, in ShareStatus root)
    {
        _ownUser = ShareSystemCalls.EffectiveUser();
        _ownGroup = ShareSystemCalls.EffectiveGroup();
        bool known = ShareSystemCalls.GetCapabilities(out _effective, out _permitted, out _inheritable);
        _switches = known && _ownUser == 0 && (_effective & (SetUserId | SetGroupId)) == (SetUserId | SetGroupId);
        _real = _switches && owner is null;
        (_hostUser, _hostGroup) = _switches ? (root.User, root.Group) : (_ownUser, _ownGroup);
        _guest = owner ?? new ShareOwner(0, 0);
    }

    /// <summary>The guest's number of a host user.</summary>
    public uint ToGuestUser(uint user) => _real ? user : user == _hostUser ? _guest.User : Nobody;

    /// <summary>The guest's number of a host group.</summary>
    public uint ToGuestGroup(uint group) => _real ? group : group == _hostGroup ? _guest.Group : Nobody;

    /// <summary>The host's number of a guest user; false when there is none.</summary>
    public bool TryToHostUser(uint user, out uint host)
    {
        host = _real ? user : _hostUser;
        return (_real || user == _guest.User) && user != Unchanged;
    }

    /// <summary>The host's number of a guest group; false when there is none.</summary>
    public bool TryToHostGroup(uint group, out uint host)
    {
        host = _real ? group : _hostGroup;
        return (_real || group == _guest.Group) && group != Unchanged;
    }

    /// <summary>
    /// The calling thread makes files for a caller in the guest until the scope ends. The guest's kernel has checked that the caller may, so the right to pass
    /// by permissions is kept where this process has it. Nothing else may run on the thread in between.
    /// </summary>
    /// <returns>A scope whose <see cref="Scope.Entered"/> is false when the host does not let that user be.</returns>
    public Scope Create(uint user, uint group)
    {
        (uint hostUser, uint hostGroup) = _real ? (user, group) : (_hostUser, _hostGroup);
        if (!_switches || (hostUser == _ownUser && hostGroup == _ownGroup))
        {
            return new Scope(this, ScopeKind.None, true);
        }
        bool entered = ShareSystemCalls.SetFileGroup(hostGroup) && ShareSystemCalls.SetFileUser(hostUser);
        if (entered && hostUser != _ownUser)
        {
            ulong kept = _effective & (DacOverride | DacReadSearch);
            ulong dropped = _effective & ~FileSystemCapabilities;
            _ = ShareSystemCalls.SetCapabilities(dropped | kept, _permitted, _inheritable);
        }
        return new Scope(this, ScopeKind.Caller, entered);
    }

    /// <summary>The calling thread's writes and truncations take set-user-ID and set-group-ID from files until the scope ends, as those of an ordinary user.</summary>
    public Scope DropSetId(bool wanted)
    {
        if (!wanted || (_effective & FileSetId) == 0)
        {
            return new Scope(this, ScopeKind.None, true);
        }
        return new Scope(this, ScopeKind.SetId, ShareSystemCalls.SetCapabilities(_effective & ~FileSetId, _permitted, _inheritable));
    }

    // CAP_FS_SET of capabilities(7): what the kernel drops and gives back when the file system user changes from and to 0.
    private const ulong FileSystemCapabilities = (1UL << 0) | DacOverride | DacReadSearch | (1UL << 3) | FileSetId | (1UL << 9) | (1UL << 27) | (1UL << 32);

    internal enum ScopeKind
    {
        None,
        Caller,
        SetId,
    }

    /// <summary>A time in which the thread has other rights; ended on the same thread.</summary>
    internal readonly ref struct Scope(ShareOwners owners, ScopeKind kind, bool entered)
    {
        /// <summary>Whether the rights are those that were asked for.</summary>
        public bool Entered => entered;

        public void Dispose()
        {
            if (kind == ScopeKind.None)
            {
                return;
            }
            if (kind == ScopeKind.Caller && !(ShareSystemCalls.SetFileUser(owners._ownUser) && ShareSystemCalls.SetFileGroup(owners._ownGroup)))
            {
                Environment.FailFast("a thread did not get its own file system user back");
            }
            _ = ShareSystemCalls.SetCapabilities(owners._effective, owners._permitted, owners._inheritable);
        }
    }
}
