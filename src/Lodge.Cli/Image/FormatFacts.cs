using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;

namespace Lodge.Cli.Image;

/// <summary>Facts of a format, given as dotted names with printable values, as a tree: whole numbers and truth values become such, numbers in names places in a list.</summary>
internal static class FormatFacts
{
    /// <summary>The tree.</summary>
    public static JsonObject ToJson(IEnumerable<KeyValuePair<string, string>> facts)
    {
        JsonObject root = [];
        foreach ((string name, string value) in facts)
        {
            string[] names = name.Split('.');
            JsonNode at = root;
            for (int index = 0; index < names.Length - 1; index++)
            {
                bool list = int.TryParse(names[index + 1], NumberStyles.None, null, out _);
                at = Child(at, names[index]) ?? Add(at, names[index], list ? new JsonArray() : new JsonObject());
            }
            Add(at, names[^1], Value(value));
        }
        return root;
    }

    /// <summary>The tree as indented lines.</summary>
    public static void Print(StringBuilder text, JsonNode node, int indent)
    {
        IEnumerable<KeyValuePair<string, JsonNode?>> children = node is JsonObject table
            ? table
            : node.AsArray().Select((child, index) => new KeyValuePair<string, JsonNode?>($"[{index}]", child));
        foreach ((string name, JsonNode? child) in children)
        {
            text.Append(' ', indent).Append(name.Replace('-', ' ')).Append(':');
            if (child is JsonObject or JsonArray)
            {
                text.Append('\n');
                Print(text, child, indent + 4);
            }
            else
            {
                text.Append(' ').Append(child is null ? "" : child.ToString()).Append('\n');
            }
        }
    }

    private static JsonNode? Child(JsonNode at, string name) => at switch
    {
        JsonObject table => table[name],
        JsonArray list when int.TryParse(name, out int index) && index < list.Count => list[index],
        _ => null,
    };

    private static JsonNode Add(JsonNode at, string name, JsonNode child)
    {
        if (at is JsonObject table)
        {
            table[name] = child;
        }
        else if (at is JsonArray list)
        {
            list.Add(child);
        }
        return child;
    }

    private static JsonValue Value(string value) => value switch
    {
        "true" => JsonValue.Create(true),
        "false" => JsonValue.Create(false),
        _ => long.TryParse(value, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number) ? JsonValue.Create(number) : JsonValue.Create(value),
    };
}
