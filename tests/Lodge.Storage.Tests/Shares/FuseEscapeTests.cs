using System.Diagnostics;
using System.Globalization;
using System.Text;
using Lodge.Storage.Shares;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Shares;

/// <summary>A guest that wants out of the folder, or to make the host pay.</summary>
public sealed class FuseEscapeTests : IDisposable
{
    private readonly TemporaryFolder _all = new();
    private readonly string _shared;
    private FuseServer? _server;

    public FuseEscapeTests()
    {
        _shared = _all["shared"];
        Directory.CreateDirectory(_shared);
        Directory.CreateDirectory(_all["outside"]);
        File.WriteAllText(_all["outside/secret"], "secret");
    }

    public void Dispose()
    {
        _server?.Dispose();
        // Names need not be UTF-8, nor modes allow anything.
        Process.Start("sh", ["-c", "find \"$1\" -type d -exec chmod u+rwx {} \\; ; rm -rf \"$1\"", "sh", _shared])!.WaitForExit();
        _all.Dispose();
    }

    private FuseClient Share(ShareOptions? options = null) => new(_server = new FuseServer(_shared, options ?? new ShareOptions()));

    [Theory]
    [InlineData("")]
    [InlineData(".")]
    [InlineData("..")]
    [InlineData("../outside")]
    [InlineData("/etc/passwd")]
    [InlineData("d/f")]
    [InlineData("d/")]
    [InlineData("/")]
    public void A_name_is_one_name(string name)
    {
        Directory.CreateDirectory(Path.Combine(_shared, "d"));
        File.WriteAllText(Path.Combine(_shared, "d/f"), "");
        FuseClient client = Share();
        ulong d = client.Find("d").Node;
        foreach (ulong folder in (ulong[])[1, d])
        {
            Assert.Equal(ErrorNumber.Invalid, client.Lookup(folder, name).Error);
            Assert.Equal(ErrorNumber.Invalid, client.Create(folder, name).Error);
            Assert.Equal(ErrorNumber.Invalid, client.MakeFolder(folder, name).Error);
            Assert.Equal(ErrorNumber.Invalid, client.MakeNode(folder, name, 0x81A4).Error);
            Assert.Equal(ErrorNumber.Invalid, client.MakeLink(folder, name, "x").Error);
            Assert.Equal(ErrorNumber.Invalid, client.HardLink(d, folder, name).Error);
            Assert.Equal(ErrorNumber.Invalid, client.Unlink(folder, name));
            Assert.Equal(ErrorNumber.Invalid, client.RemoveFolder(folder, name));
            Assert.Equal(ErrorNumber.Invalid, client.Rename(folder, name, folder, "x"));
            Assert.Equal(ErrorNumber.Invalid, client.Rename(folder, "d", folder, name));
        }
        Assert.Equal(ErrorNumber.NameTooLong, client.Lookup(1, new string('x', 256)).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Call(FuseOperation.Lookup, 1, Encoding.ASCII.GetBytes("no end")).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Call(FuseOperation.Lookup, 1, []).Error);
    }

    [Fact]
    public void Links_are_told_and_never_followed()
    {
        foreach ((string name, string target) in ((string, string)[])[("absolute", _all["outside"]), ("relative", "../outside"), ("magic", "/proc/self/root"), ("file", "/etc/passwd"), ("self", ".")])
        {
            File.CreateSymbolicLink(Path.Combine(_shared, name), target);
            FuseClient client = Share();
            Entry link = client.Find(name);
            Assert.Equal(0xA000u, link.Mode & 0xF000);
            Assert.Equal(target, client.ReadLink(link.Node));
            Assert.Equal(ErrorNumber.NotFolder, client.Lookup(link.Node, "secret").Error);
            Assert.Equal(ErrorNumber.NotFolder, client.Open(link.Node, 0, folder: true).Error);
            Assert.Equal(ErrorNumber.Invalid, client.Open(link.Node).Error);
            Assert.Equal(ErrorNumber.NotFolder, client.Create(link.Node, "new").Error);
            Assert.Equal(ErrorNumber.Invalid, client.Create(1, name).Error);            // a link is there: not opened through it
            Assert.NotEqual(0, client.SetAttributes(link.Node, FuseProtocol.SetMode, mode: 0x1FF).Error);
            Assert.NotEqual(0, client.SetAttributes(link.Node, FuseProtocol.SetSize).Error);
            Assert.NotEqual(0, client.Unlink(link.Node, "secret"));
            Assert.NotEqual(0, client.Rename(link.Node, "secret", 1, "mine"));
            // Another name for the link, not for what it leads to.
            Assert.Equal(0xA000u, client.HardLink(link.Node, 1, name + "2").Entry.Mode & 0xF000);
            _server!.Dispose();
        }
        Assert.Equal("secret", File.ReadAllText(_all["outside/secret"]));
    }

