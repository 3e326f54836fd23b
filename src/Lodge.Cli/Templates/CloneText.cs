using System.Globalization;
using System.Text;
using Lodge.Cli.DefaultSystem;

namespace Lodge.Cli.Templates;

/// <summary>
/// What the guest of a clone of a stored image is told before anything else, on its command port: a shell script that makes it another machine than the template. It works with every command service that Lodge ever put
/// into an image: what that reads up to an empty line it executes.
/// </summary>
internal static class CloneText
{
    /// <summary>Composes the script; it has no empty line.</summary>
    /// <param name="name">Host name.</param>
    /// <param name="machineId">Machine ID.</param>
    /// <param name="now">The time.</param>
    /// <param name="seed"><see cref="CloneProgram.SeedLength"/> random bytes.</param>
    /// <param name="kept">Whether the machine is kept: then the guest's agent gives the SSH server other host keys later, and who is to use the agent is told on the control port that the guest is another one now.</param>
    public static byte[] Compose(string name, Guid machineId, DateTimeOffset now, ReadOnlySpan<byte> seed, bool kept)
    {
        StringBuilder text = new();
        // First clock and random numbers, by the program that does it in the default system. A folder may be mounted noexec.
        text.Append(CultureInfo.InvariantCulture, $"""
            lodge_program() {'{'}
            printf '{Octal(CloneProgram.File())}' >"$1/clone.$$" && chmod 700 "$1/clone.$$" && printf '{Octal(CloneProgram.Input(now, seed, []))}' | "$1/clone.$$" 3>/dev/null
            lodge_status=$?
            rm -f "$1/clone.$$"
            return $lodge_status
            {'}'}
            lodge_program /run/lodge 2>/dev/null || lodge_program /dev/shm 2>/dev/null || lodge_program /tmp 2>/dev/null || {'{'}
            date -s @{now.ToUnixTimeSeconds()} >/dev/null
            printf '{Octal(seed)}' >/dev/urandom
            {'}'}
            read -r lodge_name </proc/sys/kernel/hostname
            [ "$lodge_name" = '{name}' ] || echo '{name}' >/proc/sys/kernel/hostname
            {'{'}
            rm -f /var/lib/systemd/random-seed
            [ ! -e /etc/machine-id ] || echo {machineId:n} >/etc/machine-id
            [ ! -f /var/lib/dbus/machine-id ] || [ -L /var/lib/dbus/machine-id ] || echo {machineId:n} >/var/lib/dbus/machine-id
            {'}'} 2>/dev/null

            """);
        if (kept)
        {
            text.Append("{ echo waiting >/dev/virtio-ports/lodge.control; } 2>/dev/null\n");
        }
        else
        {
            // Nobody meets the server with the template's keys: it is stopped until there are others.
            text.Append("""
                if [ -d /etc/ssh ] && [ -x /usr/sbin/sshd ]; then
                lodge_units=
                for lodge_unit in ssh.service sshd.service; do
                ! systemctl --quiet is-active $lodge_unit || lodge_units="$lodge_units $lodge_unit"
                done
                [ -z "$lodge_units" ] || systemctl stop $lodge_units
                rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
                (ssh-keygen -A; [ -z "$lodge_units" ] || systemctl start $lodge_units) >/dev/null 2>&1 </dev/null &
                fi

                """);
        }
        return Encoding.ASCII.GetBytes(text.ToString());
    }

    /// <summary>Nothing is to be run but the login on the console.</summary>
    /// <param name="anew">Whether it starts anew, on a screen of this size, for a user who is there and has seen nothing of it.</param>
    /// <param name="size">The size.</param>
    public static byte[] Login(bool anew, (int Columns, int Rows)? size) => Encoding.ASCII.GetBytes(
        (anew ? $"{Size(size)}systemctl --no-block restart serial-getty@hvc0.service\n" : "") + "exit 0\n\n");

    /// <summary>Sets the size of the virtio console.</summary>
    public static string Size((int Columns, int Rows)? size) =>
        size is { } s ? string.Create(CultureInfo.InvariantCulture, $"stty columns {s.Columns} rows {s.Rows} </dev/hvc0\n") : "";

    /// <summary>Bytes as printf(1) takes them in its format.</summary>
    private static string Octal(ReadOnlySpan<byte> bytes)
    {
        StringBuilder text = new(bytes.Length * 4);
        foreach (byte b in bytes)
        {
            text.Append('\\').Append((char)('0' + (b >> 6))).Append((char)('0' + ((b >> 3) & 7))).Append((char)('0' + (b & 7)));
        }
        return text.ToString();
    }
}
