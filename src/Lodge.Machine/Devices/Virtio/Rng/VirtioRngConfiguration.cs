namespace Lodge.Machine.Devices.Virtio.Rng;

/// <summary>How an entropy device is set up.</summary>
/// <param name="Name">Name of the device.</param>
/// <param name="MaximumRequest">Bytes given at most for one request, 1 to 65536; a driver that wants more asks again.</param>
public sealed record VirtioRngConfiguration(string Name = "rng0", int MaximumRequest = 4096);
