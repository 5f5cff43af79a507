#!/bin/sh
# As k3s' own: stops the units, ends what their shims hold, unmounts what the kubelet mounted. It does not ask the containers.
[ "$(id -u)" -eq 0 ] || exec sudo "$0" "$@"

for service in /etc/systemd/system/k3s*.service; do
    [ -s "$service" ] && systemctl stop "$(basename "$service")"
done

tree() { # PID...: these and all that descend from them
    for pid in "$@"; do
        echo "$pid"
        # shellcheck disable=SC2046
        tree $(ps -o pid= --ppid "$pid")
    done
}
shims() { ps -e -o pid= -o args= | awk '$2 ~ "^/var/lib/rancher/k3s/data/[^/]*/bin/containerd-shim" { print $1 }'; }
pids=$(tree $(shims))
[ -z "$pids" ] || kill -9 $pids 2>/dev/null

unmount_and_remove() { # FOLDER
    while read -r _ path _; do
        case $path in "$1"*) echo "$path" ;; esac
    done </proc/self/mounts | sort -r | while read -r path; do umount -f "$path" && rm -rf "$path"; done
}
unmount_and_remove /run/k3s
unmount_and_remove /var/lib/kubelet/pods
unmount_and_remove /var/lib/kubelet/plugins
exit 0
