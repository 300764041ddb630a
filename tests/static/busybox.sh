#!/usr/bin/env bash
# The shipped coteried and coterie on two machines that have a kernel and busybox, and nothing else: no libc, no shell but
# busybox's, no nft, no ip, no systemd. They become members and ping each other.
#
# usage: tests/static/busybox.sh DIRECTORY-OF-THE-STATIC-PROGRAMS
set -euo pipefail
programs=$(cd "$1" && pwd)

busybox=$(command -v busybox || true)
# A static program may be position-independent; then ldd says "statically linked" instead of failing.
is_linked() { ldd "$1" 2>/dev/null | grep -q '=>'; }
if [ -z "$busybox" ] || is_linked "$busybox"; then
    echo "skipped: no static busybox; Debian's package busybox-static has one"
    exit 0
fi
for program in coterie coteried; do
    if is_linked "$programs/$program"; then
        echo "FAILED: $programs/$program is linked to libraries of this machine"
        exit 1
    fi
done
if [ -z "${COTERIE_STATIC_INSIDE:-}" ]; then
    # A mount, network and process namespace of our own: nothing is left of it, however this ends.
    user=()
    [ "$(id -u)" -eq 0 ] || user=(--user --map-root-user)
    COTERIE_STATIC_INSIDE=1 exec unshare "${user[@]}" --net --mount --pid --fork --kill-child "$0" "$@"
fi
if ! [ -r /dev/net/tun ] || ! [ -w /dev/net/tun ]; then
    echo "skipped: /dev/net/tun cannot be opened by this user; as root: chmod 0666 /dev/net/tun"
    exit 0
fi

work=$(mktemp -d)
mount -t tmpfs none "$work"
mkdir "$work/issuer"
cd "$work/issuer"
cat > enclave.toml <<'TOML'
version = 1
[enclave]
name = "shelf"
pools = ["10.78.0.0/24", "fd78::/64"]
lease = "1d"
[community.all]
[template.box]
communities = ["all"]
[member.one]
template = "box"
addresses = ["10.78.0.1", "fd78::1"]
endpoints = ["198.51.100.1"]
[member.two]
template = "box"
addresses = ["10.78.0.2", "fd78::2"]
endpoints = ["198.51.100.2"]
TOML
"$programs/coterie" enclave init enclave.toml --directory enclave >/dev/null
for member in one two; do "$programs/coterie" bundle request "$member" --keys "$member.keys" -o "$member.request" >/dev/null; done
for round in 1 2; do
    for member in one two; do
        "$programs/coterie" bundle issue --directory enclave "$member.request" -o "$member.bundle" --force >/dev/null
    done
done

# Two root directories with busybox, the two programs, and the devices that any kernel has.
for member in one two; do
    root="$work/$member"
    mkdir -p "$root"/{bin,dev/net,etc/coterie,proc,run,sys,tmp,var/lib}
    cp "$busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    cp "$programs/coterie" "$programs/coteried" "$root/bin/"
    cp "$member.bundle" "$root/etc/coterie/bundle"
    install -m 600 "$member.keys" "$root/etc/coterie/keys"
    for device in null random urandom net/tun; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
done

# The wire between them; made with this machine's tools, which the machines do not have.
start() {
    local member=$1
    unshare --net --mount --pid --fork --kill-child chroot "$work/$member" /bin/sh -c '
        busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys
        echo > /run/up
        while ! busybox test -e /run/wired; do busybox sleep 0.05; done
        exec coteried --outside eth0 --log info' >"$work/$member.log" 2>&1 &
    while ! [ -e "$work/$member/run/up" ]; do sleep 0.05; done
    # The one process whose root is the machine's is in its namespaces.
    for pid in $(pgrep -f 'busybox test|/bin/sh -c' || true) $(ls /proc | grep -E '^[0-9]+$'); do
        if [ "$(readlink "/proc/$pid/root" 2>/dev/null)" = "$work/$member" ]; then echo "$pid"; return; fi
    done
    echo "FAILED: $member did not start" >&2
    return 1
}
mount -t proc proc /proc
one=$(start one)
two=$(start two)
ip link add left type veth peer name right
number=1
for pair in "$one left" "$two right"; do
    set -- $pair
    ip link set "$2" netns "$1" name eth0
    nsenter --target "$1" --net ip link set lo up
    nsenter --target "$1" --net ip address add "198.51.100.$number/24" dev eth0
    nsenter --target "$1" --net ip link set eth0 up
    number=$((number + 1))
done
touch "$work/one/run/wired" "$work/two/run/wired"
on() { local pid=$1; shift; nsenter --target "$pid" --net --mount --root --wd=/ --pid /bin/busybox "$@"; }
program() { local pid=$1; shift; nsenter --target "$pid" --net --mount --root --wd=/ --pid "$@"; }
deadline=$((SECONDS + 20))
until program "$one" /bin/coterie status >/dev/null 2>&1 && program "$two" /bin/coterie status >/dev/null 2>&1; do
    if [ "$SECONDS" -gt "$deadline" ]; then
        echo "FAILED: coteried did not start"
        cat "$work"/*.log
        exit 1
    fi
    sleep 0.05
done
# Any step that fails ends this with its own message; what is counted is what was reached.
passed=0
check() { "$@"; passed=$((passed + 1)); }
check program "$one" /bin/coterie ping two
check on "$one" ping -c 2 -W 2 10.78.0.2
check on "$two" ping -c 2 -W 2 fd78::1
dark() { program "$one" /bin/coterie status | grep 'lockdown   in force'; }
check dark
echo "$passed passed, 0 failed: a kernel and busybox are enough"
