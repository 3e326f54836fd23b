using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Lodge.Storage.Formats;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary><c>lodge image</c> as a user runs it, beside qemu-img: the same JSON fields, exit statuses and content.</summary>
public sealed class ImageCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-image-").FullName;

    /// <summary>The formats that qemu-img knows, too.</summary>
    public static TheoryData<string> Formats => [.. DiskFormats.All.Select(format => format.Name).Where(name => name != "luks")];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Formats))]
    public void Images_go_into_each_format_and_back(string format)
    {
        MakeData("data.img", 20 << 20);
        Lodge("convert", "-f", "raw", "-O", format, "data.img", "made");
        Qemu("compare", "-f", "raw", "-F", format, "data.img", "made");
        Qemu("convert", "-f", "raw", "-O", format, "data.img", "theirs");
        Lodge("convert", "-f", format, "theirs", "back.img");
        Qemu("compare", "-f", "raw", "-F", "raw", "data.img", "back.img");
        Lodge("compare", "-f", format, "-F", "raw", "made", "data.img");
        Lodge("convert", "-f", format, "-O", "raw", "-S", "0", "made", "full.img");
        Qemu("compare", "-f", "raw", "-F", "raw", "data.img", "full.img");
        JsonNode ours = Json(Lodge("info", "--output", "json", "-f", format, "theirs"));
        JsonNode theirs = Json(Qemu("info", "--output=json", "-f", format, "theirs"));
        foreach (string field in new[] { "virtual-size", "format", "cluster-size", "filename", "dirty-flag", "actual-size" })
        {
            Assert.Equal(theirs[field]?.ToJsonString(), ours[field]?.ToJsonString());
        }
        foreach ((string name, JsonNode? value) in theirs["format-specific"]?["data"]?.AsObject() ?? [])
        {
            if (value is JsonValue)
            {
                Assert.Equal(value.ToJsonString(), ours["format-specific"]!["data"]![name]?.ToJsonString());
            }
        }
    }

    [Fact]
    public void A_map_is_the_same()
    {
        MakeData("data.img", 8 << 20);
        JsonArray ours = Json(Lodge("map", "--json", "-f", "raw", "data.img")).AsArray();
        JsonArray theirs = Json(Qemu("map", "--output=json", "-f", "raw", "data.img")).AsArray();
        Assert.Equal(theirs.Count, ours.Count);
        for (int index = 0; index < theirs.Count; index++)
        {
            foreach ((string name, JsonNode? value) in theirs[index]!.AsObject())
            {
                Assert.Equal(value?.ToJsonString(), ours[index]![name]?.ToJsonString());
            }
        }
        Assert.Equal(Qemu("map", "-f", "raw", "data.img"), Lodge("map", "-f", "raw", "data.img"));
    }

    [Fact]
    public void Comparisons_end_with_qemu_imgs_statuses_and_words()
    {
        MakeData("one.img", 4 << 20);
        File.Copy(Path("one.img"), Path("same.img"));
        File.Copy(Path("one.img"), Path("other.img"));
        using (FileStream file = File.OpenWrite(Path("other.img")))
        {
            file.Position = 3_000_000;
            file.WriteByte(0xA5);
        }
        File.Copy(Path("one.img"), Path("longer.img"));
        using (FileStream file = File.OpenWrite(Path("longer.img")))
        {
            file.SetLength(5 << 20);
        }
        foreach (string[] pair in new string[][] { ["one.img", "same.img"], ["one.img", "other.img"], ["one.img", "longer.img"], ["-s", "one.img", "longer.img"] })
        {
            (int status, string output, _) = Run("qemu-img", ["compare", "-f", "raw", "-F", "raw", .. pair]);
            Assert.Equal((status, output), Both(Run(Program, ["image", "compare", "-f", "raw", "-F", "raw", .. pair])));
        }
        Assert.Equal(2, Run(Program, ["image", "compare", "one.img", "missing.img"]).Status);
        Assert.Equal("content", Json(Run(Program, ["image", "compare", "--json", "one.img", "other.img"]).Output)["difference"]!.GetValue<string>());
    }

    [Fact]
    public void Parts_of_an_image_are_those_of_qemu_img()
    {
        MakeData("data.img", 4 << 20);
        foreach (string[] operands in new string[][] { ["bs=1M", "count=2"], ["bs=64k", "skip=3"], ["bs=1M", "count=3", "skip=2"], ["count=5"] })
        {
            Qemu(["dd", "-f", "raw", "-O", "raw", "if=data.img", "of=theirs.img", .. operands]);
            Lodge(["dd", "-f", "raw", "if=data.img", "of=ours.img", .. operands]);
            Assert.Equal(File.ReadAllBytes(Path("theirs.img")), File.ReadAllBytes(Path("ours.img")));
        }
    }

    [Fact]
    public void Sizes_change_as_asked_and_shrink_only_when_that_is_meant()
    {
        Lodge("create", "disk.img", "4M");
        Lodge("resize", "-f", "raw", "disk.img", "+1M");
        Assert.Equal(5 << 20, new FileInfo(Path("disk.img")).Length);
        Fails(1, "--shrink", "resize", "disk.img", "-2M");
        Lodge("resize", "--shrink", "disk.img", "-2M");
        Assert.Equal(3 << 20, new FileInfo(Path("disk.img")).Length);
        Lodge("resize", "--preallocation=full", "disk.img", "6M");
        Assert.Equal(6 << 20, new FileInfo(Path("disk.img")).Length);
        Fails(1, "cannot become", "resize", "--shrink", "disk.img", "-6M");
    }

    [Fact]
    public void A_measure_is_the_same()
    {
        MakeData("data.img", 8 << 20);
        foreach (string format in DiskFormats.All.Select(format => format.Name).Where(name => name is "raw" or "qcow2"))
        {
            JsonNode theirs = Json(Qemu("measure", "--output=json", "-f", "raw", "-O", format, "data.img"));
            JsonNode ours = Json(Lodge("measure", "--json", "-f", "raw", "-O", format, "data.img"));
            Assert.Equal((long)theirs["required"]!, (long)ours["required"]!);
            Assert.Equal((long)theirs["fully-allocated"]!, (long)ours["fully-allocated"]!);
            theirs = Json(Qemu("measure", "--output=json", "-O", format, "--size", "1G"));
            ours = Json(Lodge("measure", "--json", "-O", format, "--size", "1G"));
            Assert.Equal((long)theirs["required"]!, (long)ours["required"]!);
        }
    }

    [Fact]
    public void Errors_are_one_line_and_leave_nothing()
    {
        MakeData("data.img", 1 << 20);
        Fails(1, "missing.img does not exist", "info", "missing.img");
        Fails(1, "'nix'", "convert", "-O", "nix", "data.img", "out");
        Fails(1, "no option 'nix'", "create", "-o", "nix=1", "out", "1M");
        Fails(1, "is the source as well", "convert", "data.img", "./data.img");
        Fails(2, "'-Q' is not known", "convert", "-Q", "data.img", "out");
        Fails(2, "'huge' is not a size", "create", "out", "huge");
        Fails(2, "a source and a target", "convert", "data.img");
        Fails(2, "'nix' is not a command of lodge image", "nix");
        Fails(2, "is seen by others", "info", "--object", "secret,id=s,data=letmein", "data.img");
        Fails(1, "no variable LODGE_NO_SUCH", "info", "--secret", "env:LODGE_NO_SUCH", "data.img");
        Fails(1, "has no compression", "convert", "-c", "data.img", "out");
        Fails(1, "have no parent", "rebase", "-b", "", "data.img");
        Fails(1, "keep no snapshots", "snapshot", "-c", "x", "data.img");
        Fails(63, "no check", "check", "data.img");
        Assert.Equal(["data.img"], Directory.GetFileSystemEntries(_folder).Select(System.IO.Path.GetFileName));
    }

    [Fact]
    public void An_interrupted_conversion_leaves_nothing()
    {
        MakeData("data.img", 8 << 20);
        using Process process = Start(Program, ["image", "convert", "-p", "-r", "1M", "data.img", "out.img"]);
        Assert.NotEqual(-1, process.StandardOutput.Read()); // it has begun
        Run("kill", ["-TERM", process.Id.ToString()]); // SIGINT is ignored by what a shell starts in the background
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.Equal((143, "lodge: interrupted\n"), (process.ExitCode, error));
        Assert.False(File.Exists(Path("out.img")));
    }

    [Fact]
    public void Encrypted_images_take_their_passphrase_from_a_file_or_the_environment()
    {
        MakeData("data.img", 1 << 20);
        File.WriteAllText(Path("pass"), "open sesame\n");
        File.WriteAllText(Path("exact"), "open sesame");
        Lodge("convert", "-O", "luks", "--target-secret", "pass", "-o", "iter-time=10", "data.img", "a.luks");
        Lodge("compare", "--object", "secret,id=k,file=exact", "--image-opts", "driver=luks,file.filename=a.luks,key-secret=k", "driver=raw,file.filename=data.img");
        Lodge("convert", "-f", "luks", "--secret", "pass", "a.luks", "back.img");
        Assert.Equal(File.ReadAllBytes(Path("data.img")), File.ReadAllBytes(Path("back.img")));
        Fails(1, "passphrase", "convert", "-f", "luks", "a.luks", "no.img");
    }

    [Fact]
    public void Chains_are_made_committed_and_rebased()
    {
        MakeData("data.img", 4 << 20);
        Lodge("convert", "-O", "qcow2", "data.img", "base.qcow2");
        Lodge("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2");
        Run("qemu-io", ["-c", "write -P 77 1M 300k", "top.qcow2"]);
        Lodge("convert", "top.qcow2", "expected.img");
        JsonArray chain = Json(Lodge("info", "--json", "--backing-chain", "top.qcow2")).AsArray();
        JsonArray theirs = Json(Qemu("info", "--output=json", "--backing-chain", "top.qcow2")).AsArray();
        Assert.Equal(["top.qcow2", "base.qcow2"], chain.Select(link => System.IO.Path.GetFileName(link!["filename"]!.GetValue<string>())));
        foreach (string field in new[] { "backing-filename", "full-backing-filename", "backing-filename-format" })
        {
            Assert.Equal(theirs[0]![field]!.GetValue<string>(), chain[0]![field]!.GetValue<string>());
        }
        Assert.Equal(Qemu("map", "top.qcow2").Count(letter => letter == '\n'), Lodge("map", "top.qcow2").Count(letter => letter == '\n'));

        Qemu("convert", "-O", "qcow2", "data.img", "moved.qcow2");
        Run("qemu-io", ["-c", "write -P 5 2M 64k", "moved.qcow2"]);
        Lodge("rebase", "-b", "moved.qcow2", "-F", "qcow2", "top.qcow2");
        Qemu("compare", "expected.img", "top.qcow2");
        Qemu("check", "top.qcow2");
        Lodge("rebase", "-b", "", "top.qcow2");
        Assert.Null(Json(Qemu("info", "--output=json", "top.qcow2"))["backing-filename"]);
        Qemu("compare", "expected.img", "top.qcow2");

        Lodge("convert", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", "top.qcow2", "small.qcow2");
        Qemu("compare", "expected.img", "small.qcow2");
        Lodge("commit", "small.qcow2");
        Qemu("compare", "expected.img", "base.qcow2");
        Qemu("compare", "expected.img", "small.qcow2");
        Fails(1, "no parent to commit to", "commit", "base.qcow2");
        Directory.CreateDirectory(Path("elsewhere"));
        File.Move(Path("base.qcow2"), Path("elsewhere/base.qcow2"));
        Lodge("rebase", "-u", "-b", Path("elsewhere/base.qcow2"), "-F", "qcow2", "small.qcow2");
        Lodge("compare", "small.qcow2", "expected.img"); // below the image's own folder
        File.Move(Path("small.qcow2"), Path("elsewhere/small.qcow2"));
        Lodge("rebase", "-u", "-b", "../moved.qcow2", "-F", "qcow2", "elsewhere/small.qcow2");
        Fails(1, "--allow", "convert", "elsewhere/small.qcow2", "out.img");
        Lodge("convert", "--allow", _folder, "elsewhere/small.qcow2", "out.img");
    }

    [Fact]
    public void Checks_end_with_qemu_imgs_statuses()
    {
        Qemu("create", "-f", "qcow2", "good.qcow2", "4M");
        Assert.Equal(0, Run(Program, ["image", "check", "good.qcow2"]).Status);
        File.Copy(Path("good.qcow2"), Path("leak.qcow2"));
        Patch("leak.qcow2", 0x20000 + (2 * 5), [0, 1], 6 << 16);
        File.Copy(Path("good.qcow2"), Path("bad.qcow2"));
        Patch("bad.qcow2", 0x20000 + (2 * 3), [0, 0], 0);
        foreach (string name in new[] { "leak.qcow2", "bad.qcow2" })
        {
            int status = Run("qemu-img", ["check", name]).Status;
            Assert.True(status is 2 or 3);
            (int ours, string output, _) = Run(Program, ["image", "check", "--output=json", name]);
            Assert.Equal(status, ours);
            JsonNode theirs = Json(Run("qemu-img", ["check", "--output=json", name]).Output);
            foreach (string field in new[] { "leaks", "corruptions", "check-errors", "total-clusters", "format", "filename" })
            {
                Assert.Equal(theirs[field]?.ToJsonString(), Json(output)[field]?.ToJsonString());
            }
            Lodge("check", "-r", name == "leak.qcow2" ? "leaks" : "all", name);
            Qemu("check", name);
        }
    }

    [Fact]
    public void Snapshots_are_kept_and_listed()
    {
        MakeData("data.img", 1 << 20);
        Lodge("convert", "-O", "qcow2", "data.img", "disk.qcow2");
        Lodge("snapshot", "-c", "before", "disk.qcow2");
        Run("qemu-io", ["-c", "write -P 1 0 1M", "disk.qcow2"]);
        Assert.Contains("before", Qemu("snapshot", "-l", "disk.qcow2"), StringComparison.Ordinal);
        Assert.Contains("before", Lodge("snapshot", "-l", "disk.qcow2"), StringComparison.Ordinal);
        JsonNode theirs = Json(Qemu("info", "--output=json", "disk.qcow2"))["snapshots"]![0]!;
        JsonNode ours = Json(Lodge("info", "--json", "disk.qcow2"))["snapshots"]![0]!;
        foreach (string field in new[] { "id", "name", "vm-state-size", "date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec" })
        {
            Assert.Equal(theirs[field]!.ToJsonString(), ours[field]!.ToJsonString());
        }
        Lodge("convert", "-l", "before", "disk.qcow2", "old.img");
        Qemu("compare", "data.img", "old.img");
        Lodge("snapshot", "-a", "before", "disk.qcow2");
        Qemu("compare", "data.img", "disk.qcow2");
        Lodge("snapshot", "-d", "before", "disk.qcow2");
        Qemu("check", "disk.qcow2");
        Fails(1, "", "snapshot", "-d", "before", "disk.qcow2");
    }

    [Fact]
    public void Compressed_images_are_smaller_and_the_same()
    {
        byte[] text = new byte[8 << 20];
        for (int index = 0; index < text.Length; index++)
        {
            text[index] = (byte)"the quick brown fox "[index % 20];
        }
        File.WriteAllBytes(Path("data.img"), text);
        foreach (string type in new[] { "zlib", "zstd" })
        {
            Lodge("convert", "-c", "-O", "qcow2", "-o", $"compression_type={type}", "data.img", $"{type}.qcow2");
            Qemu("check", $"{type}.qcow2");
            Qemu("compare", "data.img", $"{type}.qcow2");
            Assert.True(new FileInfo(Path($"{type}.qcow2")).Length < 2 << 20);
        }
    }

    private static string Program { get; } = System.IO.Path.Combine(AppContext.BaseDirectory, "lodge");

    private static (int, string) Both((int Status, string Output, string Error) result) => (result.Status, result.Output);

    private static JsonNode Json(string text) => JsonNode.Parse(text) ?? throw new JsonException(text);

    private string Path(string name) => System.IO.Path.Combine(_folder, name);

    private string Lodge(params string[] arguments)
    {
        (int status, string output, string error) = Run(Program, ["image", .. arguments]);
        Assert.True(status == 0, $"lodge image {string.Join(' ', arguments)} ended with {status}: {error}");
        return output;
    }

    private string Qemu(params string[] arguments)
    {
        (int status, string output, string error) = Run("qemu-img", arguments);
        Assert.True(status == 0, $"qemu-img {string.Join(' ', arguments)} ended with {status}: {output}{error}");
        return output;
    }

    private void Fails(int status, string message, params string[] arguments)
    {
        (int ended, string output, string error) = Run(Program, ["image", .. arguments]);
        Assert.Equal((status, ""), (ended, output));
        Assert.StartsWith("lodge: ", error, StringComparison.Ordinal);
        Assert.Contains(message, error, StringComparison.Ordinal);
        Assert.Equal(1, error.Count(letter => letter == '\n'));
    }

    private (int Status, string Output, string Error) Run(string program, string[] arguments)
    {
        using Process process = Start(program, arguments);
        process.StandardInput.Close();
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, error.Result);
    }

    private Process Start(string program, string[] arguments)
    {
        try
        {
            return Process.Start(new ProcessStartInfo(program, arguments)
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
                WorkingDirectory = _folder,
            })!;
        }
        catch (System.ComponentModel.Win32Exception) when (program.StartsWith("qemu-", StringComparison.Ordinal))
        {
            Assert.Skip($"{program} is missing: install the package qemu-utils");
            throw;
        }
    }

    private void MakeData(string name, int length)
    {
        Random random = new(length);
        using FileStream file = File.Create(Path(name));
        file.SetLength(length);
        byte[] piece = new byte[300_000];
        for (int count = 0; count < 4; count++)
        {
            random.NextBytes(piece);
            file.Position = random.Next(0, (length - piece.Length) / 4096) * 4096L;
            file.Write(piece);
        }
    }

    private void Patch(string name, int offset, byte[] bytes, long grow)
    {
        using FileStream file = File.OpenWrite(Path(name));
        if (grow > file.Length)
        {
            file.SetLength(grow);
        }
        file.Position = offset;
        file.Write(bytes);
    }
}
