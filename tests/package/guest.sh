# Runs in the guest of guest.py behind tests/guest/checks.sh, as root, with the part to run as $1.
set -uo pipefail
unit=coterie-server.service
state=/var/lib/coterie-server
export DEBIAN_FRONTEND=noninteractive HOME=/var/tmp
refused() { ! "$@"; }
is_active() { systemctl is-active --quiet "$1"; }
logged() { journalctl --unit "$1" --output cat --no-pager --since "$2" | grep -- "$3" >/dev/null; }
# Through the service manager, as the server itself would: with its user and its credential.
as_server() {
    systemd-run --quiet --pipe --wait --collect --property User=coterie-server --property LoadCredential=coterie-server.root \
        coterie-server "$@"
}
# Everything in clear is on loopback, and bash can speak it.
health() {
    local answer
    exec 4<>/dev/tcp/127.0.0.1/4751 || return 1
    printf 'GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&4
    answer=$(cat <&4)
    exec 4<&- 4>&-
    measured=$(head -1 <<<"$answer" | tr -d '\r')
    [[ $answer == *' 200 '* ]]
}
install() { dpkg_does --install "$@"; }
dpkg_does() {
    measured=$(dpkg "$@" 2>&1) || return 1
    measured=
}
confined() {
    measured=$(awk '/^(Uid|NoNewPrivs|Seccomp|CapBnd|CapEff):/ { printf "%s %s ", $1, $2 }' "/proc/$(pid)/status")
    [[ $measured == "Uid: $(id -u coterie-server) "*"CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2"* ]]
}
nothing_denied() {
    measured=$(journalctl --boot --output cat --no-pager --unit "$unit" | grep -iE 'warn|error|denied|not permitted|cannot' | head -3
        journalctl --output cat --no-pager --boot --dmesg | grep -E 'type=1326|apparmor="DENIED"' | head -3)
    [ -z "$measured" ]
}
files_are_its_own() {
    measured=$(find "$state" ! -user coterie-server -printf '%p of %u ')
    [ -z "$measured" ]
}
logs_in() {
    measured=$(coterie login "https://$1:4750" --ca "$state/ca.pem" --key-file "$state/operator.key" 2>&1)
}
tenants() {
    coterie tenant list >/run/said 2>&1
    measured=$(tr '\n' ' ' </run/said | cut -c -60)
    grep -q "^$1 " /run/said
}
restarts() {
    local before
    before=$(pid)
    "$@" || return 1
    await 30 other_than "$before"
}
other_than() { [ "$(pid)" != "$1" ] && [ "$(pid)" != 0 ] && is_active "$unit"; }
stops() {
    local from=${EPOCHREALTIME/./}
    systemctl stop "$unit"
    measured="$(show Result) after $(((${EPOCHREALTIME/./} - from) / 1000)) ms"
    [ "$(show Result)" = success ] && logged "$unit" "$1" 'stopped$'
}
moves_the_root_key() {
    mkdir -p -m 700 /etc/credstore
    systemctl stop "$unit"
    mv "$state/root.key" /etc/credstore/coterie-server.root
    chown root:root /etc/credstore/coterie-server.root
    systemctl start "$unit" && is_active "$unit"
}
backup() { as_server backup --directory "$state" "$state/backup" >/dev/null 2>/run/said && [ -s "$state/backup" ]; }
comes_back_from_backup() {
    systemctl stop "$unit"
    rm "$state"/server.db*
    as_server restore --directory "$state" "$state/backup" >/dev/null 2>/run/said && systemctl start "$unit" && is_active "$unit"
}
checks() { measured=$(as_server check --directory "$state" 2>&1); }
upgraded() { restarts install /mnt/new-coterie.deb /mnt/new-coteried.deb /mnt/new-coterie-server.deb; }
node_takes_the_credential() {
    mkdir -p -m 700 /etc/credstore
    echo no token >/etc/credstore/coterie.token
    systemctl start coteried.service >/dev/null 2>&1
    await 10 logged coteried.service "$1" 'credentials/coteried.service/coterie.token'
    local ended=$?
    systemctl stop coteried.service
    rm /etc/credstore/coterie.token
    return $ended
}
node_is_up() {
    mkdir /run/node
    (
        set -e
        cd /run/node
        printf '%s\n' 'version = 1' '[enclave]' 'name = "shelf"' 'pools = ["10.80.0.0/24"]' '[community.all]' '[template.box]' \
            'communities = ["all"]' '[member.one]' 'template = "box"' >enclave.toml
        coterie enclave init enclave.toml --directory enclave
        coterie bundle request one --keys keys -o request
        coterie bundle issue --directory enclave request -o bundle
        coterie up --bundle bundle --keys keys
    ) >/run/said 2>&1
    measured=$(tail -1 /run/said)
    is_active coteried.service
}
node_recovers() {
    measured=$(coterie status 2>&1 | grep -E 'recovered|from the')
    is_active coteried.service && [[ $measured == *recovered* ]]
}
gone() {
    measured=$(find /var/lib/coterie /var/lib/coterie-server /etc/coterie /etc/coterie-server 2>/dev/null | head -3)
    [ -z "$measured" ]
}

installed() {
    local began=@$EPOCHREALTIME
    echo "$(systemctl --version | head -1), Linux $(uname -r)"
    # The guest's own starts nothing.
    rm -f /usr/sbin/policy-rc.d
    check 'packages install' install /mnt/old-coterie.deb /mnt/old-coteried.deb /mnt/old-coterie-server.deb
    check 'coterie-server runs' is_active "$unit"
    check 'coteried does not' refused is_active coteried.service
    check 'the server says that it is ready' health
    check 'sandbox: its own user, no capability, a system call filter' confined
    check 'somebody logs in with the first key' logs_in 127.0.0.1
    coterie tenant create shop >/run/shop.key 2>/dev/null
    check 'a tenant is made' tenants shop
    check 'sandbox: nothing was denied or complained about' nothing_denied
    check 'a backup, while it works' backup
    check 'kill -9: it comes back' restarts systemctl kill --signal KILL --kill-whom main "$unit"
    check 'upgrade: restarted once all is in place' upgraded
    check 'and the tenant is still there' tenants shop
    check 'it stops in peace' stops "$began"
    check 'the root key moves to /etc/credstore' moves_the_root_key
    check 'and the tenant is still there' tenants shop
    check 'the database comes back from the backup' comes_back_from_backup
    check 'and the tenant is still there' tenants shop
    check 'it checks' checks
    check 'all files are its own' files_are_its_own
    check 'coteried is given the token of /etc/credstore' node_takes_the_credential "$began"
    check 'coteried, given a bundle, is up' node_is_up
    check 'the package installed again restarts it, and it is who it was' install /mnt/new-coteried.deb
    check 'with the identity of before' node_recovers
}

booted() {
    check 'enabled, the server is up after a boot' await 60 is_active "$unit"
    check 'with the root key of /etc/credstore' refused test -e "$state/root.key"
    check 'the tenant is still there' tenants shop
    check 'coteried is up after a boot' await 60 is_active coteried.service
    check 'nothing was denied or complained about' nothing_denied
    check 'remove' dpkg_does --remove coterie-server coteried coterie
    check 'nothing runs' refused pgrep --list-name coterie
    check 'purge' dpkg_does --purge coterie-server coteried coterie
    check 'no state is left' gone
}

"$1"
