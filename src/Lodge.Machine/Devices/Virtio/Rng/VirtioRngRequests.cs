using System.Security.Cryptography;
using Lodge.Machine.Virtio;

namespace Lodge.Machine.Devices.Virtio.Rng;

/// <summary>The one request of an entropy device (virtio 1.2, 5.4): a device-writable buffer to fill.</summary>
internal static class VirtioRngRequests
{
    /// <summary>Index of requestq.</summary>
    public const int RequestQueue = 0;

    /// <summary>Descriptors of requestq.</summary>
    public const ushort QueueSize = 64;

    /// <summary>Fills the chain with at most <paramref name="maximum"/> bytes from the host's generator; returns how many.</summary>
    public static int Fill(DescriptorChain chain, int maximum)
    {
        Span<byte> buffer = stackalloc byte[256];
        int left = (int)Math.Min(chain.WritableLength, (uint)maximum);
        int done = 0;
        while (left > 0)
        {
            Span<byte> step = buffer[..Math.Min(left, buffer.Length)];
            RandomNumberGenerator.Fill(step);
            done += chain.Write(step);
            left -= step.Length;
        }
        return done;
    }
}
