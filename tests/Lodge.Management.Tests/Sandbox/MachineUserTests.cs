using Lodge.Management.Sandbox;
using Xunit;

namespace Lodge.Management.Tests.Sandbox;

public sealed class MachineUserTests
{
    [Fact]
    public void AMachineHasTheSameUserUnlessItIsTaken()
    {
        Guid id = new("0badcafe-0000-4000-8000-000000000001");
        uint user = MachineUser.Choose(id, new HashSet<uint>());
        Assert.True(MachineUser.IsOne(user));
        Assert.Equal(user, MachineUser.Choose(id, new HashSet<uint> { user + 1 }));
        Assert.Equal(user + 2, MachineUser.Choose(id, new HashSet<uint> { user, user + 1 }));
        Assert.False(MachineUser.IsOne(0));
        Assert.False(MachineUser.IsOne(1000));
        Assert.False(MachineUser.IsOne(MachineUser.First + MachineUser.Count));
    }

    [Theory]
    [InlineData("         0          0 4294967295\n", true)]
    [InlineData("         0       1000          1\n", false)]
    [InlineData("         0       1000          1\n         1     100000      65536\n", false)]
    [InlineData("1879048192 1879048192 134217728\n", true)]
    [InlineData("", false)]
    public void ANamespaceOfUsersMayLackThem(string map, bool has)
    {
        string file = Path.GetTempFileName();
        try
        {
            File.WriteAllText(file, map);
            Assert.Equal(has, MachineUser.Maps(file));
        }
        finally
        {
            File.Delete(file);
        }
    }
}