    [Fact]
    public void A_folder_that_becomes_a_link_meanwhile_leads_nowhere()
    {
        Directory.CreateDirectory(Path.Combine(_shared, "real"));
        File.WriteAllText(Path.Combine(_shared, "real/secret"), "harmless");
        FuseClient client = Share();
        using CancellationTokenSource stop = new();
        // The folder and a link to the one outside change places all the time.
        File.CreateSymbolicLink(Path.Combine(_shared, "evil"), _all["outside"]);
        Thread flipper = new(() =>
        {
            FuseClient other = new(_server!, initialize: false);
            while (!stop.IsCancellationRequested)
            {
                other.Rename(1, "real", 1, "evil", ShareSystemCalls.Exchange);
            }
        });
        flipper.Start();
        int reached = 0;
        try
        {
            for (int i = 0; i < 5_000; i++)
            {
                (int error, Entry folder) = client.Lookup(1, "real");
                if (error != 0)
                {
                    continue;
                }
                (error, Entry secret) = client.Lookup(folder.Node, "secret");
                if (error == 0)
                {
                    (error, ulong handle, _) = client.Open(secret.Node);
                    Assert.Equal(0, error);
                    Assert.Equal("harmless", Encoding.UTF8.GetString(client.Read(handle, 0, 100).Data));
                    client.Release(handle);
                    client.Forget(secret.Node, 1);
                    reached++;
                }
                client.Create(folder.Node, "new" + (i % 3));
                client.Unlink(folder.Node, "new" + (i % 3));
                client.Forget(folder.Node, 1);
            }
        }
        finally
        {
            stop.Cancel();
            flipper.Join();
        }
        Assert.NotEqual(0, reached);
        Assert.Equal([_all["outside/secret"]], Directory.EnumerateFileSystemEntries(_all["outside"]));
    }

    [Fact]
    public void Processes_of_the_host_are_not_shared()
    {
        Assert.Throws<ShareException>(() => new FuseServer("/proc", new ShareOptions()));
        Assert.Throws<ShareException>(() => new FuseServer("/proc/self/fd", new ShareOptions()));
        using FuseServer root = new("/", new ShareOptions { ReadOnly = true });
        FuseClient client = new(root);
        Assert.Equal(ErrorNumber.AccessDenied, client.Lookup(1, "proc").Error);
        Assert.Equal(0, client.Lookup(1, "etc").Error);
        Assert.Equal(ErrorNumber.Invalid, client.Lookup(1, "..").Error);
    }

    [Fact]
    public void Nothing_but_files_and_folders_is_opened()
    {
        FuseClient client = Share();
        Entry fifo = client.MakeNode(1, "fifo", 0x11B6).Entry;
        Assert.Equal(ErrorNumber.Invalid, client.Open(fifo.Node).Error);        // and does not wait for somebody to write
        Assert.Equal(ErrorNumber.Invalid, client.Create(1, "fifo").Error);
        Assert.Equal(ErrorNumber.NotPermitted, client.MakeNode(1, "block", 0x61B6).Error);
        Assert.Equal(ErrorNumber.NotPermitted, client.MakeNode(1, "character", 0x21B6).Error);
        Assert.Equal(ErrorNumber.NotPermitted, client.MakeNode(1, "folder", 0x41B6).Error);
        if (Environment.IsPrivilegedProcess && Process.Start("mknod", [Path.Combine(_shared, "zero"), "c", "1", "5"]) is { } made)
        {
            made.WaitForExit();
            if (made.ExitCode == 0)
            {
                Assert.Equal(ErrorNumber.Invalid, client.Open(client.Find("zero").Node).Error);
                Assert.Equal(ErrorNumber.Invalid, client.Create(1, "zero").Error);
            }
        }
    }

    [Fact]
    public void A_guest_leaves_no_rights_behind()
    {
        FuseClient client = Share();
        (_, Entry file, ulong handle) = client.Create(1, "tool", mode: 0xDED);      // 06755
        Assert.Equal(0x81EDu, file.Mode);
        Assert.Equal(0x81EDu, client.SetAttributes(file.Node, FuseProtocol.SetMode, mode: 0xDED).Entry.Mode);
        Assert.Equal(0x81EDu, client.MakeNode(1, "node", 0x8DED).Entry.Mode);
        client.Release(handle);
        // Those that the host gave go when the guest writes.
        File.SetUnixFileMode(Path.Combine(_shared, "tool"), (UnixFileMode)0x9ED);
        (_, handle, _) = client.Open(file.Node, 2);
        client.Write(handle, 0, "x"u8, FuseProtocol.WriteKillPrivileges);
        Assert.Equal(0x81EDu, client.GetAttributes(file.Node).Entry.Mode);
    }

