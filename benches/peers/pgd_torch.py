#!/usr/bin/env python3
"""The peer of `benches/attack.rs` and `benches/train.rs`: PyTorch in eager mode, as its best users write it.

PGD on a fixed network: weights are frozen (no gradient is made for them), the network is in eval mode, the batch stays in
memory, and only the gradient of the image is asked for. Training: SGD with momentum on the cross-entropy; an attack before
it asks for the gradient of the image alone too, with batch norms in eval or in train mode. The networks are those of the
cards in `models/`, normalisation included.

  pgd_torch.py [--threads N] [--seconds S] [--recipe R] [NET ..]    every network, layout and batch, one JSON line each
  pgd_torch.py --serve [--threads N]          answers `NET BATCH STEPS LAYOUT [RECIPE]` with the seconds of all steps

LAYOUT is `nchw` or `channels_last`. RECIPE makes a step one of training: `standard`, `fgsm-rs`, `pgd10.eval`, `pgd10.train`.
"""

import argparse
import json
import os
import sys
import time

CIFAR = {
    "resnet18-cifar10": dict(widths=[64, 128, 256, 512], blocks=[2, 2, 2, 2], std=[0.2023, 0.1994, 0.2010]),
    "resnet8-cifar10": dict(widths=[16, 32, 64], blocks=[1, 1, 1], std=[0.2471, 0.2435, 0.2616]),
    "resnet20-cifar10": dict(widths=[16, 32, 64], blocks=[3, 3, 3], std=[0.2471, 0.2435, 0.2616]),
    "vgg16-bn-cifar10": dict(stages=[(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], std=[0.2023, 0.1994, 0.2010]),
}
MEAN = [0.4914, 0.4822, 0.4465]
LAYOUTS = ["nchw", "channels_last"]
WARM_UP = 2
EPS, ALPHA = 8 / 255, 2 / 255

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("nets", nargs="*", metavar="NET", help="names of cards: " + ", ".join(CIFAR))
arguments.add_argument("--threads", type=int, default=1)
arguments.add_argument("--seconds", type=float, default=1.0, help="least length of one measurement")
arguments.add_argument("--batch", type=int, nargs="*", default=[64, 1])
arguments.add_argument("--recipe", help="train instead of attack: standard, fgsm-rs, pgd10.eval, pgd10.train")
arguments.add_argument("--serve", action="store_true")
options = arguments.parse_args()

# Read when torch is imported.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = str(options.threads)

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from nets import Normalise, Residual, conv_bn, head, stages, vgg  # noqa: E402


def resnet(widths, blocks):
    layers = [conv_bn(3, widths[0], 3, 1), nn.ReLU(inplace=True)]
    return layers + stages(Residual, widths[0], widths, blocks) + head(widths[-1])


def network(name):
    """The network of a card with seeded weights that keep activations of order one, and batch norms that do something."""
    torch.manual_seed(0)
    sizes = dict(CIFAR[name])
    std = sizes.pop("std")
    net = nn.Sequential(Normalise(MEAN, std), *(vgg(sizes["stages"]) if "stages" in sizes else resnet(**sizes)))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            nn.init.normal_(layer.bias, 0.0, 0.1)
            layer.running_mean.normal_(0.0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return net.eval().requires_grad_(False)


class Attack:
    """PGD on one batch, a step at a time."""

    def __init__(self, name, batch, layout):
        memory = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        self.net = network(name).to(memory_format=memory)
        draw = torch.Generator().manual_seed(1)
        self.clean = torch.rand(batch, 3, 32, 32, generator=draw).contiguous(memory_format=memory)
        self.label = self.net(self.clean).argmax(1)
        self.x = self.clean.clone()
        self.run(WARM_UP)

    def run(self, steps):
        """Seconds that `steps` steps take."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            x = self.x.requires_grad_(True)
            loss = F.cross_entropy(self.net(x), self.label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            with torch.no_grad():
                x = x + ALPHA * gradient.sign()
                x = torch.clamp(self.clean + torch.clamp(x - self.clean, -EPS, EPS), 0, 1)
            self.x = x.detach()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


class Training:
    """SGD on one batch, attacked anew in each step where the recipe does."""

    def __init__(self, name, batch, layout, recipe):
        memory = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        self.net = network(name).train().requires_grad_(True).to(memory_format=memory)
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        draw = torch.Generator().manual_seed(1)
        self.clean = torch.rand(batch, 3, 32, 32, generator=draw).contiguous(memory_format=memory)
        self.label = torch.randint(10, (batch,), generator=draw)
        self.start = (self.clean + EPS * (2 * torch.rand(self.clean.shape, generator=draw) - 1)).clamp(0, 1)
        self.start = self.start.contiguous(memory_format=memory)
        self.attack_steps, self.alpha, self.attack_mode = attack_of(recipe)
        self.run(1)

    def run(self, steps):
        """Seconds that `steps` steps take."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            x = self.crafted() if self.attack_steps else self.clean
            self.sgd.zero_grad(set_to_none=True)
            F.cross_entropy(self.net(x), self.label).backward()
            self.sgd.step()
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    def crafted(self):
        # Weights that ask for no gradient leave out of the graph what only their gradients need.
        self.net.requires_grad_(False).train(self.attack_mode == "train")
        x = self.start
        for _ in range(self.attack_steps):
            x = x.detach().requires_grad_(True)
            loss = F.cross_entropy(self.net(x), self.label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            with torch.no_grad():
                x = x + self.alpha * gradient.sign()
                x = torch.clamp(self.clean + torch.clamp(x - self.clean, -EPS, EPS), 0, 1)
        self.net.requires_grad_(True).train()
        return x


def attack_of(recipe):
    """Steps, their length, and the mode of batch norms."""
    if recipe == "standard":
        return 0, 0.0, "train"
    if recipe == "fgsm-rs":
        return 1, 1.25 * EPS, "train"
    steps, mode = recipe.removeprefix("pgd").split(".")
    if mode not in ("eval", "train"):
        raise KeyError(recipe)
    return int(steps), ALPHA, mode


def subject(name, batch, layout, recipe=None):
    return Training(name, batch, layout, recipe) if recipe else Attack(name, batch, layout)


def serve():
    subjects = {}
    for line in sys.stdin:
        try:
            name, batch, steps, layout, *recipe = line.split()
            key = (name, int(batch), layout, *recipe)
            if key not in subjects:
                subjects[key] = subject(*key)
            answer = subjects[key].run(int(steps))
        except (TypeError, ValueError, KeyError) as wrong:
            answer = {"error": f"`{line.strip()}` is not `NET BATCH STEPS LAYOUT [RECIPE]`: {wrong!r}"}
        print(json.dumps(answer), flush=True)


def measure(name, batch, layout):
    run = subject(name, batch, layout, options.recipe).run
    steps = max(1, round(options.seconds / run(1)["wall"]))
    times = sorted((run(steps) for _ in range(5)), key=lambda t: t["wall"])
    wall, cpu = (batch * steps / times[2][clock] for clock in ("wall", "cpu"))
    return {"net": name, "batch": batch, "layout": layout, "per_second": round(wall, 1), "per_cpu_second": round(cpu, 1)}


torch.set_num_threads(options.threads)
about = {
    "torch": torch.__version__,
    "python": sys.version.split()[0],
    "threads": torch.get_num_threads(),
    "vector": torch.backends.cpu.get_cpu_capability(),
    "onednn": torch.backends.mkldnn.is_available(),
}
print(json.dumps(about), flush=True)
if options.serve:
    serve()
else:
    for name in options.nets or CIFAR:
        for batch in options.batch:
            for layout in LAYOUTS:
                print(json.dumps(measure(name, batch, layout)), flush=True)
