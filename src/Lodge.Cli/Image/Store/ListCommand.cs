using System.CommandLine;
using System.Text;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Management.Images;

namespace Lodge.Cli.Image.Store;

/// <summary>The verb <c>image list</c>.</summary>
internal static class ListCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("list", "List the images of the local store") { json };
        command.Aliases.Add("ls");
        command.SetAction(parsed => Run(parsed.GetValue(json)));
        return command;
    }

    private static int Run(bool json)
    {
        IReadOnlyList<StoredImage> images = ImageStore.ForUser().List(out IReadOnlyList<string> damaged);
        foreach (string folder in damaged)
        {
            HostFile.Error($"lodge: {folder} holds no usable image; remove the folder");
        }
        if (json)
        {
            Print(JsonSerializer.Serialize([.. images.Select(image => image.Manifest)], ManifestJson.Default.ListImageManifest) + "\n");
            return 0;
        }
        string[][] rows =
        [
            ["IMAGE", "SIZE", "ON DISK", "CREATED", "DESCRIPTION"],
            .. images.Select(image => (string[])
            [
                image.Name.ToString(), Size(image.Manifest.VirtualSize), Size(OnDisk(image)), image.Manifest.Created.ToLocalTime().ToString("yyyy-MM-dd HH:mm"), image.Manifest.Description,
            ]),
        ];
        int[] widths = [.. Enumerable.Range(0, 4).Select(column => rows.Max(row => row[column].Length))];
        StringBuilder text = new();
        foreach (string[] row in rows)
        {
            for (int column = 0; column < 4; column++)
            {
                text.Append(column is 1 or 2 ? row[column].PadLeft(widths[column]) : row[column].PadRight(widths[column])).Append("  ");
            }
            text.AppendLine(row[4]);
        }
        Print(text.ToString());
        return 0;
    }

    private static long OnDisk(StoredImage image)
    {
        Lodge.Storage.Files.HostFile file = Lodge.Storage.Files.HostFile.Open(image.DiskPath, new Lodge.Storage.Files.HostFileOptions(ReadOnly: true, Lock: false));
        long length = file.AllocatedLength;
        file.DisposeAsync().AsTask().GetAwaiter().GetResult();
        return length;
    }

    private static string Size(long bytes) => bytes switch
    {
        >= 1L << 30 => $"{bytes / (double)(1L << 30):0.#} GiB",
        _ => $"{bytes / (double)(1L << 20):0.#} MiB",
    };

    private static void Print(string text) => HostFile.Write(HostFile.StandardOutput, Encoding.UTF8.GetBytes(text));
}
