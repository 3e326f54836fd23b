#!/bin/sh
# What Lodge's default system does; busybox init (process 1) starts it and handles poweroff, halt and reboot. /lodge/run (from the second initramfs) sets:
#   disks  number of disks      disk_modules  their drivers, those that the kernel has as modules are loaded
#   cards  for each network card dhcp, none, or ADDRESS/LENGTH,GATEWAY      card_modules  their drivers
#   shares shared folders, TAG:PATH:ro or TAG:PATH:rw each
#   template  not empty: the machine may become a template; what follows comes later, by the port lodge.command
#   name   host name            mode   shell, terminal (a command on the console) or pipe (a command on ports)
#   mark   what ends the stdout and stderr streams; its bytes occur in no command's output by chance
# and exports TERM; its function lodge_command executes the command. The command's end is told on the control port as "exit STATUS".
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
# Started again by init: the first run was killed, nothing can go on.
[ ! -e /run/started ] || poweroff -f
mount -a
: >/run/started
cp -a /lodge/dev/. /dev/
mount -t devpts devpts /dev/pts
echo lodge >/proc/sys/kernel/hostname
disks=0 disk_modules= cards= card_modules= shares= template= mode=
. /lodge/run
read -r modules </lodge/modules
for module in $disk_modules $card_modules ${shares:+virtiofs}; do
    [ ! -e "/lib/modules/$(uname -r)/$module.ko" ] || modules="$modules $module"
done
[ -z "$modules" ] || modprobe -a $modules

# Networks: what is known is set, nothing waits; DHCP gets a moment, and goes on in the background.
ip link set lo up
number=0 leases=
for card in $cards; do
    interface=eth$number
    number=$((number + 1))
    [ -e "/sys/class/net/$interface" ] || continue
    case $card in
        none) ;;
        dhcp)
            ip link set "$interface" up
            udhcpc -f -i "$interface" -s /lodge/dhcp -A 3 >/dev/null 2>&1 </dev/null &
            leases="$leases /run/lease.$interface"
            ;;
        *)
            ip address add "${card%,*}" dev "$interface"
            ip link set "$interface" up
            ip route add default via "${card#*,}"
            ;;
    esac
done

control= input= output= errors= command=
[ -n "$template" ] || command=none
tries=0
while [ -z "$control" ] || [ -z "$input" ] || [ -z "$output" ] || [ -z "$errors" ] || [ -z "$command" ]; do
    for port in /sys/class/virtio-ports/*; do
        [ -e "$port/name" ] || continue
        read -r label <"$port/name"
        case $label in
            lodge.control) control=/dev/${port##*/} ;;
            lodge.stdin) input=/dev/${port##*/} ;;
            lodge.stdout) output=/dev/${port##*/} ;;
            lodge.stderr) errors=/dev/${port##*/} ;;
            lodge.command) command=/dev/${port##*/} ;;
        esac
    done
    tries=$((tries + 1))
    if [ $tries -gt 5000 ]; then
        echo "lodge: the console ports did not appear" >/dev/console
        poweroff -f
    fi
    [ -n "$control" ] && [ -n "$errors" ] && [ -n "$command" ] || usleep 1000
done
exec 3<>"$control"
# The host asks for the end with a line on the control port; nothing else comes there.
(read -r _ <&3 && sync && poweroff -f) &
# Some drivers look for their disks in the background.
tries=0
while [ "$disks" != 0 ]; do
    found=0
    for disk in /sys/block/vd* /sys/block/sd* /sys/block/sr* /sys/block/nvme*n*; do
        [ ! -e "$disk/dev" ] || [ ! -b "/dev/${disk##*/}" ] || found=$((found + 1))
    done
    tries=$((tries + 1))
    [ $found -lt "$disks" ] && [ $tries -le 5000 ] || break
    usleep 1000
done

tries=0
for lease in $leases; do
    while [ ! -e "$lease" ] && [ $tries -lt 300 ]; do
        tries=$((tries + 1))
        usleep 10000
    done
done
for share in $shares; do
    tag=${share%%:*} place=${share#*:}
    mkdir -p "${place%:*}"
    mount -t virtiofs -o "${place##*:}" "$tag" "${place%:*}" || {
        echo "lodge: the shared folder ${place%:*} cannot be mounted" >/dev/console
        poweroff -f
    }
done

if [ "$mode" = pipe ] || [ -n "$template" ]; then
    # Pipes in between, so that the command may open /dev/stdout and the like again, which a port allows only once. The copiers of the output hold both ends: they go on
    # whoever has the pipes open, and the mark passes through them as the last.
    mkfifo /run/stdin /run/stdout /run/stderr
    exec 4<>/run/stdin
    cat <"$input" >&4 3>&- 4>&- &
    exec 5</run/stdin 4>&-
    cat <>/run/stdout >"$output" 3>&- 5<&- &
    cat <>/run/stderr >"$errors" 3>&- 5<&- &
fi
if [ -n "$template" ]; then
    # What a command needs is used once, so that clones find it in the guest's memory.
    (
        exec <&5 >/run/stdout 2>/run/stderr 3>&- 5<&-
        exec true
    )
    /lodge/clone <"$command" >/run/text || poweroff -f
    . /run/text
fi
[ "$name" = lodge ] || echo "$name" >/proc/sys/kernel/hostname

case $mode in
pipe)
    (
        exec <&5 >/run/stdout 2>/run/stderr 3>&- 5<&-
        lodge_command
    )
    status=$?
    # What the command left running may go on until the machine ends; nothing of it comes behind the mark.
    printf %s "$mark" >/run/stdout
    printf %s "$mark" >/run/stderr
    ;;
terminal)
    (
        exec </dev/hvc0 >/dev/hvc0 2>&1 3>&- 5<&-
        lodge_command
    )
    status=$?
    ;;
*)
    cd /root
    (exec setsid -c sh -l </dev/hvc0 >/dev/hvc0 2>&1 3>&- 5<&-)
    status=$?
    ;;
esac
echo "exit $status" >&3
# The host ends the machine when it has taken everything.
read -r _ <&3
poweroff -f
