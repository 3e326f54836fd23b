namespace Lodge.Network.Filters;

/// <summary>
/// Rules for a link. The first that matches decides; without one the direction's default. Answers within a connection that a rule allowed pass.
/// Immutable.
/// </summary>
public sealed class FilterRules
{
    private readonly FilterRule[] _out;
    private readonly FilterRule[] _in;

    /// <summary>Creates them, in their order.</summary>
    public FilterRules(IEnumerable<FilterRule> rules, FilterAction defaultOut = FilterAction.Allow, FilterAction defaultIn = FilterAction.Allow)
    {
        FilterRule[] all = [.. rules];
        Rules = all;
        _out = [.. all.Where(rule => rule.Direction == FilterDirection.Out)];
        _in = [.. all.Where(rule => rule.Direction == FilterDirection.In)];
        DefaultOut = defaultOut;
        DefaultIn = defaultIn;
        CanDeny = defaultOut == FilterAction.Deny || defaultIn == FilterAction.Deny || all.Any(rule => rule.Action == FilterAction.Deny);
    }

    /// <summary>Everything passes.</summary>
    public static FilterRules None { get; } = new([]);

    /// <summary>The rules in their order.</summary>
    public IReadOnlyList<FilterRule> Rules { get; }

    /// <summary>What happens to packets from the machine that no rule is about.</summary>
    public FilterAction DefaultOut { get; }

    /// <summary>What happens to packets to the machine that no rule is about.</summary>
    public FilterAction DefaultIn { get; }

    /// <summary>Whether any packet could be denied.</summary>
    public bool CanDeny { get; }

    /// <summary>
    /// Parses rules (<see cref="FilterRule.Parse"/>) that are separated by semicolons or lines; <c>default allow|deny in|out</c> sets a default, and what follows a <c>#</c> is
    /// a comment.
    /// </summary>
    /// <exception cref="NetworkException">One is wrong; the message names it and the offending word.</exception>
    public static FilterRules Parse(params IEnumerable<string> texts)
    {
        var rules = new List<FilterRule>();
        FilterAction defaultOut = FilterAction.Allow, defaultIn = FilterAction.Allow;
        foreach (string text in texts.SelectMany(text => text.Split('\n')).Select(line => line.Split('#')[0]).SelectMany(line => line.Split(';')).Select(text => text.Trim()))
        {
            if (text.Length == 0)
            {
                continue;
            }
            if (text.StartsWith("default ", StringComparison.Ordinal))
            {
                var rule = FilterRule.Parse(text["default ".Length..]);
                if (!rule.IsCatchAll)
                {
                    throw new NetworkException($"filter rule '{text}': a default is for all packets: default allow|deny in|out");
                }
                (defaultOut, defaultIn) = rule.Direction == FilterDirection.Out ? (rule.Action, defaultIn) : (defaultOut, rule.Action);
                continue;
            }
            rules.Add(FilterRule.Parse(text));
        }
        return new FilterRules(rules, defaultOut, defaultIn);
    }

    /// <summary>As it is parsed, one line.</summary>
    public override string ToString() => string.Join("; ", Rules.Select(rule => rule.ToString())
        .Concat(DefaultOut == FilterAction.Deny ? ["default deny out"] : [])
        .Concat(DefaultIn == FilterAction.Deny ? ["default deny in"] : []));

    /// <summary>What happens to a packet.</summary>
    internal bool IsAllowed(in PacketFlow flow)
    {
        foreach (var rule in flow.IsOut ? _out : _in)
        {
            if (rule.Matches(flow))
            {
                return rule.Action == FilterAction.Allow;
            }
        }
        return (flow.IsOut ? DefaultOut : DefaultIn) == FilterAction.Allow;
    }
}
