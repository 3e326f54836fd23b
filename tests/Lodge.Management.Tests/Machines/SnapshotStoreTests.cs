using Lodge.Management.Machines;
using Xunit;

namespace Lodge.Management.Tests.Machines;

/// <summary>The files of a machine's snapshots.</summary>
public sealed class SnapshotStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-snapshots.").FullName;
    private readonly MachineFolder _machine;
    private readonly SnapshotStore _store;

    public SnapshotStoreTests()
    {
        _machine = new MachineFolder(Path.Combine(_folder, "web"));
        Directory.CreateDirectory(_machine.Work);
        _store = new SnapshotStore(_machine);
    }

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void AnIdentityThatWasNotRenewedYetIsRenewedAgain()
    {
        File.WriteAllText(_machine.FreshIdentity, "");
        SnapshotRecord before = Made("before");
        File.Delete(_machine.FreshIdentity); // the guest has made it
        SnapshotRecord after = Made("after");
        _store.BeginRevert(before.Id);
        _store.EndRevert(_store.Find("before"));
        Assert.True(File.Exists(_machine.FreshIdentity));
        Assert.Equal(before.Id, _store.Current);
        _store.BeginRevert(after.Id);
        _store.EndRevert(_store.Find("after"));
        Assert.False(File.Exists(_machine.FreshIdentity));
    }

    [Fact]
    public void NothingIsDoneWithAMachineThatIsHalfBroughtBack()
    {
        SnapshotRecord made = Made("one");
        _store.RequireWhole();
        _store.BeginRevert(made.Id);
        Assert.Contains($"do it again: lodge snapshot revert web {made.Id}", Assert.Throws<ManagementException>(_store.RequireWhole).Message);
        _store.EndRevert(made);
        _store.RequireWhole();
    }

    [Fact]
    public void OnlyWhatHasNoRecordIsUnfinished()
    {
        SnapshotRecord begun = _store.Begin(new SnapshotRequest("begun", null, true)), later = Made("later"), gone = Made("gone");
        string record = Path.Combine(_machine.Snapshots, later.Id, "snapshot.json");
        File.WriteAllText(record, File.ReadAllText(record).Replace("\"version\": 1", "\"version\": 2", StringComparison.Ordinal)); // a newer Lodge's
        Assert.Equal([gone.Id], _store.List().Select(one => one.Id));
        Assert.Equal([begun.Id], _store.Unfinished());
        _store.Forget(gone);
        Assert.Equal(new[] { begun.Id, gone.Id }.Order(), _store.Unfinished().Order());
    }

    private SnapshotRecord Made(string name)
    {
        SnapshotRecord made = _store.Begin(new SnapshotRequest(name, null, true));
        _store.Finish(made);
        return made;
    }
}
