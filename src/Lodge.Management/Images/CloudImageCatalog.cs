namespace Lodge.Management.Images;

/// <summary>How a distribution vouches for its images.</summary>
public enum CloudImageSignature
{
    /// <summary>Only by its site's certificate: there is no signature.</summary>
    None,

    /// <summary>A detached OpenPGP signature beside the checksum file.</summary>
    Detached,

    /// <summary>The checksum file is a clear-signed OpenPGP message.</summary>
    Clear,
}

/// <summary>An official cloud image on its distribution's site.</summary>
/// <param name="Name">Name and tag in the store.</param>
/// <param name="Site">Base address, which a mirror replaces.</param>
/// <param name="Path">The image below the site.</param>
/// <param name="Checksums">The file with checksums below the site; lines as sha256sum or BSD tools write them.</param>
/// <param name="Algorithm">SHA256 or SHA512.</param>
/// <param name="Signature">How the checksums are signed.</param>
/// <param name="SignaturePath">The detached signature below the site.</param>
/// <param name="Keyrings">Where the distribution's keys may be on this host.</param>
/// <param name="KeyringPackage">Debian's package that has them, or empty.</param>
public sealed record CloudImage(
    ImageName Name,
    string Site,
    string Path,
    string Checksums,
    string Algorithm,
    CloudImageSignature Signature,
    string SignaturePath,
    IReadOnlyList<string> Keyrings,
    string KeyringPackage);

/// <summary>Where the large distributions keep their cloud images (x86-64). A tag is a release; what stands first for a name is its default.</summary>
public static class CloudImageCatalog
{
    /// <summary>All images.</summary>
    public static IReadOnlyList<CloudImage> All { get; } =
    [
        Debian("trixie", 13), Debian("bookworm", 12), Debian("bullseye", 11),
        Ubuntu("noble", "24.04"), Ubuntu("jammy", "22.04"), Ubuntu("focal", "20.04"),
        Fedora(43, "1.6"), Fedora(42, "1.1"),
        Rhel("almalinux", "https://repo.almalinux.org/almalinux", 10, "{0}/cloud/x86_64/images/", "AlmaLinux-{0}-GenericCloud-latest.x86_64.qcow2"),
        Rhel("almalinux", "https://repo.almalinux.org/almalinux", 9, "{0}/cloud/x86_64/images/", "AlmaLinux-{0}-GenericCloud-latest.x86_64.qcow2"),
        Rhel("rocky", "https://download.rockylinux.org/pub/rocky", 10, "{0}/images/x86_64/", "Rocky-{0}-GenericCloud-Base.latest.x86_64.qcow2"),
        Rhel("rocky", "https://download.rockylinux.org/pub/rocky", 9, "{0}/images/x86_64/", "Rocky-{0}-GenericCloud-Base.latest.x86_64.qcow2"),
        new(
            new ImageName("arch", "latest"), "https://geo.mirror.pkgbuild.com/images", "latest/Arch-Linux-x86_64-cloudimg.qcow2", "latest/Arch-Linux-x86_64-cloudimg.qcow2.SHA256", "SHA256",
            CloudImageSignature.None, "", [], ""),
    ];

    /// <summary>The image of a name; a bare name, whose tag is <see cref="ImageName.Latest"/>, is its default release. Ubuntu's version numbers are tags, too.</summary>
    /// <exception cref="ManagementException">The catalog has none; the message lists what there is.</exception>
    public static CloudImage Find(ImageName name) =>
        All.FirstOrDefault(image => image.Name == name)
        ?? All.FirstOrDefault(image => image.Name.Name == name.Name && (name.Tag == ImageName.Latest || image.Path.Contains($"-{name.Tag}-", StringComparison.Ordinal)))
        ?? throw new ManagementException($"there is no official image '{name}' in the catalog; it has {string.Join(", ", All.Select(image => image.Name))}");

    private static CloudImage Debian(string suite, int version) => new(
        new ImageName("debian", suite), "https://cloud.debian.org/images/cloud", $"{suite}/latest/debian-{version}-genericcloud-amd64.qcow2", $"{suite}/latest/SHA512SUMS", "SHA512",
        CloudImageSignature.None, "", [], "");

    private static CloudImage Ubuntu(string suite, string version) => new(
        new ImageName("ubuntu", suite), "https://cloud-images.ubuntu.com/releases", $"{suite}/release/ubuntu-{version}-server-cloudimg-amd64.img", $"{suite}/release/SHA256SUMS", "SHA256",
        CloudImageSignature.Detached, $"{suite}/release/SHA256SUMS.gpg", ["/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg"], "ubuntu-cloudimage-keyring");

    private static CloudImage Fedora(int version, string compose) => new(
        new ImageName("fedora", $"{version}"), "https://dl.fedoraproject.org/pub/fedora/linux/releases",
        $"{version}/Cloud/x86_64/images/Fedora-Cloud-Base-Generic-{version}-{compose}.x86_64.qcow2", $"{version}/Cloud/x86_64/images/Fedora-Cloud-{version}-{compose}-x86_64-CHECKSUM", "SHA256",
        CloudImageSignature.Clear, "", [$"/usr/share/distribution-gpg-keys/fedora/RPM-GPG-KEY-fedora-{version}-primary"], "distribution-gpg-keys");

    private static CloudImage Rhel(string name, string site, int version, string folder, string file)
    {
        string path = string.Format(System.Globalization.CultureInfo.InvariantCulture, folder + file, version);
        string parent = string.Format(System.Globalization.CultureInfo.InvariantCulture, folder, version);
        bool alma = name == "almalinux";
        return new CloudImage(
            new ImageName(name, $"{version}"), site, path, alma ? parent + "CHECKSUM" : path + ".CHECKSUM", "SHA256",
            alma ? CloudImageSignature.Detached : CloudImageSignature.None, alma ? parent + "CHECKSUM.asc" : "",
            alma ? [$"/usr/share/distribution-gpg-keys/alma/RPM-GPG-KEY-AlmaLinux-{version}"] : [], alma ? "distribution-gpg-keys" : "");
    }
}
