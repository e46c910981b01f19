#!/usr/bin/env python3
"""Petard and PyTorch by turns on one CUDA card: PGD steps a second on the same networks and batches, training steps too.

  cargo bench --no-run && python3 benches/peers/ab_cuda.py --ours ATTACK_BENCH [--train TRAIN_BENCH] [--out FILE.json]

Ours runs in bf16, tf32 and f32; PyTorch in every setting of `cuda_torch.py` that works. A round is A, B, A, C ..; the
ratio is ours over the best setting of PyTorch of the same precision class, and over torchattacks as shipped. Medians with
their spread; the copy bandwidth and the matmul rate of the card stand in the header, measured by PyTorch in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

PGD = [("resnet18-cifar10", 512), ("resnet18-cifar10", 128), ("vgg16-bn-cifar10", 512), ("wrn-34-10-cifar10", 256)]
TRAIN = [("resnet18-cifar10", 512)]
# Settings of the peer to be compared with each precision of ours.
PEERS = {"bf16": ["autocast", "bf16", "compiled", "graph"], "tf32": ["tf32"], "f32": ["fp32", "torchattacks"]}
STEPS = 10


class Side:
    """A process that answers lines."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )

    def read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "ended without an answer"}

    def ask(self, text):
        try:
            print(text, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return {"error": "has ended"}
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def ours(side, text, images):
    """Images or image-steps a second, warm."""
    side.ask(text)
    answers = [side.ask(text) for _ in range(5)]
    return [images / a["wall"] for a in answers if "wall" in a], next((a["error"] for a in answers if "error" in a), None)


def line(name, rates, wrong):
    if not rates:
        return f"  {name:<14} {wrong}"
    return f"  {name:<14} {median(rates):>12.0f}/s ({min(rates):.0f} to {max(rates):.0f})"


def compare(petards, peer, what, net, batch, steps, seconds_left):
    print(f"{what} {net}, batch {batch}, {steps} steps", flush=True)
    row = {"what": what, "net": net, "batch": batch, "steps": steps, "ours": {}, "peers": {}}
    # Between two readings of PyTorch stands one of ours, so that a slow minute hits both.
    for precision, settings in PEERS.items():
        mine = []
        for setting in settings:
            if seconds_left() < 0:
                print("  out of time", flush=True)
                return row
            words = f"{net} {batch} {STEPS * 10}" if what == "pgd" else f"{net} {batch} 3 pgd{steps}.eval"
            images = batch * (STEPS * 10 if what == "pgd" else 3)
            rates, wrong = ours(petards[precision], words, images)
            mine += rates
            ask = {"what": what, "net": net, "batch": batch, "setting": setting, "steps": steps}
            answer = peer.ask(json.dumps(ask))
            each = batch * steps if what == "pgd" else batch
            peers = [each / s for s in answer.get("seconds", [])]
            row["peers"][setting] = peers or answer.get("error")
            print(line(setting, peers, answer.get("error")), flush=True)
        row["ours"][precision] = mine or wrong
        print(line(f"petard {precision}", mine, wrong), flush=True)
        best = [median(v) for k, v in row["peers"].items() if k in settings and isinstance(v, list)]
        if mine and best:
            row[f"ratio_{precision}"] = median(mine) / max(best)
            print(f"  ratio {precision}: {row[f'ratio_{precision}']:.2f}", flush=True)
    shipped = row["peers"].get("torchattacks")
    if isinstance(shipped, list) and isinstance(row["ours"].get("bf16"), list):
        row["ratio_torchattacks"] = median(row["ours"]["bf16"]) / median(shipped)
        print(f"  ratio to torchattacks as shipped: {row['ratio_torchattacks']:.2f}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the attack bench")
    parser.add_argument("--train", help="the train bench; without it training is not compared")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--budget", type=float, default=480, help="seconds after which no new comparison begins")
    parser.add_argument("--out")
    options = parser.parse_args()
    begin = time.monotonic()
    left = lambda: options.budget - (time.monotonic() - begin)
    peer = Side([options.peer_python, str(Path(__file__).with_name("cuda_torch.py")), "--serve"])
    about = peer.read()
    on = lambda binary, precision: Side([binary, "--serve"], {"PETARD_DEVICE": "cuda:0", "PETARD_PRECISION": precision})
    print(f"# {time.strftime('%Y-%m-%d %H:%M:%S %z')} {json.dumps(about)}")
    rows = [{"about": about}]
    for ask in ({"what": "copy"}, {"what": "matmul", "type": "bf16"}, {"what": "matmul", "type": "tf32"}):
        answer = peer.ask(json.dumps(ask))
        rows.append({**ask, **answer})
        rate = next((v for v in answer.values() if isinstance(v, list)), None)
        print(f"# {ask['what']} {ask.get('type', '')}: {median(rate):.3e}/s" if rate else f"# {ask}: {answer}", flush=True)
    for what, binary, cases in (("pgd", options.ours, PGD), ("train", options.train, TRAIN)):
        if not binary:
            continue
        petards = {precision: on(binary, precision) for precision in PEERS}
        for net, batch in cases:
            rows.append(compare(petards, peer, what, net, batch, STEPS, left))
        for side in petards.values():
            side.close()
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=1) + "\n")
    peer.close()


main()
