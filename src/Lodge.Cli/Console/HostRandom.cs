using System.Runtime.InteropServices;

namespace Lodge.Cli.Console;

/// <summary>Random bytes from the host's kernel, getrandom(2). .NET's own generator loads OpenSSL first, which takes longer than all else that a short run does with it.</summary>
internal static unsafe partial class HostRandom
{
    /// <summary>Random bytes, at most 256.</summary>
    public static byte[] Bytes(int count)
    {
        byte[] bytes = new byte[count];
        fixed (byte* first = bytes)
        {
            // Up to 256 bytes come whole and are not interrupted once the kernel's generator is ready.
            if (getrandom(first, (nuint)count, 0) != count)
            {
                System.Security.Cryptography.RandomNumberGenerator.Fill(bytes);
            }
        }
        return bytes;
    }

    [LibraryImport("libc")]
    private static partial nint getrandom(byte* buffer, nuint length, uint flags);
}
