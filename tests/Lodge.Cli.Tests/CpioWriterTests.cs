using System.Text;
using Lodge.Cli.DefaultSystem;
using Xunit;

namespace Lodge.Cli.Tests;

public class CpioWriterTests
{
    private static byte[] Sample()
    {
        using MemoryStream archive = new();
        CpioWriter cpio = new(archive);
        cpio.Directory("bin");
        cpio.Directory("root", 0x1C0);
        cpio.File("bin/tool", "#!/bin/sh\n"u8, executable: true);
        cpio.File("odd", [1, 2, 3]);
        cpio.File("empty", []);
        cpio.Link("bin/link", "tool");
        cpio.Finish();
        return archive.ToArray();
    }

    [Fact]
    public void Entries_are_aligned_and_the_archive_is_padded()
    {
        byte[] archive = Sample();
        Assert.Equal(0, archive.Length % 512);
        int at = 0;
        List<(string Name, uint Mode, string Contents)> entries = [];
        while (true)
        {
            Assert.Equal(0, at % 4);
            string header = Encoding.ASCII.GetString(archive, at, 110);
            Assert.StartsWith("070701", header, StringComparison.Ordinal);
            uint Field(int i) => Convert.ToUInt32(header.Substring(6 + (i * 8), 8), 16);
            int nameSize = (int)Field(11);
            string name = Encoding.ASCII.GetString(archive, at + 110, nameSize - 1);
            Assert.Equal(0, archive[at + 110 + nameSize - 1]);
            int data = (at + 110 + nameSize + 3) & ~3;
            int size = (int)Field(6);
            if (name == "TRAILER!!!")
            {
                break;
            }
            entries.Add((name, Field(1), Encoding.ASCII.GetString(archive, data, size)));
            at = (data + size + 3) & ~3;
        }
        Assert.Equal(
            [
                ("bin", 0x41EDu, ""), ("root", 0x41C0u, ""), ("bin/tool", 0x81EDu, "#!/bin/sh\n"), ("odd", 0x81A4u, "\x01\x02\x03"),
                ("empty", 0x81A4u, ""), ("bin/link", 0xA1FFu, "tool"),
            ],
            entries);
    }

    [Fact]
    public void Cpio_reads_it()
    {
        Assert.SkipUnless(HostProgram.Exists("cpio"), "cpio is not installed");
        string list = "";
        (int status, _) = HostProgram.Run("cpio", ["-t", "--quiet"], null, s => list = new StreamReader(s).ReadToEnd(), Sample());
        Assert.Equal(0, status);
        Assert.Equal("bin\nroot\nbin/tool\nodd\nempty\nbin/link\n", list);
    }

    [Fact]
    public void Words_of_a_command_keep_every_byte()
    {
        byte[] all = [.. Enumerable.Range(1, 255).Select(i => (byte)i)];
        byte[] text = CommandImage.RunText(CommandMode.Pipe, "box", "dumb", null, "mark", ["printf"u8.ToArray(), "%s|"u8.ToArray(), all, "it's"u8.ToArray(), [], "$(id) `id` \\"u8.ToArray()]);
        Assert.True(CommandImage.Build(text).AsSpan().IndexOf(text) > 0);
        byte[] script = [.. text, .. "lodge_command\n"u8];
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, script);
            using MemoryStream output = new();
            (int status, string error) = HostProgram.Run("sh", [path], null, s => s.CopyTo(output));
            Assert.Equal("", error);
            Assert.Equal(0, status);
            Assert.Equal([.. all, .. "|it's||$(id) `id` \\|"u8], output.ToArray());
        }
        finally
        {
            File.Delete(path);
        }
    }
}
