# Runs in the fresh Debian of `test`, as root, with the older version, the version and the architecture. A line a check: `ok` or
# `FAILED`, and what was checked.
set -uo pipefail
older=$1 version=$2 architecture=$3
server=/var/lib/coterie-server
all=(coterie coteried coterie-server)

check() {
    local name=$1 said
    shift
    if said=$("$@" 2>&1); then echo "ok      $name"; else echo "FAILED  $name${said:+: $said}"; fi
}
debs() {
    local of=$1 package
    shift
    for package in "$@"; do echo "/packages/${package}_${of}_$architecture.deb"; done
}
# Without a terminal and without lists of packages: whatever asks, or needs more than the fresh Debian has, fails.
# shellcheck disable=SC2046 # one word a package
install() { dpkg --install $(debs "$@") >/run/said 2>&1 || { cat /run/said; return 1; }; }
does() { "$@" >/run/said 2>&1 || { cat /run/said; return 1; }; }
said() { grep -F -- "$1" /run/said >/dev/null || { cat /run/said; return 1; }; }
is() { [ "$1" = "$2" ] || { echo "$1, not $2"; return 1; }; }
mode() { is "$(stat -c '%a %U:%G %F' "$1")" "$2"; }
version_of() { is "$(dpkg-query -W -f '${Status} ${Version}' "$1")" "install ok installed $2"; }
has() { [ -e "$1" ] || [ -L "$1" ] || { echo "there is no $1"; return 1; }; }
has_not() {
    local path
    for path in "$@"; do ! [ -e "$path" ] && ! [ -L "$path" ] || { echo "$path is there"; return 1; }; done
}
each() {
    local what=$1 one
    shift
    for one in "$@"; do "$what" "$one" || return 1; done
}
sums() { sha256sum "$server/server.db" "$server/root.key" "$server/operator.key" "$server/ca.pem" "$server/ca.key"; }
same_server() { is "$(sums)" "$made"; }
wanted=/etc/systemd/system/multi-user.target.wants
enabled() { has "$wanted/$1.service"; }
not_enabled() { has_not "$wanted/$1.service"; }
as_server() { setpriv --reuid coterie-server --regid coterie-server --clear-groups "$@"; }

