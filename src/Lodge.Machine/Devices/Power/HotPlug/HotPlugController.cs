using Lodge.Engine.State;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Devices.Power.HotPlug;

/// <summary>
/// Tells the guest of what comes and what shall go while the machine runs, and takes its ejections: one for PCI slots, one for processors. The guest
/// reaches it by the ACPI methods of the DSDT only, but may write anything at any time: what is not there, or not removable, is not ejected.
/// </summary>
public sealed class HotPlugController : IDevice, IByteWideDevice
{
    private readonly Lock _gate = new();
    private readonly HotPlugConfiguration _configuration;
    private readonly Action _raise;
    private readonly int _bytes;    // of a bitmap
    private readonly byte[] _possible;
    private readonly byte[] _removable;
    private readonly byte[] _present;
    private readonly byte[] _arrived;
    private readonly byte[] _leaving;

    /// <summary>Creates the device with nothing in its places.</summary>
    /// <param name="configuration">Its set-up.</param>
    /// <param name="raise">Raises the general-purpose event. Any thread.</param>
    public HotPlugController(HotPlugConfiguration configuration, Action raise)
    {
        if (configuration.Places is <= 0 or > 256 || configuration.Places % 8 != 0)
        {
            throw new ArgumentException($"{configuration.Name}: {configuration.Places} places are not possible", nameof(configuration));
        }
        _configuration = configuration;
        _raise = raise;
        _bytes = configuration.Places / 8;
        (_possible, _present, _arrived, _leaving) = (new byte[_bytes], new byte[_bytes], new byte[_bytes], new byte[_bytes]);
        for (int place = Math.Max(configuration.FirstRemovable, 0); place <= Math.Min(configuration.LastRemovable, configuration.Places - 1); place++)
        {
            Set(_possible, place, true);
        }
        _removable = [.. _possible];
        Claims = [new RegionClaim(Name, RegionSpace.Port, configuration.Port, (ulong)_bytes * 4, new ByteWideRegion(this))];
    }

    /// <inheritdoc/>
    public string Name => _configuration.Name;

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <inheritdoc/>
    public bool IsAbsentInOldStates => true;

    /// <summary>Told when the guest ejected what was in a place, which is empty then. On a processor's thread, no lock held: must return at once.</summary>
    public Action<int>? Ejected { get; set; }

    /// <summary>Places in which something is, ascending.</summary>
    public IReadOnlyList<int> PresentPlaces => Places(_present);

    /// <summary>Places from which something can be removed, ascending.</summary>
    public IReadOnlyList<int> RemovablePlaces => Places(_removable);

    /// <summary>Whether something came or is asked to go that the guest has not looked at.</summary>
    public bool HasUntold
    {
        get
        {
            lock (_gate)
            {
                return _arrived.AsSpan().ContainsAnyExcept((byte)0) || _leaving.AsSpan().ContainsAnyExcept((byte)0);
            }
        }
    }

    /// <summary>Whether something is in a place.</summary>
    public bool IsPresent(int place) => Test(_present, place);

    /// <summary>Whether something can be removed from a place.</summary>
    public bool IsRemovable(int place) => Test(_removable, place);

    /// <summary>What is in a place stays as long as the machine. Before the first start.</summary>
    public void Fix(int place) => Change(() => Set(_removable, place, false));

    /// <summary>Puts something into a place without a word, before the guest boots.</summary>
    public void Fill(int place) => Change(() => Set(_present, place, true));

    /// <summary>Empties a place without a word: what was there is gone already, or the guest boots.</summary>
    public void Clear(int place) => Change(() =>
    {
        Set(_present, place, false);
        Set(_arrived, place, false);
        Set(_leaving, place, false);
    });

    /// <summary>Something came: tells the guest. Any thread.</summary>
    public void Arrive(int place)
    {
        Change(() =>
        {
            Set(_present, place, true);
            Set(_arrived, place, true);
            Set(_leaving, place, false);
        });
        _raise();
    }

    /// <summary>Asks the guest to eject what is in a place. Any thread; again for a guest that did not.</summary>
    public void AskToLeave(int place)
    {
        Change(() => Set(_leaving, place, Test(_present, place)));
        _raise();
    }

    /// <summary>What was in a place is gone without the guest's doing: tells it, in the words of a request, that it shall let go. Any thread.</summary>
    public void Vanish(int place)
    {
        Change(() =>
        {
            Set(_leaving, place, Test(_present, place));
            Set(_present, place, false);
            Set(_arrived, place, false);
        });
        _raise();
    }

