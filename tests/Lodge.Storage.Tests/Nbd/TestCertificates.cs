using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>Makes an authority and certificates in files with QEMU's names.</summary>
internal static class TestCertificates
{
    public static void Write(string folder)
    {
        Directory.CreateDirectory(folder);
        var now = DateTimeOffset.UtcNow;
        using var authorityKey = RSA.Create(2048);
        var request = new CertificateRequest("CN=authority", authorityKey, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign | X509KeyUsageFlags.CrlSign, true));
        using var authority = request.CreateSelfSigned(now.AddDays(-1), now.AddDays(1));
        File.WriteAllText(Path.Combine(folder, "ca-cert.pem"), authority.ExportCertificatePem());
        foreach (var side in new[] { "server", "client" })
        {
            using var key = RSA.Create(2048);
            var one = new CertificateRequest($"CN={(side == "server" ? "localhost" : "client")}", key, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1);
            var names = new SubjectAlternativeNameBuilder();
            names.AddDnsName("localhost");
            names.AddIpAddress(IPAddress.Loopback);
            one.CertificateExtensions.Add(names.Build());
            one.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature | X509KeyUsageFlags.KeyEncipherment, true));
            one.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid(side == "server" ? "1.3.6.1.5.5.7.3.1" : "1.3.6.1.5.5.7.3.2")], false));
            using var certificate = one.Create(authority, now.AddDays(-1), now.AddHours(20), RandomNumberGenerator.GetBytes(8));
            File.WriteAllText(Path.Combine(folder, $"{side}-cert.pem"), certificate.ExportCertificatePem());
            File.WriteAllText(Path.Combine(folder, $"{side}-key.pem"), key.ExportPkcs8PrivateKeyPem());
        }
    }

    public static string WriteKeys(string folder, params string[] users)
    {
        Directory.CreateDirectory(folder);
        var path = Path.Combine(folder, "keys.psk");
        File.WriteAllLines(path, users.Select(user => $"{user}:{Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(32))}"));
        return path;
    }
}
