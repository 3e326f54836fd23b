using System.Buffers.Binary;
using System.Text;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Storage.Nvme;
using Lodge.Machine.Tests.Harness;
using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class NvmeTests : IDisposable
{
    private readonly TestDisk _disk = new(4 << 20);
    private NvmeGuest _guest = null!;

    public void Dispose()
    {
        _disk.Hold = false;
        _disk.Release();
        _guest?.Dispose();
    }

    private void SetUp(Func<NvmeConfiguration, NvmeConfiguration>? change = null, bool queues = true, bool msix = true)
    {
        _guest = new NvmeGuest(_disk, change);
        _guest.Controller.Start();
        _guest.Enable(msix: msix);
        if (queues)
        {
            Assert.Equal(0, _guest.CreateQueues(1).Status);
        }
    }

    private static byte[] Pattern(int seed, int length)
    {
        byte[] bytes = new byte[length];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    /// <summary>Pages that do not follow each other, and the list of all but the first at an offset in its page.</summary>
    private (ulong[] Pages, ulong List) Scatter(int count, int listOffset = 0)
    {
        ulong[] pages = new ulong[count];
        ulong area = _guest.Allocate((ulong)count * 8192);
        for (int i = 0; i < count; i++)
        {
            pages[i] = area + ((ulong)(count - 1 - i) * 8192);
        }
        ulong list = _guest.Allocate(4096), second = _guest.Allocate(4096), at = list + (ulong)listOffset;
        for (int i = 1; i < count; i++)
        {
            if (at % 4096 == 4088 && i != count - 1)
            {
                _guest.Memory.TryWrite(at, second);
                at = second;
            }
            _guest.Memory.TryWrite(at, pages[i]);
            at += 8;
        }
        return (pages, list + (ulong)listOffset);
    }

    [Fact]
    public void IdentifyTellsControllerAndNamespace()
    {
        _disk.RequestAlignment = 4096;
        SetUp(queues: false);
        Assert.Equal(0x10400u, _guest.Read(8));
        Assert.Equal(1023u, _guest.Read(0) & 0xFFFF);
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0, _guest.Admin(6, 0, page, 0, 1).Status);
        byte[] controller = _guest.Ram(page, 4096);
        Assert.Equal("LODGE-0042", Encoding.ASCII.GetString(controller, 4, 20).TrimEnd());
        Assert.Equal(8, controller[77]);
        Assert.Equal(1u, BinaryPrimitives.ReadUInt32LittleEndian(controller.AsSpan(516)));
        Assert.Equal(0xC, BinaryPrimitives.ReadUInt16LittleEndian(controller.AsSpan(520)));
        Assert.Equal(0, _guest.Admin(6, 1, page, 0, 0).Status);
        byte[] space = _guest.Ram(page, 4096);
        Assert.Equal(8192UL, BinaryPrimitives.ReadUInt64LittleEndian(space));
        Assert.Equal(9, space[130]);
        Assert.Equal(7, BinaryPrimitives.ReadUInt16LittleEndian(space.AsSpan(64)));
        Assert.Equal(0, _guest.Admin(6, 0, page, 0, 2).Status);
        Assert.Equal([1, 0], _guest.Ram(page, 8).Chunk(4).Select(four => BitConverter.ToInt32(four)));
        Assert.Equal(0, _guest.Admin(6, 1, page, 0, 2).Status);
        Assert.Equal(0, _guest.Ram(page, 1)[0]);
        Assert.Equal(0, _guest.Admin(6, 1, page, 0, 3).Status);
        Assert.Equal([3, 16], _guest.Ram(page, 2));
        Assert.Equal(0x00B, _guest.Admin(6, 2, page, 0, 0).Code);
        Assert.Equal(0x002, _guest.Admin(6, 1, page, 0, 0x55).Code);
    }

    [Theory]
    [InlineData(false, 512)]
    [InlineData(true, 512)]
    [InlineData(true, 4096)]
    public void WritesAndReadsByEveryFormOfPrp(bool asynchronous, int block)
    {
        _disk.Asynchronous = asynchronous;
        SetUp(c => c with { BlockSize = block });
        (ulong[] pages, ulong list) = Scatter(9);
        byte[] pattern = Pattern(1, 9 * 4096);
        for (int i = 0; i < pages.Length; i++)
        {
            _guest.Memory.TryWrite(pages[i], pattern.AsSpan(i * 4096, 4096));
        }
        int blocks = 4096 / block;
        Assert.Equal(0, _guest.Transfer(1, 0, blocks, pages[0]).Status);
        Assert.Equal(0, _guest.Transfer(1, (ulong)blocks, 2 * blocks, pages[1], pages[2]).Status);
        Assert.Equal(0, _guest.Transfer(1, (ulong)(16 * blocks), 9 * blocks, pages[0], list).Status);
        Assert.Equal(pattern.AsSpan(0, 3 * 4096).ToArray(), _disk.Content.AsSpan(0, 3 * 4096).ToArray());
        Assert.Equal(pattern, _disk.Content.AsSpan(16 * 4096, 9 * 4096).ToArray());
        // An offset in the first page moves everything.
        ulong target = _guest.Allocate(16 * 4096);
        ulong targets = _guest.Allocate(4096);
        for (int i = 0; i < 9; i++)
        {
            _guest.Memory.TryWrite(targets + ((ulong)i * 8), target + 4096 + ((ulong)i * 4096));
        }
        Assert.Equal(0, _guest.Transfer(2, (ulong)(16 * blocks), 9 * blocks, target + 100, targets).Status);
        Assert.Equal(pattern, _guest.Ram(target + 100, pattern.Length));
        Assert.Equal(0, _guest.Ram(target + 100 + (ulong)pattern.Length, 1)[0]);
    }

    [Fact]
    public void PrpListsContinueOnAnotherPage()
    {
        SetUp();
        (ulong[] pages, ulong list) = Scatter(40, 4096 - (8 * 8));
        byte[] pattern = Pattern(2, 40 * 4096);
        pattern.CopyTo(_disk.Content, 0);
        Assert.Equal(0, _guest.Transfer(2, 0, 320, pages[0], list).Status);
        for (int i = 0; i < pages.Length; i++)
        {
            Assert.Equal(pattern.AsSpan(i * 4096, 4096).ToArray(), _guest.Ram(pages[i], 4096));
        }
    }

    [Fact]
    public void HostilePrpsAreRefused()
    {
        SetUp();
        ulong page = _guest.Allocate(4096), list = _guest.Allocate(4096);
        ulong end = _guest.Memory.End;
        Assert.Equal(0x13, _guest.Transfer(2, 0, 1, page + 1).Code);
        Assert.Equal(0x13, _guest.Transfer(2, 0, 16, page, page + 8).Code);
        Assert.Equal(0x13, _guest.Transfer(2, 0, 24, page, list + 4).Code);
        _guest.Memory.TryWrite(list, page);
        _guest.Memory.TryWrite(list + 8, page + 16);
        Assert.Equal(0x13, _guest.Transfer(2, 0, 24, page, list).Code);
        Assert.Equal(4, _guest.Transfer(2, 0, 1, end).Code);
        Assert.Equal(4, _guest.Transfer(2, 0, 1, _guest.Bar).Code);
        Assert.Equal(4, _guest.Transfer(2, 0, 1, 0xFEE0_0000).Code);
        Assert.Equal(4, _guest.Transfer(2, 0, 8, ulong.MaxValue - 4095).Code);
        Assert.Equal(4, _guest.Transfer(2, 0, 16, page, end).Code);
        Assert.Equal(4, _guest.Transfer(2, 0, 24, page, end).Code);
        // A list whose last entry points to itself: each page of the list must begin at a page, so the walk gets on and ends.
        for (ulong i = 0; i < 512; i++)
        {
            _guest.Memory.TryWrite(list + (i * 8), list);
        }
        Assert.Equal(0, _guest.Transfer(2, 0, 2048, page, list + 4088).Code);
        _guest.Memory.TryWrite(list + 4088, list + 4088);
        Assert.Equal(0x13, _guest.Transfer(2, 0, 2048, page, list + 4088).Code);
        Assert.Equal(2, _guest.Transfer(2, 0, 2049, page, list).Code);      // beyond MDTS
        Assert.Equal(["r 0 1048576"], _disk.Log);
    }

    [Fact]
    public void CommandsThatMakeNoSenseGetAStatus()
    {
        SetUp();
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0x80, _guest.Transfer(2, 8192, 1, page).Code);
        Assert.Equal(0x80, _guest.Transfer(2, 8191, 2, page).Code);
        Assert.Equal(0x80, _guest.Transfer(1, ulong.MaxValue, 1, page).Code);
        Assert.Equal(0x80, _guest.Transfer(1, 1UL << 55, 8, page).Code);
        Assert.Equal(1, _guest.Run(1, 0x7F, 1, page, 0).Code);
        Assert.Equal(0xB, _guest.Run(1, 2, 2, page, 0).Code);
        Assert.Equal(0xB, _guest.Run(1, 2, uint.MaxValue, page, 0).Code);
        Assert.Equal(2, _guest.Transfer(2, 0, 1, page, 0, 1 << 26).Code);
        Assert.Equal(1, _guest.Admin(0x7F, 0, 0, 0).Code);
        Assert.Empty(_disk.Log);
        byte[] entry = new byte[64];
        entry[0] = 2;
        entry[1] = 0x40;        // SGL
        entry[4] = 1;
        _guest.Submit(1, entry);
        Assert.Equal(2, _guest.Take(1).Code);
        Assert.Equal(0, _guest.Admin(2, 0, page, 0, 1 | (15 << 16)).Status);       // the error log has the last
        Assert.Equal(10UL, BinaryPrimitives.ReadUInt64LittleEndian(_guest.Ram(page, 8)));
    }

    [Fact]
    public void FlushAndForceUnitAccessAndTheWriteCache()
    {
        SetUp();
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0, _guest.Transfer(1, 0, 1, page).Status);
        Assert.Equal(0, _guest.Transfer(1, 0, 1, page, 0, 1 << 30).Status);
        Assert.Equal(0, _guest.Run(1, 0, 1, 0, 0).Status);
        Assert.Equal(0, _guest.Run(1, 0, uint.MaxValue, 0, 0).Status);
        Assert.Equal(1u, _guest.Admin(0xA, 0, 0, 0, 6).Result);
        Assert.Equal(0, _guest.Admin(9, 0, 0, 0, 6, 0).Status);
        Assert.Equal(0u, _guest.Admin(0xA, 0, 0, 0, 6).Result);
        Assert.Equal(0, _guest.Transfer(1, 0, 1, page).Status);
        Assert.Equal(["w 0 512", "w 0 512 fua", "f 0 0", "f 0 0", "w 0 512 fua"], _disk.Log);
    }

    [Fact]
    public void WriteZeroesAndDeallocate()
    {
        SetUp();
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0, _guest.Run(1, 8, 1, 0, 0, 8, 0, 15).Status);
        Assert.Equal(0, _guest.Run(1, 8, 1, 0, 0, 8, 0, 15 | (1 << 25)).Status);
        Span<byte> ranges = stackalloc byte[32];
        ranges.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(ranges[4..], 8);
        BinaryPrimitives.WriteUInt64LittleEndian(ranges[8..], 16);
        BinaryPrimitives.WriteUInt32LittleEndian(ranges[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(ranges[24..], 8191);
        _guest.Memory.TryWrite(page, ranges);
        Assert.Equal(0, _guest.Run(1, 9, 1, page, 0, 1, 4).Status);
        Assert.Equal(["z 4096 8192", "z 4096 8192 unmap", "d 8192 4096", "d 4193792 512"], _disk.Log);
        Assert.Equal(0, _guest.Run(1, 9, 1, page, 0, 1, 0).Status);       // only a hint
        BinaryPrimitives.WriteUInt32LittleEndian(ranges[20..], 2);
        _guest.Memory.TryWrite(page, ranges);
        Assert.Equal(0x80, _guest.Run(1, 9, 1, page, 0, 1, 4).Code);
        Assert.Equal(4, _guest.Run(1, 9, 1, _guest.Memory.End, 0, 1, 4).Code);
        Assert.Equal(4, _disk.Log.Count);
    }

    [Fact]
    public void ReadOnlyDiskIsWriteProtected()
    {
        SetUp(c => c with { ReadOnly = true });
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0, _guest.Admin(6, 1, page, 0, 0).Status);
        Assert.Equal(1, _guest.Ram(page + 99, 1)[0]);
        Assert.Equal(0x182, _guest.Transfer(1, 0, 1, page).Code);
        Assert.Equal(1, _guest.Run(1, 8, 1, 0, 0).Code);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status);
    }

    [Fact]
    public void FailuresOfTheDiskAreTheCommandsOwn()
    {
        SetUp();
        _disk.Fail = (operation, offset) => (operation, offset) switch
        {
            ('r', 512) => DiskError.InputOutput,
            ('w', 512) => DiskError.NoSpace,
            ('w', 1024) => DiskError.Connection,
            _ => null,
        };
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0x281, _guest.Transfer(2, 1, 1, page).Status);
        _disk.Asynchronous = true;
        Assert.Equal(0x81, _guest.Transfer(1, 1, 1, page).Code);
        Assert.Equal(0x280, _guest.Transfer(1, 2, 1, page).Status);
        Assert.Equal(0, _guest.Transfer(2, 2, 1, page).Status);
    }

    [Fact]
    public void QueuesAreCreatedAndDeletedByTheRules()
    {
        SetUp(queues: false);
        ulong page = _guest.Allocate(16384);
        Assert.Equal(0x0002_0002u, _guest.Admin(9, 0, 0, 0, 7, 0x0010_0010).Result);
        Assert.Equal(0x101, _guest.Admin(5, 0, page, 0, 0 | (15 << 16), 3).Code);
        Assert.Equal(0x101, _guest.Admin(5, 0, page, 0, 4 | (15 << 16), 3).Code);
        Assert.Equal(0x102, _guest.Admin(5, 0, page, 0, 1, 3).Code);
        Assert.Equal(0x102, _guest.Admin(5, 0, page, 0, 1 | (1024 << 16), 3).Code);
        Assert.Equal(0x108, _guest.Admin(5, 0, page, 0, 1 | (15 << 16), 3 | (4 << 16)).Code);
        Assert.Equal(2, _guest.Admin(5, 0, page, 0, 1 | (15 << 16), 2).Code);
        Assert.Equal(2, _guest.Admin(5, 0, page + 8, 0, 1 | (15 << 16), 3).Code);
        Assert.Equal(2, _guest.Admin(5, 0, _guest.Memory.End, 0, 1 | (15 << 16), 3).Code);
        Assert.Equal(0x100, _guest.Admin(1, 0, page, 0, 1 | (15 << 16), 1 | (1 << 16)).Code);
        Assert.Equal(0, _guest.CreateQueues(1).Status);
        Assert.Equal(0x101, _guest.CreateQueues(1).Code);
        Assert.Equal(0xC, _guest.Admin(9, 0, 0, 0, 7, 0).Code);
        Assert.Equal(0x10C, _guest.Admin(4, 0, 0, 0, 1).Code);
        Assert.Equal(0x101, _guest.Admin(0, 0, 0, 0, 2).Code);
        Assert.Equal(0, _guest.Admin(0, 0, 0, 0, 1).Status);
        Assert.Equal(0, _guest.Admin(4, 0, 0, 0, 1).Status);
        Assert.Equal(0, _guest.CreateQueues(3).Status);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page, queue: 3).Status);
        int expected = _guest.Messages.Count(0x43);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page, queue: 3).Status);
        Wait.Until(() => _guest.Messages.Count(0x43) > expected);
    }

    [Fact]
    public void ManyCommandsAreInFlightAndADeletionWaitsForThem()
    {
        _disk.Hold = true;
        SetUp();
        ulong pages = _guest.Allocate(65536);
        HashSet<ushort> sent = [];
        for (int i = 0; i < 16; i++)
        {
            sent.Add(_guest.Submit(1, 2, 1, pages + ((ulong)i * 4096), 0, (uint)i, 0, 0));
        }
        Wait.Until(() => _disk.Held == 16);
        ushort deletion = _guest.Submit(0, 0, 0, 0, 0, 1);
        Assert.Equal(0u, _guest.Admin(0xA, 0, 0, 0, 1).Result);       // other admin commands go on
        _disk.Release(1);
        Assert.Contains(_guest.Take(1).Identifier, sent);
        Assert.False(_guest.TryTake(0, out _));
        _disk.Hold = false;
        _disk.Release();
        for (int i = 0; i < 15; i++)
        {
            _guest.Take(1);
        }
        Assert.Equal((deletion, 0), (_guest.Take(0).Identifier, 0));
    }

    [Fact]
    public void AFullCompletionQueueHoldsCommandsBackAndLosesNone()
    {
        SetUp(queues: false);
        Assert.Equal(0, _guest.CreateQueues(1, 32, 4).Status);
        ulong page = _guest.Allocate(4096);
        _guest.HoldHead(1, true);
        for (int i = 0; i < 20; i++)
        {
            _guest.Submit(1, 2, 1, page, 0, (uint)i, 0, 0);
        }
        for (int i = 0; i < 3; i++)
        {
            _guest.Take(1);
        }
        Thread.Sleep(10);
        Assert.False(_guest.TryTake(1, out _));
        Assert.Equal(3, _disk.Log.Count);
        _guest.HoldHead(1, false);
        for (int i = 3; i < 20; i++)
        {
            Assert.Equal(0, _guest.Take(1).Status);
        }
        Assert.Equal(20, _disk.Log.Count);
    }

    [Fact]
    public void ShadowDoorbellsAvoidTheRegisters()
    {
        SetUp();
        ulong shadow = _guest.Allocate(8192), page = _guest.Allocate(4096);
        Assert.Equal(2, _guest.Admin(0x7C, 0, shadow + 4, shadow + 4096).Code);
        Assert.Equal(2, _guest.Admin(0x7C, 0, _guest.Memory.End, shadow).Code);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status);
        Assert.Equal(0, _guest.Admin(0x7C, 0, shadow, shadow + 4096).Status);
        _guest.Shadow = shadow;
        int before = _guest.DoorbellsRung;
        var random = new Random(3);
        int sent = 0;
        for (int taken = 0; sent < 5000;)
        {
            for (int burst = random.Next(1, 12); burst > 0; burst--, sent++)
            {
                _guest.Submit(1, 2, 1, page, 0, 0, 0, 0);
            }
            for (; taken < sent; taken++)
            {
                Assert.Equal(0, _guest.Take(1).Status);
            }
        }
        Assert.InRange(_guest.DoorbellsRung - before, 1, sent + 500);      // with registers it would be twice as many
        Assert.Equal(0, _guest.Admin(0xA, 0, 0, 0, 6).Status);
    }

    [Fact]
    public void ShadowDoorbellsThatLieDoNoHarm()
    {
        SetUp();
        ulong shadow = _guest.Allocate(8192), page = _guest.Allocate(4096);
        Assert.Equal(0, _guest.Admin(0x7C, 0, shadow, shadow + 4096).Status);
        _guest.Shadow = shadow;
        _guest.Memory.TryWrite(shadow + 8, 0xFFFF_FFFFu);
        _guest.Memory.TryWrite(shadow + 12, 77u);
        _guest.Write(0x1008, 5);
        Assert.Equal(0, _guest.Admin(0xA, 0, 0, 0, 6).Status);
        _guest.Memory.TryWrite(shadow + 8, 0u);
        _guest.Memory.TryWrite(shadow + 12, 0u);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status);
    }

    [Fact]
    public async Task ResizeIsToldByAnEvent()
    {
        SetUp();
        ulong page = _guest.Allocate(4096);
        Assert.Equal(0, _guest.Admin(9, 0, 0, 0, 0xB, 1 << 8).Status);
        ushort request = _guest.Submit(0, 0xC, 0, 0, 0);
        for (int i = 0; i < 3; i++)
        {
            _guest.Submit(0, 0xC, 0, 0, 0);
        }
        Assert.Equal(0x105, _guest.Run(0, 0xC, 0, 0, 0).Code);
        await _guest.Controller.ResizeAsync(8 << 20);
        NvmeCompletion told = _guest.Take(0);
        Assert.Equal((request, 0x0004_0002u), (told.Identifier, told.Result));
        await _guest.Controller.ResizeAsync(9 << 20);      // not told again before the log is read
        Assert.Equal(0, _guest.Admin(2, 0, page, 0, 4 | (1023 << 16)).Status);
        Assert.Equal(1, _guest.Ram(page, 1)[0]);
        told = _guest.Take(0);
        Assert.Equal(0x0004_0002u, told.Result);
        Assert.Equal(0, _guest.Admin(6, 1, page, 0, 0).Status);
        Assert.Equal(9UL << 11, BinaryPrimitives.ReadUInt64LittleEndian(_guest.Ram(page, 8)));
        Assert.Equal(0, _guest.Transfer(2, (9 << 11) - 1, 1, page).Status);
    }

    [Fact]
    public void LogPages()
    {
        SetUp();
        ulong page = _guest.Allocate(8192);
        _guest.Transfer(2, 0, 8, page);
        Assert.Equal(0, _guest.Admin(2, uint.MaxValue, page, 0, 2 | (127 << 16)).Status);
        byte[] health = _guest.Ram(page, 512);
        Assert.Equal(1UL, BinaryPrimitives.ReadUInt64LittleEndian(health.AsSpan(32)));
        Assert.Equal(1UL, BinaryPrimitives.ReadUInt64LittleEndian(health.AsSpan(64)));
        Assert.Equal(0, _guest.Admin(2, 0, page, 0, 3 | (127 << 16)).Status);
        Assert.Equal(0, _guest.Admin(2, 0, page, page + 4096, 5 | (2047u << 16)).Status);
        Assert.Equal(1, _guest.Ram(page + 1024, 1)[0]);
        Assert.Equal(0x109, _guest.Admin(2, 0, page, 0, 0x77 | (127 << 16)).Code);
        Assert.Equal(2, _guest.Admin(2, 0, page, 0, 2 | 0xFFFF_0000, 0xFFFF).Code);
        Assert.Equal(2, _guest.Admin(2, 0, page, 0, 2 | (127 << 16), 0, 1024).Code);
        Assert.Equal(2, _guest.Admin(2, 0, page, 0, 2 | (127 << 16), 0, 0, 0x8000_0000).Code);
    }

    [Fact]
    public void ResetGivesUpCommandsInFlightBeforeItEnds()
    {
        _disk.Hold = true;
        SetUp();
        ulong page = _guest.Allocate(4096);
        _guest.Submit(1, 2, 1, page, 0, 0, 0, 0);
        Wait.Until(() => _disk.Held == 1);
        _guest.Disable();
        Assert.Equal(0, _disk.Held);
        _disk.Hold = false;
        _guest.Enable();
        Assert.Equal(0, _guest.CreateQueues(1).Status);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status);
    }

    [Fact]
    public void ShutdownFlushes()
    {
        SetUp();
        _guest.Write(0x14, 0x0046_4001);
        Wait.Until(() => (_guest.Read(0x1C) & 0xC) == 8);
        Assert.Equal(1, _disk.Flushes);
        _guest.Enable();
        Assert.Equal(0u, _guest.Read(0x1C) & 0xC);
    }

    [Theory]
    [InlineData(0x24, 0u)]
    [InlineData(0x28, 0x4000_0000u)]
    [InlineData(0x34, 1u)]
    [InlineData(0x14, 0x0046_0081u)]
    [InlineData(0x14, 0x0046_0011u)]
    public void BadSettingsAreFatalUntilReset(int register, uint value)
    {
        SetUp(queues: false);
        _guest.Disable();
        if (register != 0x14)
        {
            _guest.Write(register, value);
        }
        _guest.Write(0x14, register == 0x14 ? value : 0x0046_0001);
        Wait.Until(() => (_guest.Read(0x1C) & 2) != 0);
        _guest.Enable();
        Assert.Equal(1u, _guest.Read(0x1C));
    }

    [Fact]
    public void PinInterruptWithoutMsix()
    {
        SetUp(queues: false, msix: false);
        _guest.HoldHead(0, true);
        Assert.Equal(0, _guest.Admin(0xA, 0, 0, 0, 6).Status);
        Wait.Until(() => _guest.Line.Level);
        _guest.Write(0xC, 1);
        Wait.Until(() => !_guest.Line.Level);
        _guest.Write(0x10, 1);
        Wait.Until(() => _guest.Line.Level);
        _guest.HoldHead(0, false);
        Wait.Until(() => !_guest.Line.Level);
    }

    [Fact]
    public void WhatCannotBeFinishedInTimeGoesOnWithoutAnError()
    {
        _disk.Hold = true;
        SetUp();
        ulong page = _guest.Allocate(4096);
        _guest.Submit(1, 2, 1, page, 0, 0, 0, 0);
        Wait.Until(() => _disk.Held == 1);
        Assert.False(_guest.Controller.TryFinish(TimeSpan.FromMilliseconds(20)));
        _disk.Hold = false;
        _disk.Release();
        NvmeCompletion done = default;
        Wait.Until(() => _guest.TryTake(1, out done));
        Assert.Equal(0, done.Status);
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status); // it works on
        Assert.True(_guest.Controller.TryFinish(TimeSpan.Zero));
        _guest.Controller.Start();
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status);
    }

    [Fact]
    public void StopWaitsForCommandsAndTheStateGoesOnElsewhere()
    {
        _disk.Hold = true;
        SetUp();
        ulong page = _guest.Allocate(65536), shadow = _guest.Allocate(8192);
        _guest.Admin(0x7C, 0, shadow, shadow + 4096);
        _guest.Shadow = shadow;
        _guest.Submit(0, 0xC, 0, 0, 0);
        for (int i = 0; i < 8; i++)
        {
            _guest.Submit(1, 2, 1, page + ((ulong)i * 4096), 0, (uint)i, 0, 0);
        }
        Wait.Until(() => _disk.Held == 8);
        var stop = new Thread(_guest.Controller.Stop);
        stop.Start();
        Assert.False(stop.Join(50));
        _disk.Hold = false;
        _disk.Release();
        Assert.True(stop.Join(30_000));
        for (int i = 0; i < 8; i++)
        {
            Assert.True(_guest.TryTake(1, out NvmeCompletion done));
            Assert.Equal(0, done.Status);
        }
        byte[] state = _guest.Save();
        using var second = new NvmeGuest(_disk);
        second.Memory.TryWrite(0, _guest.Ram(0, (int)_guest.Memory.Size));
        second.Controller.Restore(new StateReader(state));
        Assert.Equal(state, second.Save());
        _guest.Controller.Restore(new StateReader(state));
        _guest.Controller.Start();
        Assert.Equal(0, _guest.Transfer(2, 0, 1, page).Status);
        Assert.Equal(0, _guest.Admin(0xA, 0, 0, 0, 6).Status);
        using var small = new NvmeGuest(_disk, memory: 1 << 20);
        Assert.Throws<SavedStateException>(() => small.Controller.Restore(new StateReader(state)));
        using var few = new NvmeGuest(_disk, c => c with { Queues = 1 });
        few.Controller.Start();
        few.Controller.Stop();
    }
}
