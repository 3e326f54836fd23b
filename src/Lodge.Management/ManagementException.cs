namespace Lodge.Management;

/// <summary>A failure to tell the user in one line: what was wrong, with the offending value, and what to do.</summary>
public class ManagementException(string message, Exception? inner = null) : Exception(message, inner);
