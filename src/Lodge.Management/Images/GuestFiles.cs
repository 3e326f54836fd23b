using System.Text;

namespace Lodge.Management.Images;

/// <summary>A file that Lodge puts into a guest.</summary>
/// <param name="Path">Path without the leading slash.</param>
/// <param name="Contents">What is in it: ASCII text that ends with a line end.</param>
/// <param name="Executable">Whether it is a program.</param>
internal sealed record GuestFile(string Path, string Contents, bool Executable);

/// <summary>The files that Lodge puts into a guest, by a built image or by a cloud-init seed.</summary>
internal static class GuestFiles
{
    /// <summary>The service that runs the command of <c>lodge run IMAGE -- CMD</c>.</summary>
    public const string CommandService = "lodge-command.service";

    private const string Autologin = "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 - $TERM\n";

    /// <summary>The command service.</summary>
    public static IReadOnlyList<GuestFile> Command { get; } =
        [Embedded("etc/systemd/system/" + CommandService, false), Embedded("usr/lib/lodge/command", true)];

    /// <summary>Root's login without a password on the machine's own consoles, which only whoever runs the machine has.</summary>
    public static IReadOnlyList<GuestFile> Login { get; } =
    [
        new("etc/systemd/system/serial-getty@hvc0.service.d/lodge.conf", Autologin, false),
        new("etc/systemd/system/serial-getty@ttyS0.service.d/lodge.conf", Autologin, false),
    ];

    /// <summary>DHCP on all network cards, for an image without another program that configures them.</summary>
    public static IReadOnlyList<GuestFile> Network { get; } = [Embedded("etc/systemd/network/80-lodge.network", false)];

    private static GuestFile Embedded(string path, bool executable)
    {
        using StreamReader reader = new(typeof(GuestFiles).Assembly.GetManifestResourceStream(path)!, Encoding.ASCII);
        return new GuestFile(path, reader.ReadToEnd(), executable);
    }
}
