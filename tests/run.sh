#!/usr/bin/env bash
# Checks everything that can be checked on this machine; the last line says what could not be, and why.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo >/dev/null || { echo "error: no cargo here; install Rust 1.89 or later (rustup.rs)" >&2; exit 2; }

skipped=()
shared="${PETARD_SHARED:-../shared}"
mkdir -p target

# Unpacks the real CIFAR-10 once. Without it the tests that need it show as ignored.
unpack_cifar10() {
    local out=target/data/cifar10 python=python3 log=target/unpack.log
    [[ -n "${PETARD_CIFAR10:-}" || -f $out/cifar-10-batches-bin/test_batch.bin ]] && return
    [[ -f $shared/data/unpack.py ]] || { skipped+=("real CIFAR-10: no $shared/data"); return; }
    command -v python3 >/dev/null || { skipped+=("real CIFAR-10: no python3 to unpack it"); return; }
    if ! python3 -c 'import numpy, PIL' 2>/dev/null; then
        python=target/venv/bin/python
        { python3 -m venv target/venv && $python -m pip install --quiet numpy pillow; } >"$log" 2>&1 ||
            { skipped+=("real CIFAR-10: pip cannot install numpy and pillow, see $log"); return; }
    fi
    # Into a folder beside it, so that a broken run leaves nothing that looks whole.
    rm -rf "$out.part"
    if "$python" "$shared/data/unpack.py" "$out.part" >"$log" 2>&1; then
        rm -rf "$out" && mv "$out.part" "$out"
    else
        skipped+=("real CIFAR-10: unpacking failed, see $log")
    fi
}

# NVIDIA's run-time compiler, of which the tests of the kernels' resources need this version. No card is needed.
nvrtc_package=nvidia-cuda-nvrtc==13.0.88
install_nvrtc() {
    local out=target/nvrtc-wheel log=target/nvrtc.log
    [[ -n "${PETARD_NVRTC:-}" ]] && return
    if [[ "$(cat "$out/version" 2>/dev/null)" != "$nvrtc_package" ]]; then
        command -v python3 >/dev/null || { skipped+=("kernels by NVRTC: no python3 to install it"); return; }
        rm -rf "$out" "$out.part"
        if python3 -m pip install --quiet --no-deps --target "$out.part" "$nvrtc_package" >"$log" 2>&1; then
            echo "$nvrtc_package" >"$out.part/version" && mv "$out.part" "$out"
        else
            rm -rf "$out.part"
            skipped+=("kernels by NVRTC: pip cannot install $nvrtc_package, see $log")
            return
        fi
    fi
    export PETARD_NVRTC="$PWD/$out"
}

unpack_cifar10
install_nvrtc
if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; else skipped+=("cargo fmt: not installed"); fi
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --quiet --all-targets -- -D warnings
else
    skipped+=("cargo clippy: not installed")
fi
cargo test "$@" 2>&1 | tee target/tests.log
cargo build --release

# Ignored tests by their reason, which stands in brackets before the name.
while read -r count reason; do
    skipped+=("$count tests: $reason")
done < <(sed -n 's/^test \[\([^]]*\)\] .*\.\.\. ignored.*/\1/p' target/tests.log | sort | uniq -c)

if [[ ${#skipped[@]} == 0 ]]; then
    echo "all green, nothing skipped"
else
    printf -v list '%s; ' "${skipped[@]}"
    echo "all green; skipped: ${list%; }"
fi
