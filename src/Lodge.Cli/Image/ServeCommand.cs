using System.CommandLine;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Nbd;
using Lodge.Storage.Nbd.Tls;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image serve</c>: qemu-nbd's work without a device of the kernel.</summary>
internal static class ServeCommand
{
    private const int DefaultPort = 10809;

    private const string Manual = """

        Without --socket and --bind it listens on 127.0.0.1, port 10809. A line with the address is printed, and the pid file written, when clients can connect. The server
        ends when the last client has left, unless it is persistent, and on SIGINT, SIGTERM or SIGHUP after the requests under way.

        --tls-creds FOLDER holds ca-cert.pem, server-cert.pem and server-key.pem; clients must show a certificate that the authority signed unless --tls-no-verify is given.
        --tls-psk is a file of lines user:hexadecimal-key, or a folder with such a file named keys.psk.

        Examples:
          lodge image serve -f qcow2 disk.qcow2 --socket /run/disk.sock
          lodge image serve --read-only --shared 0 --persistent --bind 0.0.0.0 --tls-creds /etc/pki/nbd disk.qcow2
          lodge image serve --bitmap daily --export-name disk disk.qcow2

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> image = new("FILE");
        Option<string?> format = new("--format") { Description = "The same as -f", HelpName = "FORMAT" };
        Option<string> name = new("--export-name", "-x") { Description = "Name of the export; it is the default export, too [default: empty]", HelpName = "NAME", DefaultValueFactory = _ => "" };
        Option<string> description = new("--description", "-D") { Description = "Text that clients show to people", HelpName = "TEXT", DefaultValueFactory = _ => "" };
        Option<string?> socket = new("--socket", "-k") { Description = "Listen on this unix socket", HelpName = "PATH" };
        Option<string?> bind = new("--bind", "-b") { Description = "Listen on this address [default: 127.0.0.1]", HelpName = "ADDRESS" };
        Option<int> port = new("--port", "-p") { Description = "Listen on this port; 0 takes a free one [default: 10809]", HelpName = "PORT", DefaultValueFactory = _ => DefaultPort };
        Option<int> clients = new("--shared", "-e") { Description = "Most clients at once; 0 is any number [default: 1]", HelpName = "N", DefaultValueFactory = _ => 1 };
        Option<bool> persistent = new("--persistent", "-t") { Description = "Stay when the last client has left" };
        Option<bool> readOnly = new("--read-only", "-r") { Description = "Clients may only read" };
        Option<string?> snapshot = new("--snapshot", "-l") { Description = "Serve this internal snapshot, read-only", HelpName = "NAME" };
        Option<string[]> bitmaps = new("--bitmap", "-B") { Description = "Let clients see this dirty bitmap; repeatable", HelpName = "NAME", Arity = ArgumentArity.OneOrMore };
        Option<bool> depth = new("--allocation-depth", "-A") { Description = "Let clients see which image of the chain holds what" };
        Option<bool> resize = new("--allow-resize") { Description = "Clients may change the size" };
        Option<string?> certificates = new("--tls-creds") { Description = "Want TLS with the certificates in this folder", HelpName = "FOLDER" };
        Option<bool> unverified = new("--tls-no-verify") { Description = "Clients need no certificate" };
        Option<string?> keys = new("--tls-psk") { Description = "Want TLS with the keys in this file", HelpName = "FILE" };
        Option<string?> pidFile = new("--pid-file") { Description = "Write this process's number here when clients can connect", HelpName = "FILE" };
        Option<string?> cache = ImageArguments.Cache("--cache", "image", "writeback");
        Command command = new("serve", "Serve a disk image over NBD")
        {
            image, format, name, description, socket, bind, port, clients, persistent, readOnly, snapshot, bitmaps, depth, resize, certificates, unverified, keys, pidFile, cache,
        };
        shared.AddTo(command);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            string? path = parsed.GetValue(socket);
            string? address = parsed.GetValue(bind);
            if (path is not null && address is not null)
            {
                throw new LodgeException("--socket and --bind exclude each other", ExitStatus.Usage);
            }
            if (parsed.GetValue(certificates) is not null && parsed.GetValue(keys) is not null)
            {
                throw new LodgeException("--tls-creds and --tls-psk exclude each other", ExitStatus.Usage);
            }
            if (parsed.GetValue(clients) < 0)
            {
                throw new LodgeException($"--shared {parsed.GetValue(clients)} is not a number of clients", ExitStatus.Usage);
            }
            EndPoint listen = EndPointOf(path, address, parsed.GetValue(port));
            bool onlyRead = parsed.GetValue(readOnly) || parsed.GetValue(snapshot) is not null;
            using TlsCredentials? tls = parsed.GetValue(certificates) is { } folder ? TlsCredentials.ServerCertificates(folder, !parsed.GetValue(unverified))
                : parsed.GetValue(keys) is { } file ? TlsCredentials.ServerKeys(file)
                : null;
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(image)!, !onlyRead, parsed.GetValue(format), parsed.GetValue(cache));
            await using IImage disk = await ImageOpener.OpenAsync(location.Path, location.Options with { Snapshot = parsed.GetValue(snapshot) }, session.Cancellation).ConfigureAwait(false);
            string[] shown = parsed.GetValue(bitmaps) ?? [];
            CheckBitmaps(disk, shown, location.Path);

            NbdExport export = new(parsed.GetValue(name)!, disk)
            {
                Description = parsed.GetValue(description)!,
                ReadOnly = onlyRead,
                Bitmaps = shown,
                AllocationDepth = parsed.GetValue(depth),
                AllowResize = parsed.GetValue(resize),
            };
            NbdServerOptions options = new() { Shared = parsed.GetValue(clients), Persistent = parsed.GetValue(persistent), Tls = tls };
            await using NbdServer server = new([export], options);
            server.Listen(listen);
            Announce(server.EndPoints[0], export.Name, tls is not null, shared.Quiet(parsed), parsed.GetValue(pidFile));
            try
            {
                await server.RunAsync(session.Cancellation).ConfigureAwait(false);
                if (!disk.IsReadOnly)
                {
                    await disk.FlushAsync(CancellationToken.None).ConfigureAwait(false);
                }
            }
            finally
            {
                if (parsed.GetValue(pidFile) is { } pid)
                {
                    File.Delete(pid);
                }
            }
            return 0;
        }));
        return command;
    }

    private static EndPoint EndPointOf(string? path, string? address, int port)
    {
        if (path is not null)
        {
            try
            {
                return new UnixDomainSocketEndPoint(Path.GetFullPath(path));
            }
            catch (ArgumentOutOfRangeException)
            {
                throw new LodgeException($"the path of the socket is too long: {path}", ExitStatus.Usage);
            }
        }
        if (port is < 0 or > 65535)
        {
            throw new LodgeException($"--port {port} is not a port", ExitStatus.Usage);
        }
        return IPAddress.TryParse(address ?? "127.0.0.1", out IPAddress? parsed)
            ? new IPEndPoint(parsed, port)
            : throw new LodgeException($"'--bind {address}' is not an address; write numbers, as in 127.0.0.1 or ::1", ExitStatus.Usage);
    }

    private static void CheckBitmaps(IImage disk, string[] names, string path)
    {
        foreach (string name in names)
        {
            if (disk is not IDirtyBitmaps having || !having.BitmapNames.Contains(name))
            {
                throw new LodgeException($"{path} has no dirty bitmap '{name}'");
            }
        }
    }

    /// <summary>Tells that clients can connect: the address on standard output, the pid file, and the service manager where one waits (sd_notify(3)).</summary>
    private static void Announce(EndPoint listening, string export, bool tls, bool quiet, string? pidFile)
    {
        string scheme = tls ? "nbds" : "nbd";
        string place = Uri.EscapeDataString(export);
        string uri = listening is IPEndPoint ip ? $"{scheme}://{ip}/{place}" : $"{scheme}+unix:///{place}?socket={listening}";
        if (pidFile is not null)
        {
            File.WriteAllText(pidFile, Environment.ProcessId.ToString(CultureInfo.InvariantCulture) + "\n");
        }
        if (!quiet)
        {
            ImageSession.Print(uri);
        }
        if (Environment.GetEnvironmentVariable("NOTIFY_SOCKET") is { Length: > 1 } manager && manager[0] is ('/' or '@'))
        {
            using Socket notify = new(AddressFamily.Unix, SocketType.Dgram, ProtocolType.Unspecified);
            try
            {
                notify.SendTo(Encoding.ASCII.GetBytes("READY=1\n"), new UnixDomainSocketEndPoint(manager[0] == '@' ? "\0" + manager[1..] : manager));
            }
            catch (SocketException)
            {
                // nobody waits
            }
        }
    }
}
