using System.Text;
using Lodge.Storage.Shares;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Shares;

/// <summary>What a guest sees and does in a shared folder.</summary>
public sealed class FuseServerTests : IDisposable
{
    private const int Append = 0x400, Truncate = 0x200, Exclusive = 0x80, WriteOnly = 1, ReadWrite = 2;
    private readonly TemporaryFolder _folder = new();
    private FuseServer? _server;

    public void Dispose()
    {
        _server?.Dispose();
        _folder.Dispose();
    }

    private FuseClient Share(ShareOptions? options = null) => new(_server = new FuseServer(_folder.Path, options ?? new ShareOptions()));

    private string Host(string name, string content)
    {
        File.WriteAllText(_folder[name], content);
        return _folder[name];
    }

    [Fact]
    public void A_session_is_negotiated()
    {
        _server = new FuseServer(_folder.Path, new ShareOptions());
        FuseClient client = new(_server, initialize: false);
        Assert.Equal(ErrorNumber.InputOutput, client.Lookup(1, "x").Error);
        Assert.Equal(ErrorNumber.Protocol, client.Initialize(7, 30).Error);
        Assert.Equal(ErrorNumber.Protocol, client.Initialize(6, 50).Error);
        (int error, byte[] reply) = client.Initialize(8, 0);        // newer: told what the server has, no session yet
        Assert.Equal((0, 7), (error, BitConverter.ToInt32(reply)));
        Assert.False(_server.InSession);
        (error, reply) = client.Initialize(7, 38, (uint)(FuseFeatures.BigWrites | FuseFeatures.ReadFolderPlus));
        Assert.Equal((0, 64), (error, reply.Length));
        Assert.Equal((uint)(FuseFeatures.BigWrites | FuseFeatures.ReadFolderPlus), BitConverter.ToUInt32(reply, 12));
        Assert.Equal(1u << 20, BitConverter.ToUInt32(reply, 20));
        Assert.True(_server.InSession);
        Assert.Equal(0, client.Call(FuseOperation.Destroy, 0, []).Error);
        Assert.False(_server.InSession);
    }

    [Fact]
    public void Files_are_read_and_written()
    {
        Host("a", "hello");
        FuseClient client = Share();
        Entry entry = client.Find("a");
        Assert.Equal((5ul, 0x81A4u), (entry.Size, entry.Mode));
        (int error, ulong handle, _) = client.Open(entry.Node, ReadWrite);
        Assert.Equal(0, error);
        Assert.Equal("ello", Encoding.UTF8.GetString(client.Read(handle, 1, 4096).Data));
        Assert.Empty(client.Read(handle, 5, 4096).Data);
        Assert.Equal((0, 6u), client.Write(handle, 3, "p me!!"u8));
        Assert.Equal("help me!!", File.ReadAllText(_folder["a"]));
        Assert.Equal(0, client.SetAttributes(entry.Node, FuseProtocol.SetSize, size: 4).Error);
        Assert.Equal("help", File.ReadAllText(_folder["a"]));
        Assert.Equal(0, client.SetAttributes(entry.Node, FuseProtocol.SetSize | FuseProtocol.SetByHandle, size: 2, handle: handle).Error);
        Assert.Equal("he", File.ReadAllText(_folder["a"]));
        Assert.Equal(0, client.Release(handle));
        Assert.Equal(ErrorNumber.BadHandle, client.Read(handle, 0, 10).Error);
        Assert.Equal(ErrorNumber.BadHandle, client.Release(handle));
        (error, handle, _) = client.Open(entry.Node, WriteOnly | Truncate);
        Assert.Equal(0, error);
        Assert.Equal("", File.ReadAllText(_folder["a"]));
        Assert.Equal(ErrorNumber.BadHandle, client.Read(handle, 0, 10).Error);      // not opened for reading
    }

    [Fact]
    public void A_megabyte_goes_in_one_request()
    {
        byte[] data = new byte[1 << 20];
        new Random(1).NextBytes(data);
        FuseClient client = Share();
        (int error, _, ulong handle) = client.Create(1, "big");
        Assert.Equal(0, error);
        Assert.Equal((0, 1u << 20), client.Write(handle, 4096, data));
        Assert.Equal(data, client.Read(handle, 4096, 1 << 20, (1 << 20) + 16).Data);
        Assert.Equal(ErrorNumber.Invalid, client.Write(handle, 0, new byte[(1 << 20) + 1]).Error);
    }

