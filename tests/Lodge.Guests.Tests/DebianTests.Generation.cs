using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>The virtual machine generation identifier: Debian 13's kernel knows it (CONFIG_VMGENID), Debian 12's does not.</summary>
public sealed partial class DebianTests
{
    [Fact]
    public void ANewGenerationReseedsTheGuestsRandomNumbers()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        using SerialGuest guest = new(kernel: Path.Combine(image.Folder, "lodge", "images", "debian", "trixie", "vmlinuz"));
        GenerationGuest.Reseeds(guest);
    }
}

/// <summary>What a guest whose kernel knows the generation identifier does.</summary>
internal static class GenerationGuest
{
    public static void Reseeds(SerialGuest guest)
    {
        const string Count = "dmesg | grep -c 'crng reseeded due to virtual machine fork'";
        Assert.Equal("0\n", guest.Try(Count).Output);
        guest.Machine.NewGeneration(Guid.NewGuid());
        Assert.Equal("1\n", guest.Wait($"[ $({Count}) = 1 ] && {Count}"));
        guest.Machine.Pause();
        guest.Machine.NewGeneration(Guid.NewGuid());
        guest.Machine.Resume();
        Assert.Equal("2\n", guest.Wait($"[ $({Count}) = 2 ] && {Count}"));
    }
}
