using Lodge.Management.CloudInit;

namespace Lodge.Cli.Run;

/// <summary>What <c>--cloud-init</c> asked for: no seed, or files of the user's in it.</summary>
/// <param name="Off">No seed, although the image has cloud-init.</param>
/// <param name="UserData">Path of the user data, or null for Lodge's.</param>
/// <param name="MetaData">Path of the meta data, or null for Lodge's.</param>
/// <param name="NetworkConfig">Path of the network configuration, or null for Lodge's.</param>
internal sealed record CloudInitOption(bool Off, string? UserData = null, string? MetaData = null, string? NetworkConfig = null)
{
    /// <summary>Parses <c>off</c>, <c>on</c> or <c>NAME=FILE[,NAME=FILE...]</c>; a comma in a path is written twice.</summary>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static CloudInitOption Parse(string text)
    {
        if (text is "off" or "on")
        {
            return new CloudInitOption(text == "off");
        }
        CloudInitOption option = new(false);
        foreach (string part in OptionWords.Split(text))
        {
            int equals = part.IndexOf('=', StringComparison.Ordinal);
            (string name, string path) = equals < 0 ? (part, "") : (part[..equals], part[(equals + 1)..]);
            if (name is not ("user-data" or "meta-data" or "network-config"))
            {
                throw new FormatException($"'{name}' of --cloud-init is not known; give user-data=FILE, meta-data=FILE, network-config=FILE, or on or off");
            }
            if (path.Length == 0)
            {
                throw new FormatException($"{name} of --cloud-init has no file; write it as {name}=FILE");
            }
            option = name switch
            {
                "user-data" => option with { UserData = path },
                "meta-data" => option with { MetaData = path },
                _ => option with { NetworkConfig = path },
            };
        }
        return option;
    }

    /// <summary>The seed of a machine.</summary>
    /// <param name="option">What was asked for, or null for the defaults.</param>
    /// <param name="name">Name of the machine.</param>
    /// <param name="installService">Whether the seed brings the command service and the login on the consoles.</param>
    /// <param name="cardAddresses">MAC addresses of its network cards.</param>
    /// <exception cref="LodgeException">A file cannot be read.</exception>
    public static CloudInitSeed Seed(CloudInitOption? option, string name, bool installService, IReadOnlyList<string> cardAddresses) => new()
    {
        MetaData = Read(option?.MetaData) ?? CloudInitSeed.DefaultMetaData(name, SshKeys.OfUser()),
        UserData = Read(option?.UserData) ?? CloudInitSeed.DefaultUserData(),
        VendorData = installService ? CloudInitSeed.CommandService() : [],
        NetworkConfig = Read(option?.NetworkConfig) ?? (cardAddresses.Count == 0 ? null : CloudInitSeed.DefaultNetworkConfig(cardAddresses)),
    };

    /// <summary>Reads the user's files once, so that what is wrong with them is told before an image is built or fetched.</summary>
    /// <exception cref="LodgeException">A file cannot be read.</exception>
    public void RequireFiles()
    {
        Read(UserData);
        Read(MetaData);
        Read(NetworkConfig);
    }

    private static byte[]? Read(string? path)
    {
        if (path is null)
        {
            return null;
        }
        try
        {
            using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 1);
            using MemoryStream contents = new();
            byte[] buffer = new byte[1 << 16];
            for (int count; (count = file.Read(buffer)) != 0;)
            {
                contents.Write(buffer, 0, count);
                if (contents.Length > CloudInitSeed.LargestFile)
                {
                    throw new LodgeException($"'{path}' is too large for a cloud-init seed; {CloudInitSeed.LargestFile >> 20} MiB are possible");
                }
            }
            return contents.ToArray();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"'{path}' cannot be read for the cloud-init seed: {e.Message}");
        }
    }
}
