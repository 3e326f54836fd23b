#!/bin/sh
# What Lodge's default system does; busybox init (process 1) starts it and handles poweroff, halt and reboot. /lodge/run (from the second initramfs) sets:
#   name   host name            mode   shell, terminal (a command on the console) or pipe (a command on ports)
#   mark   what ends the stdout and stderr streams; its bytes occur in no command's output by chance
#   disks  number of disks      disk_modules  their drivers, those that the kernel has as modules are loaded
#   cards  for each network card dhcp, none, or ADDRESS/LENGTH,GATEWAY      card_modules  their drivers
#   shares shared folders, TAG:PATH:ro or TAG:PATH:rw each
# and exports TERM; /lodge/command is the command. Its end is told on the control port as "exit STATUS".
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
# Started again by init: the first run was killed, nothing can go on.
[ ! -e /run/started ] || poweroff -f
mount -a
: >/run/started
cp -a /lodge/dev/. /dev/
mount -t devpts devpts /dev/pts
disks=0 disk_modules= cards= card_modules= shares=
. /lodge/run
echo "$name" >/proc/sys/kernel/hostname
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

control= input= output= errors=
tries=0
while [ -z "$control" ] || [ -z "$input" ] || [ -z "$output" ] || [ -z "$errors" ]; do
    for port in /sys/class/virtio-ports/*; do
        [ -e "$port/name" ] || continue
        read -r label <"$port/name"
        case $label in
            lodge.control) control=/dev/${port##*/} ;;
            lodge.stdin) input=/dev/${port##*/} ;;
            lodge.stdout) output=/dev/${port##*/} ;;
            lodge.stderr) errors=/dev/${port##*/} ;;
        esac
    done
    tries=$((tries + 1))
    if [ $tries -gt 5000 ]; then
        echo "lodge: the console ports did not appear" >/dev/console
        poweroff -f
    fi
    [ -n "$control" ] && [ -n "$errors" ] || usleep 1000
done
exec 3<>"$control"
# The host asks for the end with a line on the control port; nothing else comes there.
(read -r _ <&3 && sync && poweroff -f) &
watcher=$!
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

case $mode in
pipe)
    # Pipes in between, so that the command may open /dev/stdout and the like again, which a port allows only once.
    mkfifo /run/stdin /run/stdout /run/stderr
    cat <"$input" >/run/stdin 3>&- &
    cat </run/stdout >"$output" 3>&- &
    stdout_copier=$!
    cat </run/stderr >"$errors" 3>&- &
    stderr_copier=$!
    (exec sh /lodge/command </run/stdin >/run/stdout 2>/run/stderr 3>&-)
    status=$?
    # What the command left running ends with it, so that the copiers see the end of the streams.
    for process in /proc/[0-9]*; do
        process=${process#/proc/}
        case " 1 $$ $watcher $stdout_copier $stderr_copier " in
            *" $process "*) ;;
            *) [ ! -e "/proc/$process/exe" ] || kill -9 "$process" ;;
        esac
    done 2>/dev/null
    wait $stdout_copier
    wait $stderr_copier
    printf %s "$mark" >"$output"
    printf %s "$mark" >"$errors"
    ;;
terminal)
    (exec setsid -c sh /lodge/command </dev/hvc0 >/dev/hvc0 2>&1 3>&-)
    status=$?
    ;;
*)
    cd /root
    (exec setsid -c sh -l </dev/hvc0 >/dev/hvc0 2>&1 3>&-)
    status=$?
    ;;
esac
echo "exit $status" >&3
# The host ends the machine when it has taken everything.
read -r _ <&3
poweroff -f