    [Fact]
    public void Appending_writes_go_to_the_end_but_not_those_of_the_page_cache()
    {
        Host("log", "one\n");
        FuseClient client = Share();
        (_, ulong handle, _) = client.Open(client.Find("log").Node, WriteOnly | Append);
        File.AppendAllText(_folder["log"], "two\n");
        Assert.Equal((0, 6u), client.Write(handle, 4, "three\n"u8));
        Assert.Equal((0, 3u), client.Write(handle, 0, "ONE"u8, FuseProtocol.WriteFromCache));
        Assert.Equal("ONE\ntwo\nthree\n", File.ReadAllText(_folder["log"]));
    }

    [Fact]
    public void Files_are_made_with_the_mode_that_was_asked_for()
    {
        FuseClient client = Share();
        (int error, Entry entry, ulong handle) = client.Create(1, "a", mode: 0x1B6);
        Assert.Equal((0, 0x81B6u), (error, entry.Mode));       // 0666: this process's own mask has no say
        Assert.Equal(ErrorNumber.Exists, client.Create(1, "a", ReadWrite | Exclusive).Error);
        (error, Entry again, _) = client.Create(1, "a", ReadWrite | Truncate);
        Assert.Equal((0, entry.Node), (error, again.Node));
        Assert.Equal((0, 0x41FFu), Of(client.MakeFolder(1, "d", 0x1FF)));
        Assert.Equal((0, 0x43FDu), Of(client.MakeFolder(1, "sticky", 0x3FD)));
        Assert.Equal((0, 0x11B6u), Of(client.MakeNode(1, "fifo", 0x11B6)));
        Assert.Equal((0, 0xC1B6u), Of(client.MakeNode(1, "socket", 0xC1B6)));
        Assert.Equal((0, 0x81B6u), Of(client.MakeNode(1, "regular", 0x81B6)));
        Assert.Equal(0, client.Release(handle));

        static (int, uint) Of((int Error, Entry Entry) made) => (made.Error, made.Entry.Mode);
    }

    [Fact]
    public void Names_are_removed_renamed_and_linked()
    {
        Host("a", "A");
        Host("b", "B");
        FuseClient client = Share();
        Entry d = client.MakeFolder(1, "d").Entry;
        Entry a = client.Find("a");
        (int error, Entry link) = client.HardLink(a.Node, d.Node, "a2");
        Assert.Equal((0, a.Node, 2u), (error, link.Node, link.Links));
        Assert.Equal(ErrorNumber.Exists, client.Rename(1, "a", 1, "b", ShareSystemCalls.NoReplace));
        Assert.Equal(0, client.Rename(1, "a", 1, "b", ShareSystemCalls.Exchange));
        Assert.Equal(("B", "A"), (File.ReadAllText(_folder["a"]), File.ReadAllText(_folder["b"])));
        Assert.Equal(0, client.Rename(1, "a", d.Node, "c"));
        Assert.Equal("B", File.ReadAllText(_folder["d/c"]));
        Assert.Equal(ErrorNumber.Invalid, client.Rename(1, "b", 1, "e", 4));       // RENAME_WHITEOUT makes a device
        Assert.Equal(39, client.RemoveFolder(1, "d"));                             // ENOTEMPTY
        Assert.Equal(ErrorNumber.IsFolder, client.Unlink(1, "d"));
        Assert.Equal(ErrorNumber.NotFolder, client.RemoveFolder(1, "b"));
        Assert.Equal(0, client.Unlink(d.Node, "c"));
        Assert.Equal(0, client.Unlink(d.Node, "a2"));
        Assert.Equal(0, client.RemoveFolder(1, "d"));
        Assert.Equal(ErrorNumber.NotPermitted, client.HardLink(1, 1, "self").Error);
        Assert.Equal(["b"], Directory.EnumerateFileSystemEntries(_folder.Path).Select(Path.GetFileName));
    }

