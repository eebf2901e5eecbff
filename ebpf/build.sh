#!/usr/bin/env bash
# Builds ebpf/prebuilt/ironpost.bpfel.{o,json} from source, or with --check proves that the committed object belongs to
# the source.
#
# Needs Debian's rustc-web, cargo-web, rust-web-src and llvm-22-dev, and bpf-linker 0.13.0 in PATH or ~/.cargo/bin.
# Users never need any of it: the object is committed and embedded.
#
# The object does not depend on where the checkout or the cargo registry lies (paths are remapped) and is the same byte for
# byte when compiler and linker are the recorded ones. --check therefore compares, strongest first:
#   1. the source hash and the object's hash written beside it: always;
#   2. the bytes of a rebuild: when the compiler and the linker are the recorded ones;
#   3. map definitions and record layouts (BTF) of a rebuild: with any other compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
kernel=$root/ebpf/ironpost-ebpf
prebuilt=$root/ebpf/prebuilt
llvm=${LLVM_PREFIX:-/usr/lib/llvm-22}/bin
cargo_home=${CARGO_HOME:-$HOME/.cargo}
export PATH="$PATH:$cargo_home/bin"
export CARGO_TARGET_DIR=${IRONPOST_EBPF_TARGET:-$root/ebpf/ironpost-ebpf/target}

fail() { echo "error: $1" >&2; echo "hint: $2" >&2; exit 1; }
for tool in /usr/bin/rustc /usr/bin/cargo "$llvm/llvm-objcopy"; do
  test -x "$tool" || fail "$tool is missing" "apt-get install rustc-web cargo-web rust-web-src llvm-22-dev"
done
command -v bpf-linker >/dev/null || fail "bpf-linker is missing" \
  "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker@0.13.0 --no-default-features --features llvm-22"

sources() { # every file the object is made from, in a stable order
  (cd "$root/ebpf" && find ironpost-ebpf/src ironpost-ebpf/Cargo.toml ironpost-ebpf/Cargo.lock \
    ironpost-ebpf-common/src ironpost-ebpf-common/Cargo.toml -type f | LC_ALL=C sort)
}
source_hash() { (cd "$root/ebpf" && sources | xargs sha256sum | sha256sum | cut -d' ' -f1); }
hash_of() { sha256sum "$1" | cut -d' ' -f1; }
field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "$prebuilt/ironpost.bpfel.json"; }
rustc_version=$(/usr/bin/rustc --version)
linker_version=$(bpf-linker --version)

build() { # build OUTPUT
  local flags="-C debuginfo=2 -C link-arg=--btf"
  flags+=" --remap-path-prefix=$root/ebpf=ebpf --remap-path-prefix=$cargo_home/registry/src=registry"
  flags+=" --remap-path-prefix=$(/usr/bin/rustc --print sysroot)=sysroot"
  (cd "$kernel" && env -u CARGO_ENCODED_RUSTFLAGS -u RUSTC_WRAPPER \
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" \
    /usr/bin/cargo build --quiet --locked --release --target bpfel-unknown-none -Z build-std=core)
  "$llvm/llvm-objcopy" --strip-debug "$CARGO_TARGET_DIR/bpfel-unknown-none/release/ironpost-ebpf" "$1"
}

layout() { # layout OBJECT: the records and maps of its BTF, without type numbers
  python3 "$root/ebpf/btf_layout.py" "$1"
}

if [ "${1:-}" != --check ]; then
  mkdir -p "$prebuilt"
  build "$prebuilt/ironpost.bpfel.o"
  cat >"$prebuilt/ironpost.bpfel.json" <<JSON
{
  "source_sha256": "$(source_hash)",
  "object_sha256": "$(hash_of "$prebuilt/ironpost.bpfel.o")",
  "object_bytes": $(stat -c %s "$prebuilt/ironpost.bpfel.o"),
  "instructions": $("$llvm/llvm-objdump" -d --no-show-raw-insn --section=xdp.frags "$prebuilt/ironpost.bpfel.o" | grep -c '^ *[0-9]*:'),
  "rustc": "$rustc_version",
  "linker": "$linker_version",
  "target": "bpfel-unknown-none"
}
JSON
  echo "built $prebuilt/ironpost.bpfel.o"
  exit 0
fi

[ "$(source_hash)" = "$(field source_sha256)" ] ||
  fail "ebpf/prebuilt was not built from this source" "make ebpf, then commit ebpf/prebuilt"
[ "$(hash_of "$prebuilt/ironpost.bpfel.o")" = "$(field object_sha256)" ] ||
  fail "ebpf/prebuilt/ironpost.bpfel.o is not the object its description names" "make ebpf, then commit ebpf/prebuilt"

# A fresh directory, so that nothing of an earlier build can answer for this one.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export CARGO_TARGET_DIR=$scratch/target
build "$scratch/object"
if [ "$rustc_version" = "$(field rustc)" ] && [ "$linker_version" = "$(field linker)" ]; then
  if ! cmp -s "$scratch/object" "$prebuilt/ironpost.bpfel.o"; then
    diff <("$llvm/llvm-objdump" -d "$prebuilt/ironpost.bpfel.o" | tail -n +3) <("$llvm/llvm-objdump" -d "$scratch/object" | tail -n +3) | head -40 >&2 || true
    fail "a rebuild differs from ebpf/prebuilt/ironpost.bpfel.o" "make ebpf, look at the difference above, commit ebpf/prebuilt"
  fi
  echo "ebpf/prebuilt: same bytes as a rebuild ($rustc_version, $linker_version)"
else
  diff <(layout "$prebuilt/ironpost.bpfel.o") <(layout "$scratch/object") >&2 ||
    fail "maps or records of a rebuild differ from ebpf/prebuilt/ironpost.bpfel.o" "make ebpf, then commit ebpf/prebuilt"
  echo "ebpf/prebuilt: same source, maps and records; bytes not compared, the recorded compiler is $(field rustc), here is $rustc_version"
fi
