#!/usr/bin/env bash
# Tests, times and compares Petard on an NVIDIA card; what came out goes into a folder as JSON lines and Markdown.
#
#   bash benches/gpu.sh build        builds what the parts run into target/gpu; needs cargo, no card
#   bash benches/gpu.sh check OUT    the tests on the card, then the same under compute-sanitizer where it works
#   bash benches/gpu.sh bench OUT    the benches on the card
#   bash benches/gpu.sh peers OUT    against PyTorch by turns; PETARD_PYTHON is a python that has torch [python3]
#
# The parts need no cargo, and each ends within nine minutes: PETARD_BUDGET, in seconds, sets another limit.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=target/gpu
budget="${PETARD_BUDGET:-530}"
python="${PETARD_PYTHON:-python3}"

fail() { echo "error: $1" >&2; exit 2; }

build() {
    mkdir -p "$bin"
    # The path of the binary of a target, as cargo itself tells it.
    built() {
        local target=$1
        shift
        cargo "$@" --message-format=json | "$python" -c '
import json, sys
made = [m for m in map(json.loads, sys.stdin) if m.get("executable")]
print([m["executable"] for m in made if m["target"]["name"] == sys.argv[1]][-1])' "$target"
    }
    cp "$(built main test --release --no-run --test main)" "$bin/tests"
    cp "$(built ops bench --no-run --bench ops)" "$bin/ops"
    cp "$(built attack bench --no-run --bench attack)" "$bin/attack"
    cp "$(built train bench --no-run --bench train)" "$bin/train"
    cp "$(built petard build --release --bin petard)" "$bin/petard"
    strip "$bin"/{tests,ops,attack,train,petard}
    { git rev-parse --short HEAD 2>/dev/null || echo unknown; } >"$bin/commit"
    ls -l "$bin"
}

# What was measured on what: the first line of every file.
about() {
    local query=name,driver_version,memory.total,clocks.max.sm,power.limit
    "$python" - "$(cat "$bin/commit" 2>/dev/null || echo unknown)" \
        "$(nvidia-smi --query-gpu=$query --format=csv,noheader -i 0 2>/dev/null || echo none)" <<'PY'
import json, platform, sys, time
commit, card = sys.argv[1:]
print(json.dumps({"commit": commit, "card": card, "cpu": platform.processor() or platform.machine(),
                  "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())}))
PY
}

# step NAME SECONDS COMMAND..: runs it for SECONDS at most and never beyond the budget; keeps its output and how it ended.
step() {
    local name=$1 limit=$2 code=0 start=$SECONDS
    shift 2
    local left=$((budget - SECONDS))
    if ((left < 10)); then
        record "$name" "no time left" 0
        return
    fi
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" >"$out/$name.log" 2>&1 || code=$?
    case $code in
        # What ran on the processor after all must not pass for a result of the card.
        0) if grep -qE '::cuda|/cuda|cuda:0' "$out/$name.log"; then code=ok; else code="ended well, but nothing in it names cuda"; fi
            record "$name" "$code" $((SECONDS - start)) ;;
        124 | 137) record "$name" "out of time" $((SECONDS - start)) ;;
        *) record "$name" "exit code $code" $((SECONDS - start)) ;;
    esac
}

record() {
    printf '{"part": "%s", "step": "%s", "result": "%s", "seconds": %d}\n' "$part" "$1" "$2" "$3" >>"$out/$part.json"
    printf '| %s | %s | %d s |\n' "$1" "$2" "$3" >>"$out/$part.md"
    echo "$1: $2 ($3 s)"
}

# Lines of a log that tell the result, to go under the table.
quote() {
    [[ -f "$out/$1.log" ]] || return 0
    { echo; echo "$1:"; echo; grep -E "$2" "$out/$1.log" | tail -n "${3:-40}" | sed 's/^/    /' || true; } >>"$notes"
}

check() {
    step devices 30 "$bin/petard" devices
    step tests 300 "$bin/tests" ::cuda
    quote devices . 10
    quote tests '^test result|FAILED|failed' 20
    command -v compute-sanitizer >/dev/null || { record sanitizer "not installed" 0; return 0; }
    for tool in memcheck racecheck synccheck; do
        step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/tests" ::cuda --test-threads 1
        quote "$tool" '^=========' 20
    done
}

bench() {
    step ops 280 env PETARD_DEVICE=cuda:0 "$bin/ops" --bench cuda
    for precision in f32 tf32 bf16; do
        step "attack-$precision" 80 env PETARD_DEVICE=cuda:0 PETARD_PRECISION="$precision" "$bin/attack" --bench cuda
        quote "attack-$precision" 'image-steps' 40
    done
    quote ops 'FLOP/s|GB/s' 200
}

peers() {
    "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null ||
        fail "\`$python\` has no torch that sees a card; PETARD_PYTHON names another"
    step peers 520 "$python" benches/peers/ab_cuda.py --peer-python "$python" --ours "$bin/attack" --train "$bin/train" \
        --out "$out/peers-samples.json"
    quote peers . 60
}

part="${1:-}"
case $part in
    build) build ;;
    check | bench | peers)
        out="${2:-}"
        [[ -n "$out" ]] || fail "name a folder for the results: \`bash benches/gpu.sh $part OUT\`"
        [[ -x "$bin/petard" ]] || fail "nothing is built: \`bash benches/gpu.sh build\` first"
        mkdir -p "$out"
        about >"$out/$part.json"
        printf '# %s\n\n%s\n\n| step | result | time |\n|---|---|---|\n' "$part" "$(cat "$out/$part.json")" >"$out/$part.md"
        notes=$(mktemp)
        trap 'rm -f "$notes"' EXIT
        "$part"
        cat "$notes" >>"$out/$part.md"
        echo "see $out/$part.md"
        ;;
    *) fail "\`${part}\` is no part: build, check, bench or peers" ;;
esac
