using Xunit;

namespace Lodge.Engine.Translation.Tests;

/// <summary>The guest that is run once so that the next one finds everything ready.</summary>
public sealed class FirstGuestTests
{
    [Fact]
    public void ItRunsTranslatedCodeAndEnds()
    {
        (long translated, long faults) = FirstGuest.Run();
        Assert.InRange(translated, 5, 15);
        Assert.Equal(1, faults);
    }
}
