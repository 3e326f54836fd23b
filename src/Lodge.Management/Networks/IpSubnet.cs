using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace Lodge.Management.Networks;

/// <summary>A range of IPv4 or IPv6 addresses with a common prefix, written <c>10.1.2.0/24</c>.</summary>
[JsonConverter(typeof(IpSubnetJson))]
public sealed record IpSubnet
{
    private readonly UInt128 _first;

    private IpSubnet(UInt128 first, int prefix, bool isV6)
    {
        _first = first;
        Prefix = prefix;
        IsV6 = isV6;
    }

    /// <summary>Bits of the prefix.</summary>
    public int Prefix { get; }

    /// <summary>Whether it is of IPv6.</summary>
    public bool IsV6 { get; }

    /// <summary>The first address, that of the network itself.</summary>
    public IPAddress Network => ToAddress(_first);

    /// <summary>The host's own address in it: the second.</summary>
    public IPAddress Gateway => Host(1);

    /// <summary>The largest number that <see cref="Host"/> takes; of a large subnet only the first million addresses are used.</summary>
    public int LastHost => (int)UInt128.Min(Size - (IsV6 ? 1u : 2u), 0xF_FFFF);

    /// <summary>An IPv4 subnet's mask.</summary>
    public IPAddress Mask => ToAddress(Prefix == 0 ? 0 : (UInt128)(uint.MaxValue << (32 - Prefix)));

    private int Bits => IsV6 ? 128 : 32;

    private UInt128 Size => Prefix == 0 && IsV6 ? UInt128.MaxValue : UInt128.One << (Bits - Prefix);

    /// <summary>The subnet of an address.</summary>
    public static IpSubnet Of(IPAddress address, int prefix)
    {
        bool isV6 = address.AddressFamily == AddressFamily.InterNetworkV6;
        int hostBits = (isV6 ? 128 : 32) - prefix;
        UInt128 value = Value(address);
        return new IpSubnet(hostBits == 128 ? 0 : value >> hostBits << hostBits, prefix, isV6);
    }

    /// <summary>Parses <c>ADDRESS/PREFIX</c>; bits beyond the prefix are cleared.</summary>
    public static bool TryParse(string text, [NotNullWhen(true)] out IpSubnet? subnet)
    {
        int slash = text.IndexOf('/');
        subnet = slash > 0 && TryParseAddress(text[..slash], out IPAddress? address)
            && int.TryParse(text.AsSpan(slash + 1), NumberStyles.None, CultureInfo.InvariantCulture, out int prefix)
            && prefix <= (address.AddressFamily == AddressFamily.InterNetworkV6 ? 128 : 32)
            ? Of(address, prefix)
            : null;
        return subnet is not null;
    }

    /// <summary>Parses an address in its usual form; not <c>10.1</c> or <c>0x0A000001</c>, which some programs take.</summary>
    public static bool TryParseAddress(string text, [NotNullWhen(true)] out IPAddress? address) =>
        IPAddress.TryParse(text, out address) && address.ScopeIdOrZero() == 0 && (address.AddressFamily == AddressFamily.InterNetworkV6 || address.ToString() == text);

    /// <summary>The address with a number; 0 is the network itself.</summary>
    public IPAddress Host(int number) => ToAddress(_first + (UInt128)number);

    /// <summary>The number of an address, or -1 when it is not one that a machine may have here.</summary>
    public int NumberOf(IPAddress address) => Contains(address) && Value(address) - _first is var number && number > 0 && number <= (UInt128)LastHost ? (int)number : -1;

    /// <summary>Whether an address is in it.</summary>
    public bool Contains(IPAddress address) =>
        address.AddressFamily == AddressFamily.InterNetworkV6 == IsV6 && Of(address, Prefix)._first == _first;

    /// <summary>Whether the two have addresses in common.</summary>
    public bool Overlaps(IpSubnet other) => IsV6 == other.IsV6 && (Prefix <= other.Prefix ? Contains(other.Network) : other.Contains(Network));

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Network}/{Prefix}");

    private IPAddress ToAddress(UInt128 value)
    {
        Span<byte> bytes = stackalloc byte[16];
        BinaryPrimitives.WriteUInt128BigEndian(bytes, value);
        return new IPAddress(IsV6 ? bytes : bytes[12..]);
    }

    private static UInt128 Value(IPAddress address)
    {
        Span<byte> bytes = stackalloc byte[16];
        address.TryWriteBytes(bytes, out int length);
        return length == 4 ? BinaryPrimitives.ReadUInt32BigEndian(bytes) : BinaryPrimitives.ReadUInt128BigEndian(bytes);
    }
}

/// <summary>What <see cref="IPAddress"/> throws at for IPv4.</summary>
file static class Scopes
{
    public static long ScopeIdOrZero(this IPAddress address) => address.AddressFamily == AddressFamily.InterNetworkV6 ? address.ScopeId : 0;
}

/// <summary>A subnet as a JSON string.</summary>
internal sealed class IpSubnetJson : JsonConverter<IpSubnet>
{
    public override IpSubnet Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        IpSubnet.TryParse(reader.GetString() ?? "", out IpSubnet? subnet) ? subnet : throw new JsonException("not a subnet");

    public override void Write(Utf8JsonWriter writer, IpSubnet value, JsonSerializerOptions options) => writer.WriteStringValue(value.ToString());
}

/// <summary>An address as a JSON string.</summary>
internal sealed class IpAddressJson : JsonConverter<IPAddress>
{
    public override IPAddress Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        IpSubnet.TryParseAddress(reader.GetString() ?? "", out IPAddress? address) ? address : throw new JsonException("not an address");

    public override void Write(Utf8JsonWriter writer, IPAddress value, JsonSerializerOptions options) => writer.WriteStringValue(value.ToString());
}
