using System.Runtime.InteropServices;

namespace Lodge.Management.Host.Inventory;

/// <summary>A package of Debian that Lodge uses when it is there.</summary>
/// <param name="Name">Its name.</param>
/// <param name="For">What it is for.</param>
/// <param name="Installed">Whether what is needed of it is there.</param>
public sealed record HostPackage(string Name, string For, bool Installed);

/// <summary>The programs and libraries that Lodge finds at run time. None is needed for a machine with a kernel of your own.</summary>
public static class PackageInventory
{
    // One of the files of a package is enough: programs, or libraries (with .so).
    private static readonly (string Package, string For, string[] AnyOf)[] s_packages =
    [
        ("libslirp0", "a network without root (--net user)", ["libslirp.so.0"]),
        ("apt", "the default system", ["apt-get"]),
        ("zstd", "the default system with Ubuntu's kernel", ["zstd"]),
        ("mmdebstrap", "lodge image build, lodge run debian", ["mmdebstrap"]),
        ("e2fsprogs", "lodge image build, kernels of cloud images", ["mke2fs"]),
        ("uidmap", "lodge image build without root", ["newuidmap"]),
        ("gpgv", "signatures of pulled images", ["gpgv"]),
        ("xorriso", "cloud-init seeds", ["xorrisofs", "genisoimage", "mkisofs"]),
        ("iproute2", "lodge network", ["ip"]),
        ("nftables", "lodge network", ["nft"]),
        ("dnsmasq-base", "DHCP and DNS of lodge network", ["dnsmasq"]),
        ("libssl3", "encrypted images, NBD with TLS", ["libssl.so.3", "libssl.so.1.1"]),
        ("libzstd1", "images compressed with zstd", ["libzstd.so.1"]),
    ];

    /// <summary>All, with whether they are there.</summary>
    public static IReadOnlyList<HostPackage> Read() => Read(HostProgram.Exists, HasLibrary);

    /// <summary>The same with other eyes.</summary>
    public static IReadOnlyList<HostPackage> Read(Func<string, bool> hasProgram, Func<string, bool> hasLibrary) =>
        [.. s_packages.Select(p => new HostPackage(p.Package, p.For, p.AnyOf.Any(file => file.Contains(".so", StringComparison.Ordinal) ? hasLibrary(file) : hasProgram(file))))];

    private static bool HasLibrary(string name)
    {
        if (!NativeLibrary.TryLoad(name, out nint handle))
        {
            return false;
        }
        NativeLibrary.Free(handle);
        return true;
    }
}
