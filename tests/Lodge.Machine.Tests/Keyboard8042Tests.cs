using Lodge.Machine.Devices.Input.Keyboard8042;
using Xunit;

namespace Lodge.Machine.Tests;

public class Keyboard8042Tests
{
    private const int Data = 0x60, Command = 0x64;
    private readonly FakeLine _keyboard = new();
    private readonly FakeLine _mouse = new();
    private readonly FakeControl _control = new();
    private readonly Keyboard8042 _device;

    public Keyboard8042Tests() => _device = new Keyboard8042(_keyboard, _mouse, _control);

    private ulong Answer()
    {
        Assert.Equal(1u, _device.In(Command) & 1);
        return _device.In(Data);
    }

    private ulong[] Answers()
    {
        var all = new List<ulong>();
        while ((_device.In(Command) & 1) != 0 && all.Count < 64)
        {
            all.Add(_device.In(Data));
        }
        return [.. all];
    }

    private ulong[] ToKeyboard(byte value)
    {
        _device.Out(Data, value);
        return Answers();
    }

    private ulong[] ToMouse(byte value)
    {
        _device.Out(Command, 0xD4);
        _device.Out(Data, value);
        Assert.True((_device.In(Command) & 0x21) == 0x21);
        return Answers();
    }

    [Fact]
    public void Linux_finds_a_controller_with_an_auxiliary_port()
    {
        Assert.Empty(Answers());
        _device.Out(Command, 0xAA);
        Assert.Equal(0x55u, Answer());
        _device.Out(Command, 0x20);
        byte ctr = (byte)Answer();
        Assert.Equal(0x65, ctr);
        _device.Out(Command, 0x60);
        _device.Out(Data, (byte)(ctr & ~0x43 | 0x30));
        _device.Out(Command, 0xD3); // auxiliary loop
        _device.Out(Data, 0x5A);
        Assert.Equal(0x21u, _device.In(Command) & 0x21);
        Assert.Equal(0x5Au, Answer());
        _device.Out(Command, 0xA9);
        Assert.Equal(0u, Answer());
        _device.Out(Command, 0xA7);
        _device.Out(Command, 0x20);
        Assert.Equal(0x20u, Answer() & 0x20);
        _device.Out(Command, 0xA8);
        _device.Out(Command, 0x20);
        Assert.Equal(0u, Answer() & 0x20);
        _device.Out(Command, 0x60);
        _device.Out(Data, 0x02 | 0x10);
        _device.Out(Command, 0xD3); // does its interrupt work
        _device.Out(Data, 0xA5);
        Assert.True(_mouse.Level);
        Assert.Equal(0xA5u, Answer());
        Assert.False(_mouse.Level);
    }

    [Fact]
    public void Linux_finds_a_keyboard()
    {
        _device.Out(Command, 0x60);
        _device.Out(Data, 0x01); // interrupt on, no translation
        Assert.Equal([0xFAUL, 0xAB, 0x83], ToKeyboard(0xF2));
        Assert.Equal([0xFAUL], ToKeyboard(0xF5));
        Assert.Equal([0xFAUL], ToKeyboard(0xED));
        Assert.Equal([0xFAUL], ToKeyboard(0x07));
        Assert.Equal([0xFAUL], ToKeyboard(0xF0));
        Assert.Equal([0xFAUL, 0x02], ToKeyboard(0x00));
        Assert.Equal([0xFAUL], ToKeyboard(0xF3));
        Assert.Equal([0xFAUL], ToKeyboard(0x00));
        Assert.Equal([0xFAUL], ToKeyboard(0xF4));
        Assert.Equal([0xFAUL, 0xAA], ToKeyboard(0xFF));
        Assert.Equal([0xFEUL], ToKeyboard(0x12));
    }

    [Fact]
    public void Keys_are_translated_and_each_byte_is_an_edge()
    {
        ToKeyboard(0xF4);
        _device.Out(Command, 0x60);
        _device.Out(Data, 0x45);
        int edges = _keyboard.Edges;
        Assert.True(_device.SendKey([0x1C, 0xF0, 0x1C, 0xE0, 0x75])); // A down and up, cursor up
        Assert.Equal([0x1EUL, 0x9E, 0xE0, 0x48], Answers());
        Assert.Equal(edges + 4, _keyboard.Edges);
        Assert.False(_keyboard.Level);
    }

    [Fact]
    public void Linux_finds_a_wheel_mouse()
    {
        _device.Out(Command, 0xA8);
        Assert.Equal([0xFAUL, 0xAA, 0x00], ToMouse(0xFF));
        Assert.Equal([0xFAUL, 0x00], ToMouse(0xF2));
        foreach (byte rate in new byte[] { 200, 100, 80 })
        {
            ToMouse(0xF3);
            Assert.Equal([0xFAUL], ToMouse(rate));
        }
        Assert.Equal([0xFAUL, 0x03], ToMouse(0xF2));
        Assert.Equal([0xFAUL], ToMouse(0xF4));
        Assert.Equal([0xFAUL, 0x20, 0x02, 80], ToMouse(0xE9));
        Assert.True(_device.MoveMouse(5, -3, 1, 1));
        Assert.Equal([0x29UL, 5, 0xFD, 0xFF], Answers());
    }

    [Fact]
    public void Three_ways_reset_the_machine()
    {
        _device.Out(Command, 0xFF);
        Assert.Equal(0, _control.Resets);
        _device.Out(Command, 0xFE);
        Assert.Equal(1, _control.Resets);
        _device.Out(0x92, 2);
        Assert.Equal(1, _control.Resets);
        _device.Out(0x92, 3);
        Assert.Equal(2, _control.Resets);
        _device.Out(Command, 0xD1);
        _device.Out(Data, 0xDE);
        Assert.Equal(3, _control.Resets);
    }

    [Fact]
    public void A20_is_always_on()
    {
        _device.Out(0x92, 0);
        Assert.Equal(2u, _device.In(0x92));
        _device.Out(Command, 0xD0);
        Assert.Equal(3u, Answer() & 3);
    }

    [Fact]
    public void State_survives_saving()
    {
        ToKeyboard(0xF4);
        _device.SendKey([0x1C, 0xF0, 0x1C]);
        _device.Out(Command, 0xD4);
        var keyboard = new FakeLine();
        var other = new Keyboard8042(keyboard, new FakeLine(), _control);
        other.Restore(_device.Saved());
        Assert.Equal(_device.Saved(), other.Saved());
        Assert.True(keyboard.Level);
        other.Out(Data, 0xF2); // the parameter that was awaited
        Assert.Equal(0x1Eu, other.In(Data));
        Assert.Equal(0x9Eu, other.In(Data));
        Assert.Equal(0x21u, other.In(Command) & 0x21);
        Assert.Equal(0xFAu, other.In(Data));
    }
}
