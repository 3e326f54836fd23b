using System.Collections.Concurrent;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Nbd;

namespace Lodge.Storage.Images;

/// <summary>Opens what lies behind an address such as <c>nbd://host/export</c> in the place of a file.</summary>
/// <param name="address">The whole address.</param>
/// <param name="options">How it is opened.</param>
/// <param name="cancellation">Ends the wait.</param>
/// <exception cref="DiskException">The message names the address.</exception>
public delegate ValueTask<IStorageFile> AddressOpener(string address, HostFileOptions options, CancellationToken cancellation);

/// <summary>The kinds of addresses that an image's name may be besides a path, by their scheme (what stands before <c>://</c>).</summary>
public static class DiskAddresses
{
    private static readonly ConcurrentDictionary<string, AddressOpener> Openers =
        new(NbdAddress.Schemes.Select(scheme => KeyValuePair.Create<string, AddressOpener>(scheme, NbdDisk.OpenAsync)), StringComparer.Ordinal);

    /// <summary>The schemes that are known.</summary>
    public static IReadOnlyCollection<string> Schemes => [.. Openers.Keys.Order(StringComparer.Ordinal)];

    /// <summary>Adds a scheme, such as <c>nbd</c> or <c>nbd+unix</c>; a later one with the same name takes its place.</summary>
    public static void Register(string scheme, AddressOpener opener) => Openers[scheme] = opener;

    /// <summary>Whether a name is an address (letters, digits, + and - before <c>://</c>) rather than a path.</summary>
    public static bool IsAddress(string name) => Scheme(name) is not null;

    /// <summary>Opens an address.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Unsupported"/>: nobody knows the scheme; or what the opener says.</exception>
    public static ValueTask<IStorageFile> OpenAsync(string address, HostFileOptions options, CancellationToken cancellation = default) =>
        Scheme(address) is { } scheme && Openers.TryGetValue(scheme, out var opener)
            ? opener(address, options, cancellation)
            : throw new DiskException(DiskError.Unsupported, $"{address}: addresses of this kind cannot be opened; {(Openers.IsEmpty ? "only paths can" : "those that can begin with " + string.Join(", ", Schemes.Select(known => known + "://")))}");

    private static string? Scheme(string name)
    {
        var end = name.IndexOf("://", StringComparison.Ordinal);
        return end > 0 && name.AsSpan(0, end).IndexOfAnyExcept("abcdefghijklmnopqrstuvwxyz0123456789+-") < 0 ? name[..end] : null;
    }
}
