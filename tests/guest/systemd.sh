# Runs in guest `one` of systemd.py behind checks.sh, as root, with the part to run as $1.
set -uo pipefail
unit=coteried.service
says() { coterie status 2>&1 | grep -q "$1"; }
# Milliseconds from one time stamp of the unit to another; at most $3.
took() {
    local ms=$((($(show "$2") - $(show "$1")) / 1000))
    measured="${measured:+$measured, }$ms ms (at most $3)"
    [ "$ms" -ge 0 ] && [ "$ms" -le "$3" ]
}
now() { echo $((${EPOCHREALTIME/./} / 1000)); }
is_active() { systemctl is-active --quiet "$unit"; }
other_process() {
    local now
    now=$(systemctl show --property MainPID --property SubState "$unit")
    [[ $now == *SubState=running* ]] && [[ $now != *MainPID=$1[^0-9]* ]]
}
kept_by_systemd() {
    measured="$(find /proc/1/fd -lname '*memfd:coterie-identity*' | wc -l) in process 1"
    [ "$measured" = "1 in process 1" ] && [ "$(show NFileDescriptorStore)" = 1 ]
}
# Not `grep -q`, which ends at the first match and breaks the pipe.
logged() { journalctl --unit "$unit" --output cat --no-pager --since "$1" | grep "$2" >/dev/null; }

# What goes through the tunnel while something happens: fifty packets a second.
ping_starts() {
    : >/run/pings
    ping -n -D -i 0.02 10.80.0.2 >/run/pings 2>/run/ping-errors &
    pinger=$!
    await 10 answers 10
}
answers() { [ "$(grep -c 'bytes from' /run/pings)" -ge "$1" ]; }
# The longest time between two answers is at most $1 ms, and at most $2 packets got none, the one under way at the end included.
ping_went_on() {
    local gap sent received answered=yes
    await 20 answers $(($(grep -c 'bytes from' /run/pings) + 25)) || answered=no
    kill -INT "$pinger"
    wait "$pinger"
    gap=$(awk -F '[][]' '/bytes from/ { if (last && $2 - last > gap) gap = $2 - last; last = $2 } END { printf "%d", gap * 1000 }' /run/pings)
    read -r sent received <<<"$(sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) received.*/\1 \2/p' /run/pings)"
    measured="${measured:+$measured, }ping: longest silence $gap ms (at most $1), $((sent - received)) of $sent lost"
    [ "$answered" = yes ] && [ "$gap" -le "$1" ] && [ $((sent - received)) -le "${2:-$sent}" ]
}
# The machine at the other end of the wire is no member, and answers everybody.
clear_text() { ping -n -c 2 -i 0.2 -W 1 198.51.100.254 >/dev/null 2>&1; }
dark() { ! clear_text; }

# The one key that the unit says is for later versions.
known="Unknown key 'FileDescriptorStorePreserve'"
unit_is_understood() {
    measured=$(systemd-analyze verify --man=no "/etc/systemd/system/$unit" 2>&1 | grep -v "$known")
    [ -z "$measured" ]
}
up() {
    local from
    from=$(now)
    measured=$(coterie up --bundle /mnt/one.bundle --keys /mnt/one.keys 2>&1) || return 1
    measured="$measured, after $(($(now) - from)) ms"
    is_active
}
confined() {
    measured=$(awk '/^(NoNewPrivs|Seccomp|CapBnd|CapEff|VmLck):/ { printf "%s %s ", $1, $2 }' "/proc/$(pid)/status")
    [[ $measured == *"NoNewPrivs: 1"*"Seccomp: 2"* ]] && [[ $measured != *"VmLck: 0 "* ]] &&
        [[ $measured == *"CapEff: 0000000400007400 CapBnd: 0000000400007400"* ]]
}
opened() {
    measured=$(find "/proc/$(pid)/fd" -lname "$1" | wc -l)
    [ "$measured" -ge 1 ]
}
nothing_denied() {
    measured=$(journalctl --boot --output cat --no-pager --unit "$unit" | grep -iE 'warn|error|denied|not permitted|cannot|unknown key' |
        grep -v "$known" | head -3
        journalctl --output cat --no-pager --boot --dmesg | grep -E 'type=1326|apparmor="DENIED"' | head -3)
    [ -z "$measured" ]
}
source_marks() {
    measured=$(</proc/sys/net/ipv4/conf/eth0/src_valid_mark)
    [ "$measured" = 1 ]
}
exposure() {
    measured=$(systemd-analyze security --no-pager "$unit" 2>&1 | tail -1 | grep -oE '[0-9]+\.[0-9]')
    [ "${measured%.*}" -le 3 ]
}
pings() {
    measured=$(coterie ping two 2>&1 | head -1)
    coterie wait two --timeout 10s >/dev/null && ping -n -c 3 -i 0.2 -W 2 10.80.0.2 >/dev/null
}

