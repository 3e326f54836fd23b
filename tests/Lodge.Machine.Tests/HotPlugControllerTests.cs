using Lodge.Engine.State;
using Lodge.Machine.Devices.Power.HotPlug;
using Xunit;

namespace Lodge.Machine.Tests;

public class HotPlugControllerTests
{
    private const int Port = 0x640, Present = Port, Arrived = Port + 4, Leaving = Port + 8, Eject = Port + 12;
    private readonly List<int> _ejected = [];
    private readonly HotPlugController _device;
    private int _raised;

    public HotPlugControllerTests() => _device = Make();

    private HotPlugController Make() => new(new HotPlugConfiguration("plug", Port, 32, 1, 30), () => _raised++) { Ejected = _ejected.Add };

    [Fact]
    public void An_arrival_is_told_once()
    {
        _device.Arrive(9);
        Assert.Equal(1, _raised);
        Assert.Equal(1u << 9, _device.In(Present, 4));
        Assert.Equal(1u << 9, _device.In(Arrived, 4));
        _device.Out(Arrived + 1, 0x02);
        Assert.Equal(0u, _device.In(Arrived, 4));
        Assert.Equal(1u << 9, _device.In(Present, 4));
        Assert.Equal([9], _device.PresentPlaces);
    }

    [Fact]
    public void Only_what_is_there_and_removable_is_ejected()
    {
        _device.Fix(3);
        _device.Fill(3);
        _device.Fill(0);
        _device.Fill(31);
        _device.Arrive(4);
        _device.Arrive(30);
        _device.Out(Eject, uint.MaxValue, 4);
        Assert.Equal([4, 30], _ejected);
        Assert.Equal([0, 3, 31], _device.PresentPlaces);
        Assert.Equal(0u, _device.In(Arrived, 4));
        Assert.Equal(0u, _device.In(Eject, 4));
        _device.Out(Eject, uint.MaxValue, 4);
        Assert.Equal(2, _ejected.Count);
    }

    [Fact]
    public void A_request_to_leave_can_be_taken_back_and_repeated()
    {
        _device.AskToLeave(5); // nothing is there
        Assert.Equal(0u, _device.In(Leaving, 4));
        _device.Arrive(5);
        _device.AskToLeave(5);
        Assert.Equal(1u << 5, _device.In(Leaving, 4));
        _device.Stay(5);
        Assert.Equal(0u, _device.In(Leaving, 4));
        _device.AskToLeave(5);
        _device.Out(Leaving, 1 << 5, 4);
        _device.AskToLeave(5);
        Assert.Equal(1u << 5, _device.In(Leaving, 4));
        _device.Out(Eject, 1 << 5, 4);
        Assert.Equal(0u, _device.In(Leaving, 4));
        Assert.Equal([5], _ejected);
    }

    [Fact]
    public void State_survives_saving_and_foreign_state_is_refused()
    {
        _device.Fix(3);
        _device.Arrive(4);
        _device.Arrive(7);
        _device.AskToLeave(7);
        HotPlugController other = Make();
        other.Restore(_device.Saved());
        Assert.Equal(_device.Saved(), other.Saved());
        Assert.False(other.IsRemovable(3));
        Assert.Equal(1u << 7, other.In(Leaving, 4));
        other.Reset();
        Assert.Equal(0u, other.In(Leaving, 4) | other.In(Arrived, 4));
        Assert.Equal([4, 7], other.PresentPlaces);
        byte[] none = new byte[4], last = [0, 0, 0, 0x80];
        Assert.Throws<SavedStateException>(() => other.Restore(State(new() { Present = none, Removable = last, Arrived = none, Leaving = none })));
        Assert.Throws<SavedStateException>(() => other.Restore(State(new() { Present = last, Removable = none, Arrived = none, Leaving = none })));
        Assert.Throws<SavedStateException>(() => other.Restore(State(new() { Present = new byte[5], Removable = none, Arrived = none, Leaving = none })));

        static byte[] State(HotPlugState state)
        {
            var writer = new StateWriter();
            writer.Nested(1, state);
            return writer.ToArray();
        }
    }

    [Fact]
    public void Random_accesses_keep_the_bitmaps_true()
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        var present = new HashSet<int>();
        _device.Fix(6);
        _device.Fill(6);
        _device.Ejected = place => Assert.True(present.Remove(place), $"seed {seed}: {place} is ejected but was not there");
        for (int i = 0; i < 50_000; i++)
        {
            int place = random.Next(1, 31);
            switch (random.Next(6))
            {
                case 0 when place != 6:
                    present.Add(place);
                    _device.Arrive(place);
                    break;
                case 1:
                    _device.AskToLeave(place);
                    break;
                case 2:
                    int width = 1 << random.Next(3);
                    _device.In(Port + random.Next(17 - width), width);
                    break;
                default:
                    width = 1 << random.Next(3);
                    _device.Out(Port + random.Next(17 - width), (ulong)random.NextInt64() & (ulong)random.NextInt64() & (ulong)random.NextInt64(), width);
                    break;
            }
            uint there = (uint)_device.In(Present, 4);
            Assert.Equal(0u, (uint)(_device.In(Arrived, 4) | _device.In(Leaving, 4)) & ~there);
            Assert.Equal(present.Append(6).Order(), _device.PresentPlaces);
        }
    }
}