static_and_of_version() { is "$("$1" --version)" "$1 $version"; }
# Of an older systemd the units may have keys that it does not know.
unit_is_understood() {
    local complaints
    complaints=$(systemd-analyze verify --man=no "/usr/lib/systemd/system/$1.service" 2>&1 |
        grep -v "Unknown key 'FileDescriptorStorePreserve'")
    [ -z "$complaints" ] || { echo "$complaints"; return 1; }
}
exposure() {
    local measured
    measured=$(systemd-analyze security --offline=yes --no-pager "/usr/lib/systemd/system/$1.service" 2>/dev/null |
        sed -n 's/.*exposure level for [^:]*: \([0-9.]*\).*/\1/p')
    echo "        exposure of $1.service, as systemd-analyze counts it: $measured (at most $2)" >&3
    awk -v measured="$measured" -v most="$2" 'BEGIN { exit !(measured != "" && measured <= most) }'
}
drop_in_lies_where_it_is_read() { grep -qx 'LoadCredential=coterie.token' /usr/lib/systemd/system/coteried.service.d/token.conf; }
preset_keeps_coteried_down() { is "$(systemctl preset coteried.service 2>&1; systemctl is-enabled coteried.service)" disabled; }
manual_is_whole() {
    local page count=0
    for page in /usr/share/man/man[18]/coterie*.gz; do
        zcat "$page" | grep -q '^\.TH ' || { echo "$page has no title"; return 1; }
        count=$((count + 1))
    done
    [ "$count" -ge 20 ] || { echo "only $count pages"; return 1; }
}
completes() {
    # shellcheck disable=SC1091
    . /usr/share/bash-completion/completions/coterie
    COMP_WORDS=(coterie enclave in) COMP_CWORD=2
    _coterie coterie in enclave
    is "${COMPREPLY[*]}" init
}
examples_are_good() {
    local file
    for file in /usr/share/doc/coterie/examples/*.toml; do coterie enclave check "$file" || return 1; done
}
operator_key_is_one() {
    mode "$server/operator.key" '600 coterie-server:coterie-server regular file' &&
        grep -Ex 'coterie-key-1\.[A-Za-z0-9_-]{43}' "$server/operator.key" >/dev/null && is "$(wc -l <"$server/operator.key")" 1
}
server_is_good() { does as_server coterie-server check --directory "$server"; }
user_cannot_log_in() { is "$(getent passwd coterie-server | cut -d: -f6-7)" "/var/lib/coterie-server:/usr/sbin/nologin"; }
# Each command line of ours in the how-tos names a command that there is, and options that it has. What stands for an argument
# ends the command; a line that ends in a backslash goes on.
commands_exist() {
    local file line words word program path known count=0
    for file in /usr/share/doc/coterie/how-to/*.md; do
        while read -r line; do
            read -ra words <<<"$line"
            program=${words[0]} path=() known=yes
            command -v "$program" >/dev/null || { echo "$file: there is no $program"; return 1; }
            for word in "${words[@]:1}"; do
                if [[ $word == --[a-z]* ]]; then
                    word=${word%%=*}
                    "$program" "${path[@]}" --help | grep -E -- "(^|[ ,])$word([ =[<,]|$)" >/dev/null ||
                        { echo "$file: \`$program ${path[*]}\` has no $word: $line"; return 1; }
                elif [ "$known" = yes ] && [[ $word =~ ^[a-z-]+$ ]] &&
                    "$program" "${path[@]}" --help | grep -E "^  $word( |$)" >/dev/null; then
                    path+=("$word")
                else
                    known=no
                fi
            done
            "$program" "${path[@]}" --help | grep '^Usage:' >/dev/null || { echo "$file: $line"; return 1; }
            ! "$program" "${path[@]}" --help | grep '^Commands:' >/dev/null || [ "${#path[@]}" -eq "$((${#words[@]} - 1))" ] ||
                { echo "$file: no such command: $line"; return 1; }
            count=$((count + 1))
        done < <(sed -e ':a' -e '/\\$/{N;s/\\\n */ /;ba' -e '}' "$file" |
            sed -E 's/^[a-z0-9-]+\$ //; s/^sudo systemd-run .* (coterie-server )/\1/' |
            grep -oE "(^|[\`\$ ])(sudo )?(coterie|coteried|coterie-server) [a-z-][^\`|>]*" |
            grep -vE '^ ' | sed -E 's/^[\`$ ]*(sudo )?//')
    done
    echo "        command lines in the how-tos: $count" >&3
    [ "$count" -ge 40 ] || { echo "only $count"; return 1; }
}
nothing_runs() {
    local file
    for file in /proc/[0-9]*/exe; do
        case $(readlink "$file") in *coterie*) echo "$(readlink "$file") runs"; return 1 ;; esac
    done
}
files() { find / -xdev \( -path /packages -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \) -prune -o -printf '%p\n' | sort; }
nothing_is_left() {
    local left
    # What systemd-sysusers leaves of a user: it stays on purpose.
    left=$(comm -13 /run/before <(files) | grep -vE '^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|^/etc/\.pwd\.lock$')
    [ -z "$left" ] || { echo "$left"; return 1; }
}

exec 3>&1
files >/run/before

# --- the older version, fresh
check "version $older installs without a question" install "$older" "${all[@]}"
check 'it says where the first key is, and not the key' said "the operator's first key is in $server/operator.key"
check 'and shows no key' is "$(grep -c 'coterie-key-1' /run/said)" 0
for package in "${all[@]}"; do
    check "$package is installed" version_of "$package" "$older"
    check "$package: nobody has changed its files" does dpkg --verify "$package"
    check "$package: the program runs here" static_and_of_version "$package"
