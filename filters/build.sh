#!/usr/bin/env bash
# Builds the filters for wasm32-wasip1, as one module, and puts it at target/filters/sallyport.wasm.
#
# The standard library for that target comes from the first available source:
#   1. the pinned toolchain;
#   2. Debian's rustc-web, rust-web-src and wasi-libc, if installed already;
#   3. `rustup target add`;
#   4. the same Debian packages, installed with apt-get, as root only.
# `filters/build.sh panic` builds the filters with a panic, for a test, and puts them at target/filters-panic/sallyport.wasm.
# The file is replaced whole, and only when its content changed: a running gateway reloads it.
# The script never removes a package, never changes a toolchain except to add that target, and never falls
# back to an older file when a build fails.
set -euo pipefail
# Cargo has its own jobs: the descriptors of a parallel make are closed here.
unset MAKEFLAGS

readonly target=wasm32-wasip1
readonly packages=(rustc-web rust-web-src wasi-libc)
readonly debian_rustc=/usr/bin/rustc
readonly debian_std=/usr/lib/rustlib/src/rust/library/std/Cargo.toml
readonly debian_libc=/usr/lib/wasm32-wasi

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "filters: $*" >&2; }
die() { say "$*"; exit 1; }

if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    die "Rust is missing: install rustup from https://rustup.rs and run this again."
fi
sysroot=$(rustc --print sysroot) ||
    die "the pinned toolchain is missing: run 'rustup toolchain install' in $PWD and try again."

toolchain_has_std() { compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null; }

# A Debian rustc older than the workspace's rust-version doesn't count.
debian_has_std() {
    [[ -x $debian_rustc && -e $debian_std && -e $debian_libc/libc.a ]] || return 1
    local have want
    have=$("$debian_rustc" --version | cut -d' ' -f2)
    want=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
    [[ $(printf '%s\n' "$want" "$have" | sort -V | head -n 1) == "$want" ]]
}

# Offline this must fail soon, so that the next source gets its turn.
rustup_adds_std() {
    command -v rustup >/dev/null || return 1
    say "asking rustup for the target $target"
    RUSTUP_MAX_RETRIES=0 timeout 90 rustup target add "$target" </dev/null >/dev/null 2>&1 && toolchain_has_std
}

apt_adds_std() {
    command -v apt-get >/dev/null && [[ $(id -u) == 0 ]] || return 1
    say "installing ${packages[*]} with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null >/dev/null &&
        apt-get install -y -qq --no-remove --no-install-recommends "${packages[@]}" </dev/null >/dev/null &&
        debian_has_std
}

case ${1:-} in
"") crate=filter-chain placed_in=target/filters ;;
panic) crate=filters-panic placed_in=target/filters-panic ;;
*) die "unknown build '$1': the builds are '' and 'panic'" ;;
esac

build=(cargo rustc --profile wasm --target "$target" -p "$crate" --lib --crate-type cdylib)
if [[ ${CI:-} == true ]] && git ls-files --error-unmatch Cargo.lock >/dev/null 2>&1; then
    build+=(--locked)
fi

build_with_toolchain() {
    out=target
    "${build[@]}" --target-dir "$out"
}

# This rustc differs from the native build's, so it has its own target directory. RUSTFLAGS would override the
# flags for the target, so it is not passed on.
build_with_debian() {
    out=target/wasm-std
    local host lld
    host=$(rustc -vV | sed -n 's/^host: //p')
    lld=$sysroot/lib/rustlib/$host/bin/rust-lld
    [[ -x $lld ]] || die "the Rust toolchain has no rust-lld: install the target with 'rustup target add $target'."
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
        RUSTC=$debian_rustc RUSTC_BOOTSTRAP=1 \
        CARGO_TARGET_WASM32_WASIP1_LINKER="$lld" \
        CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-C link-self-contained=no -L$debian_libc" \
        "${build[@]}" --target-dir "$out" -Zbuild-std=std,panic_abort
}

if toolchain_has_std; then
    build_with_toolchain
elif debian_has_std; then
    build_with_debian
elif rustup_adds_std; then
    build_with_toolchain
elif apt_adds_std; then
    build_with_debian
else
    die "the standard library for $target is missing: run 'rustup target add $target'," \
        "or on Debian 'apt-get install ${packages[*]}' as root, and try again."
fi

mkdir -p "$placed_in"
built=$out/$target/wasm/${crate//-/_}.wasm
placed=$placed_in/sallyport.wasm
if ! cmp -s "$built" "$placed"; then
    cp -- "$built" "$placed.$$"
    mv -f -- "$placed.$$" "$placed"
fi
