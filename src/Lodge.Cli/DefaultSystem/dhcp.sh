#!/bin/sh
# What udhcpc of the default system calls with an event and what the server told.
case $1 in
deconfig)
    ip address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip address replace "$ip/${mask:-24}" ${broadcast:+broadcast "$broadcast"} dev "$interface"
    [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface"
        break
    done
    if [ -n "$dns" ]; then
        : >/run/resolv.conf
        [ -z "$domain" ] || echo "search $domain" >>/run/resolv.conf
        for server in $dns; do
            echo "nameserver $server" >>/run/resolv.conf
        done
        [ -s /etc/resolv.conf ] || cp /run/resolv.conf /etc/resolv.conf
    fi
    : >"/run/lease.$interface"
    ;;
esac