done
check 'the user of the server cannot log in' user_cannot_log_in
check "$server is its own alone" mode "$server" '700 coterie-server:coterie-server directory'
check 'the root key is its own alone' mode "$server/root.key" '600 coterie-server:coterie-server regular file'
check 'the database is its own alone' mode "$server/server.db" '600 coterie-server:coterie-server regular file'
check "the operator's key is one, and the server's own alone" operator_key_is_one
check 'the server that was made checks' server_is_good
check 'coterie-server is enabled' enabled coterie-server
check 'coteried is not: it has neither token nor bundle' not_enabled coteried
check 'nor would it be by presets' preset_keeps_coteried_down
check 'nothing runs' nothing_runs
for unit in coterie-server coteried; do
    check "systemd understands the whole of $unit.service" unit_is_understood "$unit"
done
check 'exposure of coterie-server' exposure coterie-server 1.5
check 'exposure of coteried' exposure coteried 3.5
check 'coteried.service takes the credential coterie.token' drop_in_lies_where_it_is_read
check 'manual pages have titles' manual_is_whole
check 'bash completes' completes
check 'the examples pass' examples_are_good
check 'the how-tos name commands and options that there are' commands_exist

# --- an upgrade, with all that an administrator may have changed
made=$(sums)
cat >/etc/coterie-server/options <<'OPTIONS'
COTERIE_SERVER_OPTIONS="--name server.example.net"
OPTIONS
mkdir -p /etc/coterie /var/lib/coterie
echo bundle >/etc/coterie/bundle
echo journal >/var/lib/coterie/journal
systemctl --quiet enable coteried.service
systemctl --quiet disable coterie-server.service
check "upgrade to $version without a question" install "$version" "${all[@]}"
for package in "${all[@]}"; do check "$package is upgraded" version_of "$package" "$version"; done
check 'the server is the same' same_server
check 'options that were changed stay' is "$(grep -c server.example.net /etc/coterie-server/options)" 1
check 'who disabled coterie-server is not overruled' not_enabled coterie-server
check 'who enabled coteried is not either' enabled coteried
check "the node's files stay" each has /etc/coterie/bundle /var/lib/coterie/journal
rm "$server/operator.key"
check 'configured once more' install "$version" coterie-server
check 'a key that was taken away does not come again' has_not "$server/operator.key"
made=$(sums 2>/dev/null)

# --- removed, and installed again
check 'remove' does dpkg --remove "${all[@]}"
check 'programs and units are gone' has_not /usr/bin/coterie /usr/bin/coteried /usr/bin/coterie-server \
    /usr/lib/systemd/system/coteried.service /usr/lib/systemd/system/coterie-server.service
check 'state and configuration stay' each has "$server/server.db" /etc/coterie-server/options /etc/coterie/bundle /var/lib/coterie/journal
check 'installed again' install "$version" "${all[@]}"
check 'the server is the same' is "$(sums 2>/dev/null)" "$made"
check 'and checks' server_is_good
check 'coterie-server is still disabled, coteried still enabled' eval 'not_enabled coterie-server && enabled coteried'

# --- purged
check 'purge without a question' does dpkg --purge "${all[@]}"
check 'nothing is left' nothing_is_left
check 'purge of what is purged is no error' does dpkg --purge "${all[@]}"

# --- a root key that waits for its database
mkdir -p "$server"
echo 0000000000000000000000000000000000000000000000000000000000000000 >"$server/root.key"
check 'installed beside a root key' install "$version" coterie-server
check 'it says what to do' said "$server/root.key is there and no database"
check 'and makes no server' has_not "$server/server.db" "$server/operator.key"
check "$server is the server's own alone" mode "$server" '700 coterie-server:coterie-server directory'
check 'purge' does dpkg --purge coterie-server
check 'nothing is left' nothing_is_left

# --- a server that cannot be made
mkdir -p "$server/server.db.lock"
check 'where no server can be made, the installation fails' eval '! install "$version" coterie-server'
check 'and leaves no root key without a database' has_not "$server/root.key" "$server/server.db"
rmdir "$server/server.db.lock"
check 'and goes on when the reason is gone' does dpkg --configure coterie-server
check 'with a server that checks' server_is_good
check "and the operator's key" operator_key_is_one
check 'purge' does dpkg --purge coterie-server
check 'nothing is left' nothing_is_left
echo end
