using System.Runtime.InteropServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Encryption;

/// <summary>The host's OpenSSL, which .NET's cryptography loads when it is first used; without it .NET ends the process, so it is looked for before.</summary>
public static class OpenSslLibrary
{
    private static readonly Lazy<bool> Present = new(() =>
        new[] { "libssl.so.3", "libssl.so.1.1", "libssl.so" }.Any(name => NativeLibrary.TryLoad(name, out _)));

    /// <summary>Throws <see cref="DiskError.Unsupported"/> with the package's name where it is missing.</summary>
    public static void Require()
    {
        if (!Present.Value)
        {
            throw new DiskException(DiskError.Unsupported, "encryption needs the library OpenSSL: install the package libssl3");
        }
    }
}