    [Fact]
    public void A_removed_file_that_is_open_goes_on()
    {
        FuseClient client = Share();
        (_, Entry entry, ulong handle) = client.Create(1, "gone");
        Assert.Equal(0, client.Unlink(1, "gone"));
        Assert.Equal((0, 4u), client.Write(handle, 0, "data"u8));
        Assert.Equal("data", Encoding.UTF8.GetString(client.Read(handle, 0, 10).Data));
        Assert.Equal((0, 4ul, 0u), client.GetAttributes(entry.Node) is var (error, e) ? (error, e.Size, e.Links) : default);
    }

    [Theory]
    [InlineData(false, 512)]
    [InlineData(true, 512)]
    [InlineData(true, 65536)]
    public void A_folder_lists_every_entry_once(bool plus, int size)
    {
        List<string> names = [".", ".."];
        for (int i = 0; i < 700; i++)
        {
            names.Add($"file-{i}");
            File.WriteAllText(_folder[names[^1]], "");
        }
        FuseClient client = Share();
        List<(string Name, ulong Node, uint Type)> listed = client.List(1, size, plus);
        Assert.Equal(names.Order(), listed.Select(e => e.Name).Order());
        if (plus)
        {
            Assert.Equal(701, _server!.NodeCount);
            Assert.All(listed, e => Assert.Equal(e.Name.StartsWith('.'), e.Node == 0));
            foreach ((_, ulong node, _) in listed)
            {
                client.Forget(node, 1);
            }
            Assert.Equal(1, _server.NodeCount);
        }
    }

    [Fact]
    public void A_folder_is_read_again_from_anywhere()
    {
        for (int i = 0; i < 50; i++)
        {
            Host($"f{i}", "");
        }
        FuseClient client = Share();
        (_, ulong handle, _) = client.Open(1, 0, folder: true);
        byte[] ask = FuseClient.Bytes(handle, 0ul, 300u, 0u, 0ul, 0u, 0u);
        byte[] first = client.Call(FuseOperation.ReadFolder, 1, ask).Reply;
        client.Call(FuseOperation.ReadFolder, 1, FuseClient.Bytes(handle, BitConverter.ToUInt64(first, 8), 300u, 0u, 0ul, 0u, 0u));
        Assert.Equal(first, client.Call(FuseOperation.ReadFolder, 1, ask).Reply);
        Host("new", "");
        Assert.Contains("new", client.List(1).Select(e => e.Name));
        Assert.Equal(ErrorNumber.BadHandle, client.Read(handle, 0, 10).Error);      // a folder is no file
    }

    [Fact]
    public void Attributes_are_changed()
    {
        Host("a", "A");
        FuseClient client = Share();
        Entry a = client.Find("a");
        Assert.Equal((0, 0x8180u), client.SetAttributes(a.Node, FuseProtocol.SetMode, mode: 0x180) is var (error, e) ? (error, e.Mode) : default);
        Assert.Equal(0, client.SetAttributes(a.Node, FuseProtocol.SetModificationTime, seconds: 1_000_000_000).Error);
        Assert.Equal(new DateTime(2001, 9, 9, 1, 46, 40, DateTimeKind.Utc), File.GetLastWriteTimeUtc(_folder["a"]), TimeSpan.FromMilliseconds(1));
        Assert.Equal(0, client.MakeLink(1, "l", "nowhere/at all").Error);
        Entry l = client.Find("l");
        Assert.Equal("nowhere/at all", client.ReadLink(l.Node));
        Assert.Equal(0, client.SetAttributes(l.Node, FuseProtocol.SetModificationTime | FuseProtocol.SetAccessTime, seconds: 1_000_000_000).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Call(FuseOperation.ReadLink, a.Node, []).Error);
    }

