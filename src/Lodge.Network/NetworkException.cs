namespace Lodge.Network;

/// <summary>A network cannot be had or used. The message is one line: what is wrong, with the offending value, and what to do.</summary>
public sealed class NetworkException : Exception
{
    /// <summary>Creates it.</summary>
    public NetworkException(string message)
        : base(message)
    {
    }

    /// <summary>Creates it with its cause.</summary>
    public NetworkException(string message, Exception cause)
        : base(message, cause)
    {
    }
}