    [Fact]
    public void Sizes_are_bounded_whatever_the_guest_says()
    {
        File.WriteAllText(Path.Combine(_shared, "a"), new string('x', 100_000));
        FuseClient client = Share();
        ulong a = client.Find("a").Node;
        (_, ulong handle, _) = client.Open(a, 2);
        Assert.Equal(84, client.Read(handle, 0, uint.MaxValue, 100).Data.Length);
        Assert.Equal(0, client.Read(handle, 0, uint.MaxValue, 16) is var (error, data) ? error + data.Length : -1);
        Assert.Equal(ErrorNumber.Invalid, client.Read(handle, ulong.MaxValue, 10).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Write(handle, 0, "x"u8, size: 2).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Write(handle, 0, "x"u8, size: uint.MaxValue).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Write(handle, ulong.MaxValue, "x"u8).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Write(handle, long.MaxValue, "x"u8).Error);
        Assert.Equal(ErrorNumber.TooBig, client.Call(FuseOperation.SetExtendedAttribute, a, new byte[80_000]).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Call(FuseOperation.SetExtendedAttribute, a, [.. FuseClient.Bytes(1000u, 0u), .. FuseClient.Text("user.x"), 1]).Error);
        Assert.Equal(ErrorNumber.Invalid, client.SetAttributes(a, FuseProtocol.SetSize, size: ulong.MaxValue).Error);
        Assert.Equal(ErrorNumber.Invalid, client.Call(FuseOperation.Allocate, 1, FuseClient.Bytes(handle, ulong.MaxValue, 1ul, 0u, 0u)).Error);
        Assert.Equal(-1, client.Call(FuseOperation.BatchForget, 0, FuseClient.Bytes(uint.MaxValue, 0u, a, ulong.MaxValue), 0).Error);
        Assert.Equal(ErrorNumber.Stale, client.GetAttributes(a).Error);
        // Requests and replies that are too short.
        Assert.True(client.Raw(new byte[39], 100).IsEmpty);
        Assert.True(client.Raw(client.Header(FuseOperation.StatFileSystem, 1, 0), 15).IsEmpty);
        Assert.Equal(16, client.Raw(client.Header(FuseOperation.StatFileSystem, 1, 0), 20).Length);
        foreach (FuseOperation unknown in (FuseOperation[])[0, (FuseOperation)7, (FuseOperation)31, (FuseOperation)34, (FuseOperation)39, (FuseOperation)48, (FuseOperation)4096, (FuseOperation)uint.MaxValue])
        {
            Assert.Equal(ErrorNumber.NotImplemented, client.Call(unknown, 1, new byte[64]).Error);
        }
    }

    [Fact]
    public void What_a_guest_knows_and_has_open_is_bounded()
    {
        for (int i = 0; i < 200; i++)
        {
            File.WriteAllText(Path.Combine(_shared, $"f{i}"), "");
        }
        FuseClient client = Share(new ShareOptions { MaximumNodes = 100, MaximumDescriptors = 32 });
        int[] errors = [.. Enumerable.Range(0, 200).Select(i => client.Lookup(1, $"f{i}").Error)];
        Assert.Equal(99, errors.Count(e => e == 0));
        Assert.Equal(101, errors.Count(e => e == ErrorNumber.TooManyOpen));
        Assert.InRange(_server!.NodeDescriptors, 1, 64);
        errors = [.. Enumerable.Range(0, 40).Select(_ => client.Open(1, 0, folder: true).Error)];
        Assert.Equal(8, errors.Count(e => e == ErrorNumber.TooManyOpen));
        Assert.Equal(ErrorNumber.TooManyOpen, client.Create(1, "more").Error);
        client.Call(FuseOperation.Destroy, 0, []);
        Assert.Equal((1, 0, 0), (_server.NodeCount, _server.OpenCount, _server.NodeDescriptors));
    }

