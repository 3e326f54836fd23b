using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Encryption;

/// <summary>How a LUKS volume is made, with qemu-img's names and defaults.</summary>
public sealed record LuksOptions
{
    /// <summary><c>aes-128</c>, <c>aes-192</c> or <c>aes-256</c>.</summary>
    public string CipherAlg { get; init; } = "aes-256";

    /// <summary><c>xts</c>, <c>cbc</c> or <c>ecb</c>.</summary>
    public string CipherMode { get; init; } = "xts";

    /// <summary><c>plain64</c>, <c>plain</c> or <c>essiv</c>.</summary>
    public string IvGenAlg { get; init; } = "plain64";

    /// <summary>Hash of <c>essiv</c>, or null for sha256.</summary>
    public string? IvGenHashAlg { get; init; }

    /// <summary>Hash for the derivation of keys.</summary>
    public string HashAlg { get; init; } = "sha256";

    /// <summary>Milliseconds that trying a passphrase shall take.</summary>
    public int IterTime { get; init; } = 2000;

    /// <summary>Bytes of the master key.</summary>
    internal int KeyBytes => int.Parse(CipherAlg.AsSpan(4)) / 8 * (CipherMode == "xts" ? 2 : 1);

    /// <summary>cipher-mode as the header has it.</summary>
    internal string HeaderMode => IvGenAlg == "essiv" ? $"{CipherMode}-essiv:{IvGenHashAlg ?? "sha256"}" : $"{CipherMode}-{IvGenAlg}";

    /// <summary>The options of a format that can be encrypted.</summary>
    /// <param name="prefix">Nothing, or <c>encrypt.</c> for qcow2.</param>
    public static IReadOnlyList<FormatOption> Describe(string prefix = "") =>
    [
        new(prefix + "cipher-alg", FormatOptionKind.Choice, "Name of the cipher", "aes-256") { Choices = ["aes-128", "aes-192", "aes-256"] },
        new(prefix + "cipher-mode", FormatOptionKind.Choice, "Mode of the cipher", "xts") { Choices = ["xts", "cbc", "ecb"] },
        new(prefix + "ivgen-alg", FormatOptionKind.Choice, "How initialization vectors are made", "plain64") { Choices = ["plain64", "plain", "essiv"] },
        new(prefix + "ivgen-hash-alg", FormatOptionKind.Choice, "Hash of the ivgen-alg essiv", "sha256") { Choices = ["sha256", "md5"] },
        new(prefix + "hash-alg", FormatOptionKind.Choice, "Hash for the derivation of keys", "sha256") { Choices = NamedHash.Names },
        new(prefix + "iter-time", FormatOptionKind.Number, "Milliseconds that trying a passphrase takes", "2000"),
    ];

    /// <summary>Takes what was given.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>.</exception>
    public static LuksOptions From(FormatOptions options, string prefix = "")
    {
        var standard = new LuksOptions();
        var time = options.Number(prefix + "iter-time", standard.IterTime);
        if (time is < 1 or > 600_000)
        {
            throw new DiskException(DiskError.InvalidOption, $"option '{prefix}iter-time' has the value '{time}'; give milliseconds, 1 to 600000");
        }

        var ivGenAlg = options.Text(prefix + "ivgen-alg") ?? standard.IvGenAlg;
        if (options.Text(prefix + "ivgen-hash-alg") is not null && ivGenAlg != "essiv")
        {
            throw new DiskException(DiskError.InvalidOption, $"option '{prefix}ivgen-hash-alg' is only for {prefix}ivgen-alg=essiv");
        }

        return new LuksOptions
        {
            CipherAlg = options.Text(prefix + "cipher-alg") ?? standard.CipherAlg,
            CipherMode = options.Text(prefix + "cipher-mode") ?? standard.CipherMode,
            IvGenAlg = ivGenAlg,
            IvGenHashAlg = options.Text(prefix + "ivgen-hash-alg"),
            HashAlg = options.Text(prefix + "hash-alg") ?? standard.HashAlg,
            IterTime = (int)time,
        };
    }
}
