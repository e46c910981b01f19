#!/usr/bin/env python3
"""Petard and PyTorch by turns: who takes how many PGD steps a second on the same networks, batch and threads.

  cargo bench --no-run && python3 benches/peers/ab.py [--peer-python PYTHON] [--threads 1] [--rounds 5] [NET:BATCH ..]
  python3 benches/peers/ab.py --train pgd10.eval          images trained on a second: attack and SGD step together
  python3 benches/peers/ab.py --against OTHER_BINARY      two builds of Petard, such as two commits

A round is A, NCHW, A, channels_last (or A, B), so each sample of the peer stands beside one of ours, and what disturbs
the machine disturbs both. The ratio is the peer's better layout over ours: above 1 we are faster. On one thread it is
taken from CPU time, which other processes do not spoil; on more from wall time, which needs a quiet machine.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
# Ratio that must hold, and the one aimed at.
GOALS = {
    ("resnet18-cifar10", 64): (2.0, 2.7),
    ("vgg16-bn-cifar10", 64): (None, 2.5),
    ("resnet20-cifar10", 64): (1.5, 2.0),
    ("resnet18-cifar10", 1): (1.0, None),
    ("vgg16-bn-cifar10", 1): (1.0, None),
    ("resnet20-cifar10", 1): (1.0, None),
}
TRAINING_GOALS = {("resnet18-cifar10", 64): (2.0, None)}


class Side:
    """A process that answers requests with seconds."""

    def __init__(self, command, threads, greets):
        env = dict(os.environ, PETARD_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
        )
        self.about = self.read() if greets else {}

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            hint = "\nhint: name a Python that has torch with `--peer-python`" if "--threads" in self.command else ""
            sys.exit(f"error: `{shlex.join(self.command)}` ended without an answer{hint}")
        answer = json.loads(line)
        if "error" in answer:
            sys.exit(f"error: `{shlex.join(self.command)}`: {answer['error']}")
        return answer

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def newest_bench(name):
    """The bench that `cargo bench --no-run` left."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "deps"
    built = [p for p in folder.glob(f"{name}-*") if p.suffix in ("", ".exe")]
    if not built:
        sys.exit(f"error: no {name} bench in `{folder}`\nhint: run `cargo bench --no-run`, or name it with `--ours`")
    return str(max(built, key=lambda p: p.stat().st_mtime))


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def load():
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def header(options, ours, peer):
    commit = output("git", "rev-parse", "--short", "HEAD") + ("+changes" if output("git", "status", "--porcelain") else "")
    print(f"# {time.strftime('%Y-%m-%d %H:%M:%S %z')}, {processor()}, {os.cpu_count()} cores, load {load()}")
    print(f"# petard {commit}, {output('rustc', '--version')}, threads {options.threads}, rounds {options.rounds}")
    print(f"# A: {shlex.join(ours.command)}")
    print(f"# B: {shlex.join(peer.command)} {json.dumps(peer.about) if peer.about else ''}")
    print(f"# {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}", flush=True)


def compare(options, ours, peer, layouts, net, batch):
    """Images times steps a second of all sides, as lists of samples; layout `None` is ours."""
    clock = "cpu" if options.threads == 1 else "wall"
    recipe = (options.train,) if options.train else ()
    # The first step builds and warms what the measured ones need.
    for side, words in ((ours, ()), *((peer, layout) for layout in layouts)):
        side.ask(net, batch, 1, *words, *recipe)
    slowest = max(
        ours.ask(net, batch, 1, *recipe)[clock], *(peer.ask(net, batch, 1, *layout, *recipe)[clock] for layout in layouts)
    )
    steps = max(1, round(options.seconds / slowest))
    rates = {}
    for _ in range(options.rounds):
        for layout in layouts:
            for side, key, words in ((ours, None, recipe), (peer, layout, (*layout, *recipe))):
                rates.setdefault(key, []).append(batch * steps / side.ask(net, batch, steps, *words)[clock])
    return rates, steps


def row(goals, net, batch, rates, steps):
    """Prints and returns the comparison; goals are set against PyTorch, which has two layouts."""
    def text(values):
        return f"{median(values):8.1f} ({min(values):.1f} to {max(values):.1f})"

    mine = median(rates[None])
    peers = {" ".join(key): values for key, values in rates.items() if key is not None}
    ratio = mine / max(median(values) for values in peers.values())
    gate, goal = goals.get((net, batch), (None, None)) if len(peers) > 1 else (None, None)
    verdict = " ".join(f"{name} {value}: {'yes' if ratio >= value else 'NO'}" for name, value in (("gate", gate), ("goal", goal)) if value)
    sides = "  ".join(f"{name or 'B'} {text(values)}" for name, values in peers.items())
    print(f"{net}:{batch:<3} A {text(rates[None])}  {sides}  ratio {ratio:.2f}  {verdict}  [{steps} steps a sample]", flush=True)
    return {"net": net, "batch": batch, "steps": steps, "ratio": ratio, "ours": rates[None], "peers": peers}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a sample of the slowest side")
    parser.add_argument("--ours", help="our bench binary; default: the newest that cargo built")
    parser.add_argument("--against", help="another build of our bench in the peer's place")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--train", metavar="RECIPE", help="steps of training: standard, fgsm-rs, pgd10.eval, pgd10.train, pgd3.eval ..")
    parser.add_argument("--out", help="file for all samples as JSON")
    parser.add_argument("pairs", nargs="*", metavar="NET:BATCH")
    options = parser.parse_args()
    bench, goals = ("train", TRAINING_GOALS) if options.train else ("attack", GOALS)

    ours = Side([options.ours or newest_bench(bench), "--serve"], options.threads, greets=False)
    if options.against:
        peer, layouts = Side([options.against, "--serve"], options.threads, greets=False), [()]
    else:
        script = str(Path(__file__).with_name("pgd_torch.py"))
        command = [options.peer_python, script, "--serve", "--threads", str(options.threads)]
        peer, layouts = Side(command, options.threads, greets=True), [("nchw",), ("channels_last",)]
    header(options, ours, peer)
    rows = []
    for pair in options.pairs or [f"{net}:{batch}" for net, batch in goals]:
        net, _, batch = pair.partition(":")
        rates, steps = compare(options, ours, peer, layouts, net, int(batch or 64))
        rows.append(row(goals, net, int(batch or 64), rates, steps))
    unit = "images trained on" if options.train else "image-steps"
    print(f"# load at the end {load()}; {unit} per {'CPU second' if options.threads == 1 else 'second'}: median (least to most)")
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")
    for side in (ours, peer):
        side.close()


main()
