using System.Buffers.Binary;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Network.Tests;

public sealed class MemoryLinkTests
{
    private readonly byte[] _buffer = new byte[65_562];

    [Fact]
    public void AQueueIsBoundedAndTellsWhenThereIsRoom()
    {
        (MemoryLink a, MemoryLink b) = MemoryLink.CreatePair(new() { Capacity = 2 });
        int wakesOfA = 0, wakesOfB = 0;
        a.Connect(() => wakesOfA++);
        b.Connect(() => wakesOfB++);
        Assert.True(a.TrySend(new byte[60], default));
        Assert.True(a.TrySend(new byte[61], default));
        Assert.Equal((0, 1), (wakesOfA, wakesOfB));
        Assert.False(a.TrySend(new byte[62], default));
        Assert.Equal(60, b.TryReceive(_buffer, out _));
        Assert.Equal(1, wakesOfA);
        Assert.True(a.TrySend(new byte[62], default));
        Assert.Equal((61, 62, 0), (b.TryReceive(_buffer, out _), b.TryReceive(_buffer, out _), b.TryReceive(_buffer, out _)));
        Assert.True(a.TrySend(new byte[60], default));
        Assert.Equal((1, 2), (wakesOfA, wakesOfB));
    }

    [Fact]
    public void AFullQueueDropsWhenAsked()
    {
        (MemoryLink a, MemoryLink b) = MemoryLink.CreatePair(new() { Capacity = 1, DropsWhenFull = true });
        Assert.True(a.TrySend(new byte[60], default));
        Assert.True(a.TrySend(new byte[61], default));
        Assert.Equal((60, 0), (b.TryReceive(_buffer, out _), b.TryReceive(_buffer, out _)));
        Assert.Equal(1, a.Dropped);
    }

    [Fact]
    public void BothEndsSeeTheCableBreak()
    {
        (MemoryLink a, MemoryLink b) = MemoryLink.CreatePair();
        int wakes = 0;
        b.Connect(() => wakes++);
        a.SetConnected(false);
        Assert.False(b.IsUp);
        Assert.True(a.TrySend(new byte[60], default));
        Assert.Equal(0, b.TryReceive(_buffer, out _));
        a.SetConnected(true);
        Assert.True(a.IsUp && b.IsUp);
        a.Dispose();
        Assert.False(b.IsUp);
        Assert.Equal(3, wakes);
    }

    [Fact]
    public void WhatTheReceiverDoesNotAcceptIsDoneForIt()
    {
        (MemoryLink a, MemoryLink b) = MemoryLink.CreatePair(new() { Offloads = OffloadFeatures.Checksum | OffloadFeatures.TcpV4 });
        byte[] frame = TcpFrame(4000);
        FrameOffload offload = new() { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1460, HeaderLength = 54 };
        Assert.True(a.TrySend(frame, offload));
        Assert.Equal(frame.Length, b.TryReceive(_buffer, out FrameOffload received));
        Assert.Equal(offload, received);

        b.AcceptOffloads(OffloadFeatures.None);
        Assert.True(a.TrySend(frame, offload));
        Assert.True(a.TrySend(frame.AsSpan(0, 100), default));
        byte[] payload = [];
        for (int length = b.TryReceive(_buffer, out received); length != 100; length = b.TryReceive(_buffer, out received))
        {
            Assert.Equal(default, received);
            Assert.True(length is > 54 and <= 1514);
            FrameLayout.Parse(_buffer.AsSpan(0, length), out FrameLayout layout);
            Assert.True(InternetChecksum.IsTransportValid(_buffer.AsSpan(0, length), layout));
            payload = [.. payload, .. _buffer[54..length]];
        }
        Assert.Equal(frame[54..], payload);

        // A short header, so that nothing can be segmented.
        Assert.True(a.TrySend(new byte[60], offload));
        Assert.Equal(0, b.TryReceive(_buffer, out _));
        Assert.Equal(1, b.Undeliverable);
    }

    private static byte[] TcpFrame(int payload)
    {
        byte[] frame = new byte[54 + payload];
        new Random(1).NextBytes(frame);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), 0x0800);
        Span<byte> ip = frame.AsSpan(14);
        ip[..20].Clear();
        ip[0] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)(40 + payload));
        ip[8] = 64;
        ip[9] = 6;
        ip[12] = ip[16] = 10;
        ip[19] = 1;
        ip[32] = 0x50;      // data offset of the TCP header
        ip[33] = 0x10;
        FrameLayout.Parse(frame, out FrameLayout layout);
        uint pseudo = InternetChecksum.PseudoHeader(frame, layout, 20 + payload);
        BinaryPrimitives.WriteUInt16BigEndian(ip[36..], (ushort)pseudo);
        return frame;
    }
}