reload_by() {
    local since=@$EPOCHREALTIME before
    before=$(pid)
    ping_starts
    "${@:3}" >/run/said 2>&1 || { measured=$(</run/said); ping_went_on 2000 1; return 1; }
    await 5 logged "$since" "$1" && await 5 is_active && [ "$(pid)" = "$before" ] && says "$2" && ping_went_on 2000 1
}
put() { install -m 600 "/mnt/$1" /etc/coterie/bundle; }
reload_of_a_bad_bundle() {
    head -c 300 /mnt/one.bundle >/etc/coterie/bundle
    reload_by 'not taken over, going on as before' four refused systemctl reload "$unit"
}
refused() { ! "$@"; }

forget_files() { rm /etc/coterie/bundle /etc/coterie/keys; }
recovers_after() {
    local before
    before=$(pid)
    ping_starts
    "$@"
    await 20 other_process "$before" && says 'recovered from the process before'
}
killed() {
    recovers_after kill -9 "$(pid)" && took ActiveExitTimestampMonotonic ActiveEnterTimestampMonotonic 15000 && ping_went_on 20000
}
# No second look: what `systemctl restart` waits for is that coteried answers.
restarted() {
    recovers_after sh -c "systemctl restart $unit && coterie status >/run/first-status" &&
        grep -q 'lockdown   in force' /run/first-status && took InactiveExitTimestampMonotonic ActiveEnterTimestampMonotonic 15000 &&
        ping_went_on 20000
}
upgraded() {
    # The same program, but another file with other bytes: what follows an ELF file's end is not read.
    { cat /usr/bin/coteried && echo newer; } >/usr/bin/coteried.new
    chmod 755 /usr/bin/coteried.new
    mv /usr/bin/coteried.new /usr/bin/coteried
    restarted && [ "$(stat -L -c %i "/proc/$(pid)/exe")" = "$(stat -c %i /usr/bin/coteried)" ]
}
# As fast as it comes: systemd's own limit is five starts in ten seconds, and a unit beyond it stays down.
killed_again_and_again() {
    local before=0 after from
    from=$(now)
    for _ in $(seq 10); do
        await 10 a_process_but "$before" || { measured="unit $(show ActiveState), $(show Result)"; return 1; }
        before=$process
        kill -9 "$before"
    done
    measured="10 times in $(($(now) - from)) ms"
    await 10 other_process "$before" && says 'recovered from the process before'
}
a_process_but() {
    process=
    { read -r process </sys/fs/cgroup/system.slice/$unit/cgroup.procs; } 2>/dev/null
    [ -n "$process" ] && [ "$process" != "$1" ] && [[ $(readlink "/proc/$process/exe") == */coteried ]]
}

down() {
    local from before
    before=$(pid)
    from=$(now)
    measured=$(coterie down 2>&1) || return 1
    measured="$measured, after $(($(now) - from)) ms"
    [ "$(show ActiveState)/$(show Result)/$(show ExecMainStatus)" = inactive/success/0 ] && ! [ -e "/proc/$before" ] &&
        ! [ -e /run/coterie/coteried.sock ] && ! ip link show coterie0 >/dev/null 2>&1
}
status_without_daemon() {
    measured=$(coterie status 2>&1)
    [ $? = 3 ]
}
unlocked() { coterie unlock >/dev/null && clear_text; }
start_fails() {
    head -c 300 /mnt/one.bundle >/etc/coterie/bundle
    measured=$(systemctl start "$unit" 2>&1 | head -1)
    [ -n "$measured" ] && ! is_active && logged "$1" 'coteried: '
}
tried_more_than() { [ "$(show NRestarts)" -gt "$1" ]; }
comes_by_itself() {
    local from tries
    tries=$(show NRestarts)
    await 20 tried_more_than $((tries + 1)) || return 1
    put one-knows-four.bundle
    from=$(now)
    await 10 is_active && says 'in force'
    local ended=$?
    measured="after $(($(now) - from)) ms"
    return $ended
}