    [Fact]
    public void Files_whose_descriptor_was_put_away_are_found_again_and_others_in_their_place_are_not()
    {
        for (int i = 0; i < 30; i++)
        {
            Directory.CreateDirectory(Path.Combine(_shared, $"d{i}/e"));
            for (int k = 0; k < 10; k++)
            {
                File.WriteAllText(Path.Combine(_shared, $"d{i}/e/{k}"), $"{i} {k}");
            }
        }
        FuseClient client = Share(new ShareOptions { MaximumDescriptors = 40 });
        Entry[] found = [.. Enumerable.Range(0, 300).Select(i => client.Find($"d{i / 10}/e/{i % 10}"))];
        Assert.Equal(361, _server!.NodeCount);
        Assert.InRange(_server.NodeDescriptors, 1, 80);
        for (int i = 0; i < 300; i++)
        {
            (int error, ulong handle, _) = client.Open(found[i].Node);
            Assert.Equal(0, error);
            Assert.Equal($"{i / 10} {i % 10}", Encoding.UTF8.GetString(client.Read(handle, 0, 100).Data));
            client.Release(handle);
        }
        // Moved by the guest: its place is known. Moved or replaced by the host: the guest is told to look again.
        ulong e0 = client.Find("d0/e").Node;
        Assert.Equal(0, client.Rename(e0, "0", 1, "moved"));
        File.Move(Path.Combine(_shared, "d0/e/1"), Path.Combine(_shared, "d0/e/one"));
        File.Delete(Path.Combine(_shared, "d0/e/2"));
        File.WriteAllText(Path.Combine(_shared, "d0/e/2"), "another");
        for (int i = 100; i < 300; i++)
        {
            Assert.Equal(0, client.GetAttributes(found[i].Node).Error);
        }
        Assert.Equal((0, found[0].Inode), client.GetAttributes(found[0].Node) is var (moved, entry) ? (moved, entry.Inode) : default);
        Assert.Equal(ErrorNumber.Stale, client.GetAttributes(found[1].Node).Error);
        Assert.Equal(ErrorNumber.Stale, client.GetAttributes(found[2].Node).Error);
        Entry two = client.Find("d0/e/2");
        Assert.NotEqual(found[2].Node, two.Node);
        Assert.Equal(found[1].Inode, client.Find("d0/e/one").Inode);
        foreach (Entry gone in found)
        {
            client.Forget(gone.Node, 100);
        }
    }

    [Fact]
    public void Random_requests_stay_inside()
    {
        long cases = long.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), CultureInfo.InvariantCulture, out long asked) ? asked : 20_000;
        int seed = Environment.TickCount;
        Random random = new(seed);
        FuseClient client = Share(new ShareOptions { MaximumNodes = 200, MaximumDescriptors = 40 });
        string[] names = ["a", "b", "c", "d", "..", ".", "", "../outside", "/etc", "x/y", "evil", new string('n', 300)];
        File.CreateSymbolicLink(Path.Combine(_shared, "evil"), "../outside");
        FuseOperation[] operations = [.. Enum.GetValues<FuseOperation>().Where(o => o is not (FuseOperation.Destroy or FuseOperation.SynchronizeFileSystem or FuseOperation.Synchronize))];
        for (long i = 0; i < cases; i++)
        {
            FuseOperation operation = random.Next(50) == 0 ? (FuseOperation)random.Next() : operations[random.Next(operations.Length)];
            List<byte> body = [];
            for (int words = random.Next(12); words > 0; words--)
            {
                body.AddRange(BitConverter.GetBytes(random.Next(6) switch
                {
                    0 => ulong.MaxValue >> random.Next(64),
                    1 => 1ul << random.Next(64),
                    _ => (ulong)random.Next(40),
                }));
            }
            for (int texts = random.Next(3); texts > 0; texts--)
            {
                body.AddRange(FuseClient.Text(names[random.Next(names.Length)]));
            }
            byte[] request = [.. client.Header(operation, (ulong)random.Next(60), body.Count), .. body];
            try
            {
                client.Raw(random.Next(20) == 0 ? request[..random.Next(request.Length)] : request, random.Next(3) == 0 ? random.Next(200) : 5000);
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}, case {i}: {operation}: {e}");
            }
            if (!_server!.InSession)
            {
                client.Initialize(7, 36);
            }
        }
        Assert.Equal("secret", File.ReadAllText(_all["outside/secret"]));
        Assert.Equal([_all["outside/secret"]], Directory.EnumerateFileSystemEntries(_all["outside"]));
        Assert.Equal([_all["outside"], _shared], Directory.EnumerateFileSystemEntries(_all.Path).Order());
        client.Call(FuseOperation.Destroy, 0, []);
        Assert.Equal((1, 0, 0), (_server!.NodeCount, _server.OpenCount, _server.NodeDescriptors));
    }
}
