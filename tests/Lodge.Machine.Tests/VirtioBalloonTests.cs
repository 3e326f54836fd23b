using System.Buffers.Binary;
using Lodge.Engine.Time;
using Lodge.Machine.Devices.Virtio.Balloon;
using Lodge.Machine.Virtio;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class VirtioBalloonTests : IDisposable
{
    private const ulong Statistics = 1 << 1, Poison = 1 << 4, Reporting = 1 << 5;
    private readonly MachineClock _clock = new();
    private readonly TimerService _timers;

    public VirtioBalloonTests()
    {
        _clock.Start();
        _timers = new TimerService(_clock);
    }

    public void Dispose() => _timers.Dispose();

    private VirtioMachine Create(TimeSpan interval = default) =>
        new(memory => new VirtioBalloon(memory, _timers, new VirtioBalloonConfiguration(StatisticsInterval: interval)));

    private static (VirtioGuestDriver Driver, GuestRing[] Rings) SetUp(VirtioMachine machine, ulong features)
    {
        machine.Function.Start();
        var driver = new VirtioGuestDriver(machine);
        Assert.True(driver.Negotiate(features));
        int count = 2 + ((features & Statistics) != 0 ? 1 : 0) + ((features & Reporting) != 0 ? 1 : 0);
        GuestRing[] rings = [.. Enumerable.Range(0, count).Select(index => driver.SetUpQueue(index, 128))];
        driver.DriverOk();
        return (driver, rings);
    }

    private static ulong FillPages(VirtioMachine machine, ulong address, int pages)
    {
        byte[] data = new byte[pages * 4096];
        Array.Fill(data, (byte)0xA5);
        Assert.True(machine.Memory.TryWrite(address, data));
        return address;
    }

    private static bool IsZero(VirtioMachine machine, ulong address, int pages)
    {
        byte[] data = new byte[pages * 4096];
        Assert.True(machine.Memory.TryRead(address, data));
        return !data.AsSpan().ContainsAnyExcept((byte)0);
    }

    [Fact]
    public void InflatedPagesGoBackToTheHost()
    {
        using VirtioMachine machine = Create();
        var balloon = (VirtioBalloon)machine.Device;
        (VirtioGuestDriver driver, GuestRing[] rings) = SetUp(machine, VirtioFeatures.Version1);
        balloon.TargetBytes = 10 * 4096;
        Assert.Equal(10u, BinaryPrimitives.ReadUInt32LittleEndian(driver.DeviceConfig(0, 4)));
        ulong pages = FillPages(machine, driver.Allocate(12 * 4096), 12);
        byte[] numbers = new byte[11 * 4];
        uint first = (uint)(pages >> 12);
        // Ascending, descending, alone, and one outside RAM.
        uint[] list = [first, first + 1, first + 2, first + 8, first + 7, first + 6, first + 5, first + 10, 0xFFFF_FFFF, 0xFFFF_FFFE, first + 11];
        for (int i = 0; i < list.Length; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(numbers.AsSpan(i * 4), list[i]);
        }
        ulong request = driver.Allocate(64);
        machine.Memory.TryWrite(request, numbers);
        rings[0].Add((request, (uint)numbers.Length, false));
        rings[0].TakeUsed();
        Assert.True(IsZero(machine, pages, 3));
        Assert.False(IsZero(machine, pages + (3 * 4096), 1));
        Assert.False(IsZero(machine, pages + (4 * 4096), 1));
        Assert.True(IsZero(machine, pages + (5 * 4096), 4));
        Assert.False(IsZero(machine, pages + (9 * 4096), 1));
        Assert.True(IsZero(machine, pages + (10 * 4096), 2));
        Assert.Equal(9UL * 4096, balloon.DiscardedBytes);
        driver.DeviceConfig(4, [9, 0, 0, 0]);
        Assert.Equal(9UL * 4096, balloon.ActualBytes);
        rings[1].Add((request, 12, false));
        rings[1].TakeUsed();
        Assert.Equal(VirtioStatus.None, driver.Status & VirtioStatus.DeviceNeedsReset);
    }

    [Theory]
    [InlineData(0u, true)]
    [InlineData(0xAAAAAAAAu, false)]
    public void ReportedPagesAreDiscardedUnlessPoisoned(uint poison, bool discarded)
    {
        using VirtioMachine machine = Create();
        // Without statistics the reporting queue moves up to index 2.
        (VirtioGuestDriver driver, GuestRing[] rings) = SetUp(machine, VirtioFeatures.Version1 | Poison | Reporting);
        byte[] value = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(value, poison);
        driver.DeviceConfig(12, value);
        ulong pages = FillPages(machine, driver.Allocate(8 * 4096), 8);
        rings[2].Add((pages, 2 * 4096, true), (pages + (3 * 4096) + 1, 3 * 4096, true));
        rings[2].TakeUsed();
        Assert.Equal(discarded, IsZero(machine, pages, 2));
        Assert.False(IsZero(machine, pages + (2 * 4096), 1));
        Assert.False(IsZero(machine, pages + (3 * 4096), 1));     // only partly reported
        Assert.Equal(discarded, IsZero(machine, pages + (4 * 4096), 2));
        Assert.False(IsZero(machine, pages + (6 * 4096), 1));
    }

    [Fact]
    public void StatisticsArePolled()
    {
        using VirtioMachine machine = Create(TimeSpan.FromMilliseconds(1));
        var balloon = (VirtioBalloon)machine.Device;
        (VirtioGuestDriver driver, GuestRing[] rings) = SetUp(machine, VirtioFeatures.Version1 | Statistics | Reporting);
        ulong buffer = driver.Allocate(64);
        for (uint round = 1; round <= 3; round++)
        {
            byte[] entries = new byte[30];
            BinaryPrimitives.WriteUInt16LittleEndian(entries, 4);
            BinaryPrimitives.WriteUInt64LittleEndian(entries.AsSpan(2), 1000 + round);
            BinaryPrimitives.WriteUInt16LittleEndian(entries.AsSpan(10), 5);
            BinaryPrimitives.WriteUInt64LittleEndian(entries.AsSpan(12), 2000 + round);
            BinaryPrimitives.WriteUInt16LittleEndian(entries.AsSpan(20), 0x7777);
            machine.Memory.TryWrite(buffer, entries);
            rings[2].Add((buffer, 30, false));
            rings[2].TakeUsed();        // asked for again
            Assert.Equal(1000 + round, balloon.Statistics.Free);
            Assert.Equal(2000 + round, balloon.Statistics.Total);
            Assert.Null(balloon.Statistics.SwapIn);
        }
    }

    [Fact]
    public async Task StatisticsAreGivenWhenAskedFor()
    {
        using VirtioMachine machine = Create();
        var balloon = (VirtioBalloon)machine.Device;
        (VirtioGuestDriver driver, GuestRing[] rings) = SetUp(machine, VirtioFeatures.Version1 | Statistics);
        ulong buffer = driver.Allocate(64);
        void Give(ulong free)
        {
            byte[] entry = new byte[10];
            BinaryPrimitives.WriteUInt16LittleEndian(entry, 4);
            BinaryPrimitives.WriteUInt64LittleEndian(entry.AsSpan(2), free);
            machine.Memory.TryWrite(buffer, entry);
            rings[2].Add((buffer, 10, false));
        }
        Give(1); // as the driver does at its start
        Wait.Until(() => balloon.Statistics.Updates == 1);
        Task<BalloonStatistics> first = balloon.GetStatisticsAsync();
        rings[2].TakeUsed();
        Assert.False(first.IsCompleted);
        Give(2);
        Assert.Equal(2UL, (await first.WaitAsync(TimeSpan.FromSeconds(30))).Free);
        using CancellationTokenSource cancellation = new();
        Task<BalloonStatistics> second = balloon.GetStatisticsAsync(cancellation.Token);
        cancellation.Cancel();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => second);
    }

    [Fact]
    public void HeldStatisticsBufferSurvivesSaving()
    {
        using VirtioMachine first = Create();
        (VirtioGuestDriver driver, GuestRing[] rings) = SetUp(first, VirtioFeatures.Version1 | Statistics);
        ulong buffer = driver.Allocate(64);
        rings[2].Add((buffer, 10, false));
        Wait.Until(() => ((VirtioBalloon)first.Device).Statistics.Updates == 1);
        ((VirtioBalloon)first.Device).TargetBytes = 1 << 20;
        first.Function.Stop();
        byte[] state = first.Save();
        byte[] ram = new byte[first.Memory.Size];
        first.Memory.TryRead(0, ram);
        using VirtioMachine second = Create();
        second.Memory.TryWrite(0, ram);
        second.Restore(state);
        var balloon = (VirtioBalloon)second.Device;
        Assert.Equal(1UL << 20, balloon.TargetBytes);
        second.Function.Start();
        balloon.RequestStatistics();
        Wait.Until(() => second.Memory.TryRead(rings[2].Used + 2, out ushort used) && used == 1);
    }

    [Fact]
    public void OversizedRequestLatches()
    {
        using VirtioMachine machine = Create();
        (VirtioGuestDriver driver, GuestRing[] rings) = SetUp(machine, VirtioFeatures.Version1);
        rings[0].Add((0x1000, 1 << 20, false));
        Wait.Until(() => (driver.Status & VirtioStatus.DeviceNeedsReset) != 0);
        Assert.Equal(QueueViolation.BadRequest, machine.Device.LastViolation);
        Assert.Equal(1, rings[0].UsedIndex);       // the head came back all the same
    }
}
