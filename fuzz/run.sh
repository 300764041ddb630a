#!/usr/bin/env bash
# Runs one fuzz target, from the committed corpus on; what it finds new stays in fuzz/corpus until it is minimised.
#
#   fuzz/run.sh TARGET [SECONDS [EXECUTIONS]]     fuzz (60 seconds unless told; 0: no limit)
#   fuzz/run.sh --list                            the targets
#   fuzz/run.sh --minimise TARGET...              keep of a corpus what reaches all that it does (all targets if none is named)
#   fuzz/run.sh --coverage                        regions that the corpus reaches, file by file
#
# Needs rustup; the nightly toolchain and cargo-fuzz are installed where they are missing. Coverage needs no nightly, but
# llvm-profdata and llvm-cov of the compiler's LLVM version or newer (Debian: llvm-22; LLVM_BIN names their directory).
set -euo pipefail
cd "$(dirname "$0")/.."

need() {
    rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
    cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
}

# What is fuzzed is safe Rust: without AddressSanitizer it runs twice as often. Where libraries compare most (TOML, lattices),
# it runs several times as often if the fuzzer does not watch comparisons.
fuzz() {
    local how=()
    case $2 in
        bundle | certificate | diagnostics | enclave_file) how=(--no-trace-compares --target-dir fuzz/target/no-compares) ;;
    esac
    cargo +nightly fuzz "$1" --sanitizer none --release "${how[@]}" "${@:2}"
}

options() {
    local max_len
    case $1 in
        certificate | nodes | records | visits) max_len=512 ;;
        application | bundle | keys | reply | request | token) max_len=1024 ;;
        *) max_len=2048 ;;
    esac
    echo "-max_len=$max_len"
    case $1 in
        # Scripts do more the longer they are, from the start.
        records | visits) echo "-len_control=0" ;;
    esac
    if [[ -f fuzz/dictionaries/$1.dict ]]; then
        echo "-dict=fuzz/dictionaries/$1.dict"
    fi
}

coverage() {
    local bin=${LLVM_BIN:-/usr/lib/llvm-22/bin} out=fuzz/target/coverage crate test objects=() files
    rm -rf "$out/profiles" && mkdir -p "$out/profiles"
    export CARGO_TARGET_DIR=$PWD/$out RUSTFLAGS="-C instrument-coverage"
    for crate in coterie-proto coterie-control; do
        test=$(cargo test -p "$crate" --test fuzz_corpus --no-run --message-format=json |
            grep -o '"executable":"[^"]*fuzz_corpus[^"]*"' | cut -d'"' -f4)
        (cd "crates/$crate" && LLVM_PROFILE_FILE="$CARGO_TARGET_DIR/profiles/%p.profraw" "$test" --quiet >/dev/null)
        objects+=(${objects:+-object} "$test")
    done
    "$bin/llvm-profdata" merge -sparse "$out"/profiles/*.profraw -o "$out/corpus.profdata"
    files=$(ls crates/coterie-model/src/{codec,directory,addr,id}.rs crates/coterie-model/src/signed/{mod,authority,manifest,revocation,statement}.rs \
        crates/coterie-proto/src/wire/{datagram,control,ip}.rs crates/coterie-proto/src/query.rs \
        crates/coterie-proto/src/handshake/{payload,frame,cookie,exchange,initiator,responder,noise}.rs \
        crates/coterie-proto/src/node/*.rs crates/coterie-proto/src/{membership,limit}.rs crates/coterie-proto/src/session/*.rs \
        crates/coterie-proto/src/bootstrap/*.rs \
        crates/coterie-control/src/bundle/{*,*/*}.rs crates/coterie-control/src/file/*.rs \
        crates/coterie-control/src/{enrol/*,follow/message,issue/records}.rs | grep -v tests)
    # shellcheck disable=SC2086
    "$bin/llvm-cov" report "${objects[@]}" -instr-profile="$out/corpus.profdata" $files
}

case ${1:---help} in
    --list)
        ls fuzz/fuzz_targets | sed 's/\.rs$//'
        ;;
    --coverage)
        coverage
        ;;
    --minimise)
        need
        shift
        for target in ${*:-$(ls fuzz/fuzz_targets | sed 's/\.rs$//')}; do
            # A small set that reaches every edge; what a node does depends on how often, too.
            smallest=(-set_cover_merge=1 -use_counters=0)
            [[ $target == nodes || $target == visits ]] && smallest=()
            fuzz cmin "$target" -- "${smallest[@]}"
        done
        ;;
    --help | -h)
        sed -n '2,9s/^# \{0,1\}//p' "$0"
        ;;
    *)
        need
        mapfile -t arguments < <(options "$1")
        fuzz run "$1" -- "${arguments[@]}" -max_total_time="${2:-60}" -runs="${3:--1}"
        ;;
esac