    [Fact]
    public void Extended_attributes_of_users_are_shared_and_no_others()
    {
        Host("a", "A");
        FuseClient client = Share();
        ulong a = client.Find("a").Node;
        int error = Set("user.x", "value");
        if (error == ErrorNumber.Unsupported)
        {
            Assert.Skip($"the file system of {_folder.Path} has no extended attributes");
        }
        Assert.Equal(0, error);
        Assert.Equal(ErrorNumber.Unsupported, Set("security.capability", "\x1"));
        Assert.Equal(ErrorNumber.Unsupported, Set("trusted.x", "1"));
        Assert.Equal(ErrorNumber.Unsupported, Set("system.posix_acl_access", "1"));
        Assert.Equal(ErrorNumber.NoData, Get("security.capability", 100).Error);
        Assert.Equal("value", Encoding.UTF8.GetString(Get("user.x", 100).Reply));
        Assert.Equal(5u, BitConverter.ToUInt32(Get("user.x", 0).Reply));
        Assert.Equal(ErrorNumber.Range, Get("user.x", 4).Error);
        Assert.Equal("user.x\0", Encoding.UTF8.GetString(client.Call(FuseOperation.ListExtendedAttributes, a, FuseClient.Bytes(100u, 0u)).Reply));
        Assert.Equal(0, client.Call(FuseOperation.RemoveExtendedAttribute, a, FuseClient.Text("user.x")).Error);
        Assert.Equal(ErrorNumber.NoData, Get("user.x", 100).Error);

        int Set(string name, string value) =>
            client.Call(FuseOperation.SetExtendedAttribute, a, [.. FuseClient.Bytes((uint)value.Length, 0u), .. FuseClient.Text(name), .. Encoding.ASCII.GetBytes(value)]).Error;

        (int Error, byte[] Reply) Get(string name, uint size) => client.Call(FuseOperation.GetExtendedAttribute, a, [.. FuseClient.Bytes(size, 0u), .. FuseClient.Text(name)]);
    }

    [Fact]
    public void Space_is_allocated_punched_copied_and_found()
    {
        FuseClient client = Share();
        (_, _, ulong a) = client.Create(1, "a");
        (_, _, ulong b) = client.Create(1, "b");
        client.Write(a, 0, new byte[65536].Select(_ => (byte)7).ToArray());
        Assert.Equal(0, client.Call(FuseOperation.Allocate, 1, FuseClient.Bytes(a, 16384ul, 16384ul, 3u, 0u)).Error);
        Assert.Equal(new byte[16384], client.Read(a, 16384, 16384).Data);
        Assert.Equal(ErrorNumber.Unsupported, client.Call(FuseOperation.Allocate, 1, FuseClient.Bytes(a, 0ul, 4096ul, 8u, 0u)).Error);
        (int error, byte[] reply) = client.Call(FuseOperation.Seek, 1, FuseClient.Bytes(a, 0ul, 4u, 0u));
        Assert.Equal(0, error);
        Assert.Contains(BitConverter.ToUInt64(reply), (ulong[])[16384, 65536]);     // a file system may know no holes
        (error, reply) = client.Call(FuseOperation.CopyFileRange, 1, FuseClient.Bytes(a, 0ul, 1ul, b, 100ul, 1000ul, 0ul));
        Assert.Equal((0, 1000), (error, BitConverter.ToInt32(reply)));
        Assert.Equal(1100, new FileInfo(_folder["b"]).Length);
        Assert.Equal(0, client.Call(FuseOperation.Synchronize, 1, FuseClient.Bytes(a, 1u, 0u)).Error);
        Assert.Equal(0, client.Call(FuseOperation.StatFileSystem, 1, []).Error);
        Assert.Equal(0, client.Call(FuseOperation.SynchronizeFileSystem, 1, FuseClient.Bytes(0ul)).Error);
    }