# What `coterie up` over SSH leaves behind where nobody confirms.
taken_back() {
    local from
    echo >/run/coterie/coteried.unconfirmed
    from=$(now)
    coterie revert --after 100ms || return 1
    measured="$(show ActiveState) after $(($(now) - from)) ms"
    [ "$(show ActiveState)/$(show Result)" = inactive/success ] && clear_text
}

running() {
    echo "$(systemctl --version | head -1), Linux $(uname -r)"
    check 'before: clear text gets out' clear_text
    check 'systemd understands the whole unit' unit_is_understood
    check '`coterie up` starts the unit, which says when it is ready' up
    check 'the start until it says so' took InactiveExitTimestampMonotonic ActiveEnterTimestampMonotonic 15000
    check 'two is reached' pings
    check 'the lockdown is in force' says 'lockdown   in force'
    check 'and clear text does not get out' dark
    check 'sandbox: no privileges, a system call filter, locked memory' confined
    check 'sandbox: the TUN device is open' opened /dev/net/tun
    check 'sandbox: the kernel log is watched for forks' opened /dev/kmsg
    check 'sandbox: src_valid_mark is set' source_marks
    check 'sandbox: nothing was denied or complained about' nothing_denied
    check 'sandbox: exposure, as systemd-analyze counts it' exposure
    check 'the identity is in the descriptor store, once' kept_by_systemd

    check '`coterie up` with a newer bundle, without a break' reload_by 'bundle taken over' three \
        coterie up --bundle /mnt/one-knows-three.bundle --keys /mnt/one.keys
    put one-knows-four.bundle
    check '`systemctl reload` with a newer bundle, without a break' reload_by 'bundle taken over' four systemctl reload "$unit"
    check '`systemctl reload` with a damaged bundle fails, and coteried goes on as before' reload_of_a_bad_bundle
    check 'the identity is in the descriptor store, once' kept_by_systemd

    forget_files
    check 'kill -9, without bundle and keys on disk' killed
    check 'clear text does not get out' dark
    check '`systemctl restart`, without bundle and keys on disk' restarted
    check 'upgrade: another program file, then `systemctl restart`' upgraded
    systemctl daemon-reload
    systemctl daemon-reexec
    check 'systemd executes itself anew, then kill -9' killed
    check 'kill -9 again and again' killed_again_and_again
    check 'the identity is in the descriptor store, once' kept_by_systemd
    check 'two is reached' pings

    check '`coterie down` stops the unit' down
    check '`coterie status` says that nobody is there' status_without_daemon
    check 'systemd has forgotten the identity' is NFileDescriptorStore 0
    check 'the lockdown stays' dark
    check '`coterie unlock` ends it' unlocked
    install -m 600 /mnt/one.keys /etc/coterie/keys
    check 'with a damaged bundle the unit does not start' start_fails "@$EPOCHREALTIME"
    check 'and starts by itself once the bundle is whole' comes_by_itself
    check 'lockdown again: clear text does not get out' dark
    check 'up over SSH, not confirmed: the unit is stopped, clear text gets out' taken_back
    systemctl --quiet enable "$unit"
}

booted() {
    mount -o ro /dev/vdb /mnt
    check 'enabled, it is up after a boot' await 60 is_active
    check 'the start until it says so' took InactiveExitTimestampMonotonic ActiveEnterTimestampMonotonic 15000
    check 'from bundle and keys' says 'from the bundle'
    check 'two is reached' pings
    check 'clear text does not get out' dark
    check 'nothing was denied or complained about' nothing_denied
    systemctl stop "$unit"
    check '`systemctl stop` is a clean end' is Result success
    head -c 300 /mnt/one.bundle >/etc/coterie/bundle
}

booted_with_a_damaged_bundle() {
    mount -o ro /dev/vdb /mnt
    check 'with a damaged bundle it is not up after a boot' await 60 logged "$(uptime --since)" 'coteried: .*bundle: line'
    check 'it is tried again and again' is ActiveState activating
    check 'but the lockdown of before is in force' dark
    check 'and it comes by itself once the bundle is whole' comes_by_itself
    check 'two is reached' pings
}

"$1"
