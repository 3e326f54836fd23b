using Lodge.Management.Templates;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Lodge.Management.Tests;

public sealed class TemplateStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-test-").FullName;

    private TemplateStore Store => new(Path.Combine(_folder, "templates"));

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void What_was_put_in_comes_out()
    {
        TemplateKey key = Key("one");
        Assert.Null(Store.Open(key));
        Make(key, [1, 2, 3]);
        using SavedTemplate saved = Store.Open(key)!;
        Assert.Equal([1, 2, 3], saved.State.ToArray());
        Assert.Equal(["52:54:00:00:00:01"], saved.CardAddresses);
        byte[] memory = new byte[8];
        Assert.Equal(8, RandomAccess.Read(saved.Memory, memory, 0));
        Assert.Equal([9, 9, 9, 9, 9, 9, 9, 9], memory);
        StoredTemplate listed = Assert.Single(Store.List());
        Assert.Equal((key.Name, 8L), (listed.Description.Key, listed.Description.StoredBytes));
    }

    [Fact]
    public void Another_machine_s_template_under_the_same_name_is_refused_and_thrown_away()
    {
        TemplateKey key = Key("one"), other = Key("two");
        Make(key, [1]);
        Directory.Move(Path.Combine(_folder, "templates", key.Name), Path.Combine(_folder, "templates", other.Name));
        Assert.Null(Store.Open(other));
        Assert.Empty(Directory.EnumerateDirectories(Path.Combine(_folder, "templates")));
    }

    [Theory]
    [InlineData("state", 0)]
    [InlineData("state", 20)]
    [InlineData("state", -1)]
    [InlineData("memory", 4)]
    public void A_changed_byte_is_found(string file, int at)
    {
        TemplateKey key = Key("one");
        Make(key, new byte[1000]);
        string path = Path.Combine(_folder, "templates", key.Name, file);
        byte[] contents = File.ReadAllBytes(path);
        contents[at < 0 ? ^1 : at] ^= 1;
        File.WriteAllBytes(path, contents);
        File.SetLastWriteTimeUtc(path, DateTime.UtcNow.AddSeconds(2));
        Assert.Null(Store.Open(key));
        Assert.Empty(Store.List());
    }

    [Fact]
    public void Every_truncated_state_is_refused()
    {
        TemplateKey key = Key("one");
        for (int length = 0; length < 150; length += 7)
        {
            Make(key, [1, 2, 3]);
            string path = Path.Combine(_folder, "templates", key.Name, "state");
            byte[] contents = File.ReadAllBytes(path);
            File.WriteAllBytes(path, contents[..Math.Min(length, contents.Length - 1)]);
            Assert.Null(Store.Open(key));
        }
    }

    [Fact]
    public void One_at_a_time_makes_one_and_what_is_not_completed_leaves_nothing()
    {
        using (TemplateDraft first = Store.TryBegin(Key("one"))!)
        {
            Assert.Null(Store.TryBegin(Key("one")));
            Assert.Null(Store.TryBegin(Key("two")));
            Assert.Throws<IOException>(() => first.Complete(Description(first.Key), [], [], _ => throw new IOException("no space")));
        }
        Assert.Empty(Store.List());
        Assert.Empty(Directory.EnumerateDirectories(Path.Combine(_folder, "templates")));
        Make(Key("one"), [1]);
        Assert.Null(Store.TryBegin(Key("one"))); // it is there
    }

    [Fact]
    public void What_a_killed_maker_left_is_removed()
    {
        Directory.CreateDirectory(Path.Combine(_folder, "templates", ".new-0123456789abcdef"));
        Make(Key("one"), [1]);
        Assert.Equal([Key("one").Name], Directory.EnumerateDirectories(Path.Combine(_folder, "templates")).Select(Path.GetFileName));
    }

    [Fact]
    public void The_oldest_go_when_there_are_too_many()
    {
        for (int i = 0; i < 5; i++)
        {
            Make(Key($"{i}"), [1]);
            Directory.SetLastWriteTimeUtc(Path.Combine(_folder, "templates", Key($"{i}").Name), DateTime.UtcNow.AddHours(i - 10));
        }
        Assert.Equal(new[] { Key("0").Name, Key("1").Name }.Order(), Store.Prune(count: 3).Order());
        Assert.Equal([Key("2").Name], Store.Prune(bytes: 16));
        Assert.Equal([Key("3").Name], Store.Prune(before: DateTimeOffset.UtcNow.AddHours(-6.5)));
        using SavedTemplate saved = Store.Open(Key("4"))!;
        Assert.True(Store.Remove(Key("4").Name));
        Assert.False(Store.Remove(Key("4").Name));
        Assert.False(Store.Remove("../templates"));
        Assert.Equal(8, RandomAccess.Read(saved.Memory, new byte[8], 0)); // a clone in the making goes on
    }

    [Fact]
    public void What_an_image_s_machine_wrote_is_kept_and_a_change_to_it_is_found()
    {
        TemplateKey key = Key("image");
        Make(key, [1], disk: [7, 7, 7]);
        using (SavedTemplate saved = Store.Open(key)!)
        {
            byte[] disk = new byte[4];
            Assert.Equal(3, RandomAccess.Read(saved.Disk!, disk, 0));
            Assert.Equal([7, 7, 7, 0], disk);
        }
        Assert.Equal(11, Assert.Single(Store.List()).Description.StoredBytes);
        File.Delete(Path.Combine(_folder, "templates", key.Name, "disk.qcow2"));
        Assert.Null(Store.Open(key));
        Assert.Empty(Store.List());
        Make(key, [1], disk: [7, 7, 7]);
        File.AppendAllText(Path.Combine(_folder, "templates", key.Name, "disk.qcow2"), "x");
        Assert.Null(Store.Open(key));
        Make(key, [1]);
        File.WriteAllText(Path.Combine(_folder, "templates", key.Name, "disk.qcow2"), "of another");
        Assert.Null(Store.Open(key));
    }

    [Fact]
    public void Translated_code_comes_with_it_and_a_change_to_it_is_found()
    {
        TemplateKey key = Key("one");
        string file = Path.Combine(_folder, "templates", key.Name, "code"), given = Path.Combine(_folder, "given");
        Make(key, [1], code: [5, 6]);
        using (SavedTemplate saved = Store.Open(key)!)
        {
            byte[] code = new byte[3];
            Assert.Equal(2, RandomAccess.Read(saved.Code!, code, 0));
            Assert.Equal([5, 6, 0], code);
            saved.GiveTo(given);
        }
        Assert.Equal(10, Assert.Single(Store.List()).Description.StoredBytes);
        using (SavedTemplate taken = SavedTemplate.OpenGiven(given)!)
        {
            Assert.Equal(2, RandomAccess.GetLength(taken.Code!));
        }
        File.Delete(Path.Combine(given, "code"));
        Assert.Null(SavedTemplate.OpenGiven(given));
        File.Delete(file);
        Assert.Null(Store.Open(key));
        Make(key, [1], code: [5, 6]);
        File.AppendAllText(file, "x");
        Assert.Null(Store.Open(key));
        Make(key, [1]);
        File.WriteAllText(file, "of another");
        Assert.Null(Store.Open(key));
        Make(key, [1]);
        using SavedTemplate without = Store.Open(key)!;
        Assert.Null(without.Code);
    }

    [Fact]
    public void A_machine_keeps_what_it_was_given_when_the_template_goes()
    {
        TemplateKey key = Key("image");
        Make(key, [1, 2, 3], disk: [7]);
        string given = Path.Combine(_folder, "given"), late = Path.Combine(_folder, "late");
        using (SavedTemplate saved = Store.Open(key)!)
        {
            saved.GiveTo(given);
            Assert.True(Store.Remove(key.Name));
            Make(key, [4], disk: [8]); // another one in its place is never mixed with it
            saved.GiveTo(Path.Combine(_folder, "again"));
            Assert.Equal([1, 2, 3], SavedTemplate.OpenGiven(Path.Combine(_folder, "again"))!.State.ToArray());
        }
        using (SavedTemplate taken = SavedTemplate.OpenGiven(given)!)
        {
            Assert.Equal([1, 2, 3], taken.State.ToArray());
            Assert.Equal(["52:54:00:00:00:01"], taken.CardAddresses);
            Assert.Equal(8, RandomAccess.Read(taken.Memory, new byte[8], 0));
        }
        using (SavedTemplate gone = Store.Open(key)!)
        {
            Assert.True(Store.Remove(key.Name));
            Assert.Throws<IOException>(() => gone.GiveTo(late)); // no name leads to it any more
        }
        Assert.Null(SavedTemplate.OpenGiven(late));
        File.AppendAllText(Path.Combine(given, "memory"), "x");
        Assert.Null(SavedTemplate.OpenGiven(given));
        Assert.Null(SavedTemplate.OpenGiven(Path.Combine(_folder, "nowhere")));
    }

    private static TemplateKey Key(string text) => new(["form 1", text]);

    private static TemplateDescription Description(TemplateKey key) => new() { Key = key.Name, System = "default", Parts = key.Parts };

    private void Make(TemplateKey key, byte[] state, byte[]? disk = null, byte[]? code = null)
    {
        using TemplateDraft draft = Store.TryBegin(key)!;
        draft.Complete(Description(key), ["52:54:00:00:00:01"], state, file =>
        {
            RandomAccess.Write(file, new byte[] { 9, 9, 9, 9, 9, 9, 9, 9 }, 0);
            return 8;
        }, Writer(code), Writer(disk));

        static Func<SafeFileHandle, long>? Writer(byte[]? contents) => contents is null ? null : file =>
        {
            RandomAccess.Write(file, contents, 0);
            return contents.Length;
        };
    }
}
