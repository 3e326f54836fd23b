using Lodge.Cli.Machines;
using Lodge.Management;
using Lodge.Management.Machines;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>What a clone has of the machine that it is a clone of.</summary>
public sealed class CloneDefinitionTests
{
    [Fact]
    public void AddressesOfCardsAreNotCloned()
    {
        MachineDefinition clone = CloneDefinition.Make(Of(("net", ["user,mac=52:54:00:12:34:56,mtu=1400", "lan", "mac,mac=52:54:00:12:34:57", "user,capture=a,,b.pcap"]), ("memory", ["64M"])), "web");
        Assert.Equal(["user,mtu=1400", "lan", "mac", "user,capture=a,,b.pcap"], clone.Options["net"]);
        Assert.Equal(["64M"], clone.Options["memory"]);
    }

    [Fact]
    public void TwoMachinesDoNotWriteToOneDisk()
    {
        string message = Assert.Throws<ManagementException>(() => CloneDefinition.Make(Of(("disk", ["data.qcow2,readonly", "work.img,readonly=off"])), "web")).Message;
        Assert.Contains("'work.img'", message);
        Assert.Contains("lodge edit web", message);
        Assert.Equal(2, CloneDefinition.Make(Of(("disk", ["data.qcow2,readonly", "work.img,readonly=on"]), ("cdrom", ["a.iso"])), "web").Options.Count);
    }

    [Fact]
    public void WhatOnlyOneCanHaveIsTold() => Assert.Equal(
        ["--publish 8080:80", "--net tap=tap0", "--net user,publish=2222:22", "--vsock /tmp/s", "--capture all.pcap"],
        CloneDefinition.Exclusive(Of(("publish", ["8080:80", "0:22"]), ("net", ["lan", "tap=tap0", "user,publish=2222:22", "user,publish=0:23"]), ("vsock", ["/tmp/s"]), ("capture", ["all.pcap"]), ("memory", ["64M"]))));

    [Fact]
    public void AClonesGuestIsToldItsMachineId()
    {
        MachineDefinition definition = Of(("memory", ["64M"]));
        Assert.Null(DefinitionOptions.Read(definition, new MachineFolder("/tmp/web")).MachineId);
        Assert.Equal(definition.Id, DefinitionOptions.Read(definition with { ClonedFrom = Guid.NewGuid() }, new MachineFolder("/tmp/web")).MachineId);
    }

    private static MachineDefinition Of(params (string Name, string[] Values)[] options) => new()
    {
        Id = Guid.NewGuid(),
        Created = DateTimeOffset.Now,
        Directory = "/",
        Options = options.ToDictionary(option => option.Name, option => (IReadOnlyList<string>)option.Values),
    };
}
