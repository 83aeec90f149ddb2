#!/usr/bin/env bash
# The kernels on 64-bit Arm, without such a machine: builds their tests with Debian's cross toolchain and
# runs them in QEMU, on a CPU with the dot product instructions and on one without. Before that it checks
# that the crate compiles for this machine with the oldest Rust it supports, which is that toolchain's.
#
# Nothing is installed: packages are unpacked into a folder that later runs use again, $BITJOULE_CI_CACHE
# or else target/aarch64-toolchain. Where that is impossible the script says "skipped: <reason>" and
# succeeds. PROPTEST_CASES is the number of cases of each property test, 8 unless set.
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
cache=$(realpath -m "${BITJOULE_CI_CACHE:-target/aarch64-toolchain}")
root=$cache/root

# The Debian release whose rustc is the kernels' rust-version.
RELEASE=trixie
# The compiler, its libraries for both targets, the linker, the emulator; then what the first three load
# (they run with their own C library, so that the host may be older); then what Arm programs link.
PACKAGES=(rustc libstd-rust-dev libstd-rust-dev:arm64 lld-19 qemu-user
    libstd-rust-1.85 libllvm19 libc6 libgcc-s1 libstdc++6 zlib1g libzstd1 liblzma5 libffi8 libedit2
    libtinfo6 libbsd0 libmd0 libxml2 libicu76 libz3-4
    libc6:arm64 libc6-dev:arm64 libgcc-s1:arm64 libgcc-14-dev:arm64)

skip() {
    echo "skipped: $*"
    exit 0
}

# Downloads $PACKAGES and unpacks them into $root.
unpack() {
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg apt=$cache/apt mirror deb
    [ -e "$keys" ] || skip "this is no Debian: no $keys"
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
        grep -v '^ *#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ') || true
    [ -n "$mirror" ] || skip "apt's sources name no mirror of Debian"

    echo "unpacking the toolchain of Debian $RELEASE from $mirror into $cache"
    rm -rf "$apt" "$root"
    mkdir -p "$apt"/{lists/partial,archives/partial,debs} "$root/usr/lib"
    # Package lists of our own: the host's are of its own release, and not ours to change.
    echo "deb [arch=amd64,arm64 signed-by=$keys] $mirror $RELEASE main" >"$apt/sources.list"
    touch "$apt/status"
    local options=(-q -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State=$apt" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt"
        -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false -o APT::Sandbox::User=
        -o APT::Update::Error-Mode=any)
    apt-get "${options[@]}" update >"$apt/log" 2>&1 &&
        (cd "$apt/debs" && apt-get "${options[@]}" download "${PACKAGES[@]}") >>"$apt/log" 2>&1 ||
        skip "no packages of Debian $RELEASE from $mirror: $(tail -n 1 "$apt/log")"

    # As on an installed system, where the linker and the emulator look for libraries in /lib.
    ln -s usr/lib "$root/lib"
    for deb in "$apt"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
    find "$root/usr/bin" -name 'qemu-*' ! -name qemu-aarch64 -delete

    # Programs of the unpacked release start with its own loader and libraries. The linker's name tells
    # rustc that it takes ld's options; the objects around those are what gcc would add.
    mkdir -p "$cache/bin"
    cat >"$cache/bin/rustc" <<'END'
#!/bin/sh
root=$(dirname "$0")/../root
x86=$root/usr/lib/x86_64-linux-gnu
exec "$x86/ld-linux-x86-64.so.2" --library-path "$x86" "$root/usr/bin/rustc" --sysroot "$root/usr" "$@"
END
    cat >"$cache/bin/ld" <<'END'
#!/bin/sh
root=$(dirname "$0")/../root
x86=$root/usr/lib/x86_64-linux-gnu
arm=$root/usr/lib/aarch64-linux-gnu
gcc=$root/usr/lib/gcc/aarch64-linux-gnu/14
exec "$x86/ld-linux-x86-64.so.2" --library-path "$x86" "$root/usr/lib/llvm-19/bin/ld.lld" \
    --sysroot="$root" -dynamic-linker /lib/ld-linux-aarch64.so.1 -L "$arm" -L "$gcc" \
    "$arm/Scrt1.o" "$arm/crti.o" "$gcc/crtbeginS.o" "$@" "$gcc/crtendS.o" "$arm/crtn.o"
END
    chmod +x "$cache"/bin/{rustc,ld}
    rm -r "$apt"
}

# A workspace of the kernels alone, without the benchmark, whose library wants a newer Rust.
workspace() {
    mkdir -p "$cache/workspace/kernels"
    cd "$cache/workspace"
    awk '/^\[/ { keep = /^\[(workspace|profile)/ } keep' "$repository/Cargo.toml" >Cargo.toml
    awk '/^\[/ { keep = !/^\[\[bench/ } keep && !/^criterion/' "$repository/kernels/Cargo.toml" \
        >kernels/Cargo.toml
    cp "$repository/Cargo.lock" .
    ln -sfn "$repository"/kernels/{src,tests,build.rs} kernels
}

[ "$(uname -sm)" = "Linux x86_64" ] || skip "this is for x86-64 Linux; on 64-bit Arm the tests run as they are"
command -v apt-get dpkg-deb >/dev/null || skip "this is no Debian: no apt-get or dpkg-deb"

# What is there may be of an older list of packages, or half a download.
if [ "$(cat "$cache/unpacked" 2>/dev/null)" != "$RELEASE ${PACKAGES[*]}" ]; then
    rm -f "$cache/unpacked"
    unpack
    echo "$RELEASE ${PACKAGES[*]}" >"$cache/unpacked"
fi

workspace
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
export RUSTC=$cache/bin/rustc CARGO_TARGET_DIR=$cache/build
"$RUSTC" --version
cargo check --quiet --lib --target x86_64-unknown-linux-gnu
echo "compiles for x86_64"

export CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$cache/bin/ld
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$root/usr/bin/qemu-aarch64
export QEMU_LD_PREFIX=$root
export PROPTEST_CASES=${PROPTEST_CASES:-8}

# Runs the tests on the CPU model $1 and checks that they saw the instruction sets $2.
emulate() {
    echo "on the CPU '$1', $PROPTEST_CASES cases of each property:"
    QEMU_CPU=$1 cargo test --lib --tests -- --show-output >"$cache/log" 2>&1 || {
        cat "$cache/log"
        exit 1
    }
    grep -E '^(test |instruction sets: )' "$cache/log"
    grep -qx "instruction sets: $2" "$cache/log" || {
        echo "the instruction sets should have been: $2"
        exit 1
    }
}
emulate max "scalar neon neon-dotprod"
emulate cortex-a53 "scalar neon"
