namespace Lodge.Management.Images;

/// <summary>Order of kernel releases: runs of digits by their value, all else by its characters, so that 6.12.10 comes after 6.12.9.</summary>
internal sealed class KernelRelease : IComparer<string>
{
    /// <summary>The order.</summary>
    public static KernelRelease Order { get; } = new();

    /// <inheritdoc/>
    public int Compare(string? x, string? y)
    {
        ReadOnlySpan<char> a = x, b = y;
        while (!a.IsEmpty && !b.IsEmpty)
        {
            int digitsA = Digits(a), digitsB = Digits(b);
            int order;
            if (digitsA != 0 && digitsB != 0)
            {
                ReadOnlySpan<char> numberA = a[..digitsA].TrimStart('0'), numberB = b[..digitsB].TrimStart('0');
                order = numberA.Length != numberB.Length ? numberA.Length - numberB.Length : numberA.SequenceCompareTo(numberB);
            }
            else
            {
                order = a[0] - b[0];
                digitsA = digitsB = 1;
            }
            if (order != 0)
            {
                return order;
            }
            a = a[digitsA..];
            b = b[digitsB..];
        }
        return a.Length - b.Length;
    }

    private static int Digits(ReadOnlySpan<char> text)
    {
        int end = text.IndexOfAnyExceptInRange('0', '9');
        return end < 0 ? text.Length : end;
    }
}