    [Fact]
    public void A_read_only_share_is_read_only_in_the_server()
    {
        Host("a", "A");
        FuseClient client = Share(new ShareOptions { ReadOnly = true });
        ulong a = client.Find("a").Node;
        (int error, ulong handle, _) = client.Open(a);
        Assert.Equal(0, error);
        Assert.Equal("A", Encoding.UTF8.GetString(client.Read(handle, 0, 10).Data));
        int[] errors =
        [
            client.Open(a, WriteOnly).Error, client.Open(a, ReadWrite).Error, client.Open(a, Truncate).Error, client.Create(1, "b").Error,
            client.Write(handle, 0, "x"u8).Error, client.MakeFolder(1, "d").Error, client.MakeNode(1, "n", 0x81A4).Error, client.MakeLink(1, "l", "a").Error,
            client.HardLink(a, 1, "h").Error, client.Unlink(1, "a"), client.RemoveFolder(1, "a"), client.Rename(1, "a", 1, "b"),
            client.SetAttributes(a, FuseProtocol.SetMode, mode: 0x1FF).Error, client.SetAttributes(a, FuseProtocol.SetSize).Error,
            client.SetAttributes(a, FuseProtocol.SetUser).Error, client.SetAttributes(a, FuseProtocol.SetModificationTime).Error,
            client.Call(FuseOperation.Allocate, 1, FuseClient.Bytes(handle, 0ul, 4096ul, 0u, 0u)).Error,
            client.Call(FuseOperation.CopyFileRange, 1, FuseClient.Bytes(handle, 0ul, 1ul, handle, 100ul, 1ul, 0ul)).Error,
            client.Call(FuseOperation.SetExtendedAttribute, a, [.. FuseClient.Bytes(1u, 0u), .. FuseClient.Text("user.x"), 1]).Error,
            client.Call(FuseOperation.RemoveExtendedAttribute, a, FuseClient.Text("user.x")).Error,
        ];
        Assert.All(errors, e => Assert.Equal(ErrorNumber.ReadOnlyFileSystem, e));
        Assert.Equal(["a"], Directory.EnumerateFileSystemEntries(_folder.Path).Select(Path.GetFileName));
        Assert.Equal("A", File.ReadAllText(_folder["a"]));
    }

    [Fact]
    public void Owners_are_mapped()
    {
        Host("a", "A");
        FuseClient client = Share(new ShareOptions { Owner = new ShareOwner(1000, 1001) });
        client.User = 33;
        Entry a = client.Find("a");
        Assert.Equal((1000u, 1001u), (a.User, a.Group));
        Entry b = client.Create(1, "b").Entry;
        Assert.Equal((1000u, 1001u), (b.User, b.Group));
        Assert.Equal(0, client.SetAttributes(a.Node, FuseProtocol.SetUser | FuseProtocol.SetGroup, user: 1000, group: 1001).Error);
        Assert.Equal(ErrorNumber.NotPermitted, client.SetAttributes(a.Node, FuseProtocol.SetUser, user: 0).Error);
        Assert.Equal(ErrorNumber.NotPermitted, client.SetAttributes(a.Node, FuseProtocol.SetGroup, group: 0).Error);
    }

    [Fact]
    public void As_root_files_belong_to_who_made_them()
    {
        if (!Environment.IsPrivilegedProcess)
        {
            Assert.Skip("not root");
        }
        FuseClient client = Share();
        (client.User, client.Group) = (1234, 5678);
        Entry d = client.MakeFolder(1, "d").Entry;
        Entry f = client.Create(d.Node, "f").Entry;
        Entry l = client.MakeLink(1, "l", "x").Entry;
        Assert.All((Entry[])[d, f, l], e => Assert.Equal((1234u, 5678u), (e.User, e.Group)));
        (client.User, client.Group) = (0, 0);
        Entry r = client.Create(d.Node, "r").Entry;
        Assert.Equal((0u, 0u), (r.User, r.Group));
        Assert.Equal((0, 77u, 88u), client.SetAttributes(r.Node, FuseProtocol.SetUser | FuseProtocol.SetGroup, user: 77, group: 88) is var (error, e) ? (error, e.User, e.Group) : default);
        // The thread is itself again.
        File.WriteAllText(_folder["own"], "");
        Entry own = client.Find("own");
        Assert.Equal((0u, 0u), (own.User, own.Group));
    }

    [Fact]
    public void What_the_guest_has_cached_of_a_file_is_kept_while_nobody_changes_it()
    {
        string path = Host("a", "A");
        FuseClient client = Share();
        ulong a = client.Find("a").Node;
        Assert.Equal(0u, client.Open(a).Flags);
        Assert.Equal(0u, client.Open(a).Flags);         // changed too short a time ago to tell
        File.WriteAllText(path, "B");
        Assert.Equal(0u, client.Open(a).Flags);
        client.Call(FuseOperation.Destroy, 0, []);
        _server!.Dispose();
        client = Share(new ShareOptions { Cache = ShareCache.Always });
        Assert.Equal(FuseProtocol.OpenKeepCache, client.Open(client.Find("a").Node).Flags);
    }
}