    /// <summary>Takes back a request that the guest has not been told of yet. Any thread.</summary>
    public void Stay(int place) => Change(() => Set(_leaving, place, false));

    /// <inheritdoc/>
    public byte ReadByte(ulong offset)
    {
        int at = (int)(offset % (ulong)_bytes);
        lock (_gate)
        {
            return (HotPlugRegister)(offset / (ulong)_bytes) switch
            {
                HotPlugRegister.Present => _present[at],
                HotPlugRegister.Arrived => _arrived[at],
                HotPlugRegister.Leaving => _leaving[at],
                _ => 0,
            };
        }
    }

    /// <inheritdoc/>
    public void WriteByte(ulong offset, byte value)
    {
        int at = (int)(offset % (ulong)_bytes), ejected = 0;
        lock (_gate)
        {
            switch ((HotPlugRegister)(offset / (ulong)_bytes))
            {
                case HotPlugRegister.Arrived:
                    _arrived[at] &= (byte)~value;
                    return;
                case HotPlugRegister.Leaving:
                    _leaving[at] &= (byte)~value;
                    return;
                case HotPlugRegister.Eject:
                    ejected = value & _present[at] & _removable[at];
                    _present[at] &= (byte)~ejected;
                    _arrived[at] &= (byte)~ejected;
                    _leaving[at] &= (byte)~ejected;
                    break;
            }
        }
        for (; ejected != 0; ejected &= ejected - 1)
        {
            Ejected?.Invoke((at * 8) + System.Numerics.BitOperations.TrailingZeroCount(ejected));
        }
    }

    /// <inheritdoc/>
    public void Start()
    {
    }

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <summary>Nothing is left to tell; what is there stays.</summary>
    public void Reset() => Change(() =>
    {
        Array.Clear(_arrived);
        Array.Clear(_leaving);
    });

    /// <inheritdoc/>
    public void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(1, new HotPlugState { Present = [.. _present], Removable = [.. _removable], Arrived = [.. _arrived], Leaving = [.. _leaving] });
        }
    }

    /// <summary>Takes a saved state. What cannot be removed stays where it is, whatever the state says.</summary>
    /// <exception cref="SavedStateException">The state is of other places.</exception>
    public void Restore(StateReader reader)
    {
        HotPlugState state = reader.Nested(1, new HotPlugState());
        Span<byte[]> saved = [state.Present, state.Removable, state.Arrived, state.Leaving];
        foreach (byte[] bitmap in saved)
        {
            if (bitmap.Length != _bytes)
            {
                throw new SavedStateException($"saved state of {Name} has {bitmap.Length * 8} places, the machine {_configuration.Places}");
            }
        }
        lock (_gate)
        {
            for (int i = 0; i < _bytes; i++)
            {
                if ((state.Removable[i] & ~_possible[i]) != 0 || (state.Present[i] & ~(_possible[i] | _present[i])) != 0)
                {
                    throw new SavedStateException($"saved state of {Name} has places that the machine lacks");
                }
                _removable[i] = state.Removable[i];
                _present[i] = (byte)(state.Present[i] | (_present[i] & ~_possible[i]));
                _arrived[i] = (byte)(state.Arrived[i] & _present[i]);
                _leaving[i] = (byte)(state.Leaving[i] & _present[i]);
            }
        }
    }

    private static void Set(byte[] bitmap, int place, bool value)
    {
        byte bit = (byte)(1 << (place % 8));
        bitmap[place / 8] = (byte)(value ? bitmap[place / 8] | bit : bitmap[place / 8] & ~bit);
    }

    private void Change(Action change)
    {
        lock (_gate)
        {
            change();
        }
    }

    private bool Test(byte[] bitmap, int place)
    {
        lock (_gate)
        {
            return (uint)place < (uint)_configuration.Places && (bitmap[place / 8] & (1 << (place % 8))) != 0;
        }
    }

    private List<int> Places(byte[] bitmap)
    {
        lock (_gate)
        {
            List<int> places = [];
            for (int place = 0; place < _configuration.Places; place++)
            {
                if ((bitmap[place / 8] & (1 << (place % 8))) != 0)
                {
                    places.Add(place);
                }
            }
            return places;
        }
    }
}
