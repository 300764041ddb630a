# What scripts for guests begin with: `unit` is the unit that they are about. A line a check: `ok` or `FAILED`, what was checked,
# and what was measured. The limits are for an emulated processor, which is some twenty times slower than the real one.
measured=

check() {
    local name=$1
    shift
    if "$@"; then echo "ok      $name${measured:+: $measured}"; else
        echo "FAILED  $name${measured:+: $measured}"
        journalctl --unit "$unit" --lines 8 --output cat --no-pager | sed 's/^/        /'
    fi
    measured=
}
# Until something is so, for at most $1 seconds.
await() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.02
    done
}
show() { systemctl show --property "$1" --value "$unit"; }
pid() { show MainPID; }
is() {
    measured="$1 is $(show "$1")"
    [ "$(show "$1")" = "$2" ]
}
