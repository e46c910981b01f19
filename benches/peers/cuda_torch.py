#!/usr/bin/env python3
"""The peer of `benches/cuda.rs`: PGD, adversarial training and single layers in PyTorch on a CUDA card.

  cuda_torch.py --serve      answers a line of JSON with a line of JSON; the first line out says what is installed

  {"what": "copy"}                                                          bytes a second of a large copy
  {"what": "matmul", "type": "bf16"}                                        operations a second of 8192^3
  {"what": "pgd", "net": N, "batch": B, "setting": S, "steps": K}           seconds of K steps
  {"what": "train", "net": N, "batch": B, "setting": S, "steps": K}         seconds of one step on K attack steps (0: plain)
  {"what": "conv", "direction": D, "n": .., "c": .., "hw": .., "k": .., "r": .., "stride": .., "type": T}    seconds

Settings, each as good as PyTorch's users get it: `fp32` and `tf32` eager NCHW; `autocast` bf16 under autocast,
channels_last; `bf16` a network of bf16, channels_last; `compiled` that under torch.compile(mode="max-autotune");
`graph` the better of `bf16` and `compiled` with all steps in one CUDA graph; `torchattacks` that library as shipped (fp32).
Weights are frozen in attacks and only the gradient of the image is asked for. Every answer holds the seconds of each of
five samples of at least `--seconds`, timed by CUDA events after a warm-up.
"""

import argparse
import json
import sys

import torch
from torch import nn
from torch.nn import functional as F

from nets import Normalise, Preactivated, Residual, conv_bn, head, stages, vgg

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("--serve", action="store_true")
arguments.add_argument("--seconds", type=float, default=0.5)
arguments.add_argument("--samples", type=int, default=5)
options = arguments.parse_args()

DEVICE = "cuda"
EPS, ALPHA = 8 / 255, 2 / 255
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]


def layers_of(name):
    first = lambda channels: nn.Conv2d(3, channels, 3, 1, 1, bias=False)
    last = lambda channels: [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), *head(channels)]
    widths = [64, 128, 256, 512]
    if name == "resnet18-cifar10":
        return [conv_bn(3, 64, 3, 1), nn.ReLU(inplace=True)] + stages(Residual, 64, widths, [2] * 4) + head(512)
    if name == "preactresnet18-cifar10":
        return [first(64)] + stages(Preactivated, 64, widths, [2] * 4) + last(512)
    if name == "wrn-34-10-cifar10":
        return [first(16)] + stages(Preactivated, 16, [160, 320, 640], [5] * 3) + last(640)
    if name == "vgg16-bn-cifar10":
        return vgg([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)])
    if name in ("resnet50", "vgg16"):
        import torchvision

        return [getattr(torchvision.models, name)(weights=None)]
    raise KeyError(name)


def network(name):
    torch.manual_seed(0)
    net = nn.Sequential(Normalise(MEAN, STD), *layers_of(name))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.0)
            layer.running_mean.normal_(0.0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    return net.to(DEVICE)


def side(name):
    return 224 if name in ("resnet50", "vgg16") else 32


def sampled(once):
    """Seconds of one `once` in each sample; `once` is warmed up before."""
    for _ in range(3):
        once()
    torch.cuda.synchronize()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(count):
        begin.record()
        for _ in range(count):
            once()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    count = max(1, round(options.seconds / max(timed(1), 1e-6)))
    return [timed(count) / count for _ in range(options.samples)]


class Attack:
    """PGD on one batch in one of the settings."""

    def __init__(self, name, batch, setting):
        tf32 = setting not in ("fp32", "torchattacks")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
        memory = torch.contiguous_format if setting in ("fp32", "tf32", "torchattacks") else torch.channels_last
        self.setting = setting
        self.net = network(name).eval().requires_grad_(False).to(memory_format=memory)
        size = side(name)
        draw = torch.Generator(device=DEVICE).manual_seed(1)
        self.clean = torch.rand(batch, 3, size, size, generator=draw, device=DEVICE).contiguous(memory_format=memory)
        self.label = self.net(self.clean).argmax(1)
        noise = (2 * torch.rand(self.clean.shape, generator=draw, device=DEVICE) - 1) * EPS
        self.begin = (self.clean + noise).clamp(0, 1).contiguous(memory_format=memory)
        # Normalisation stays in f32: the attack lives in pixels.
        self.normalise, self.body = self.net[0], self.net[1:]
        self.half = setting in ("bf16", "compiled", "graph")
        if self.half:
            self.body = self.body.to(torch.bfloat16)
        if setting in ("compiled", "graph"):
            mode = "max-autotune" if setting == "compiled" else "max-autotune-no-cudagraphs"
            self.body = torch.compile(self.body, mode=mode)

    def logits(self, x):
        x = self.normalise(x)
        if self.setting == "autocast":
            with torch.autocast("cuda", torch.bfloat16):
                return self.body(x).float()
        return self.body(x.to(torch.bfloat16) if self.half else x).float()

    def run(self, steps):
        x = self.begin
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            loss = F.cross_entropy(self.logits(x), self.label, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            with torch.no_grad():
                x = x + ALPHA * gradient.sign()
                x = torch.clamp(self.clean + torch.clamp(x - self.clean, -EPS, EPS), 0, 1)
        return x.detach()


def pgd(ask):
    setting, steps = ask["setting"], ask["steps"]
    attack = Attack(ask["net"], ask["batch"], setting)
    if setting == "torchattacks":
        try:
            import torchattacks
        except ImportError:
            return {"error": "torchattacks is not installed"}
        shipped = torchattacks.PGD(attack.net, eps=EPS, alpha=ALPHA, steps=steps, random_start=True)
        return {"seconds": sampled(lambda: shipped(attack.clean, attack.label))}
    if setting != "graph":
        return {"seconds": sampled(lambda: attack.run(steps))}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            attack.run(steps)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attack.run(steps)
    return {"seconds": sampled(graph.replay)}


def train(ask):
    """One SGD step on images attacked for `steps` steps, batch norms in eval mode meanwhile."""
    attack = Attack(ask["net"], ask["batch"], ask["setting"])
    net = network(ask["net"]).to(memory_format=torch.channels_last)
    setting = ask["setting"]
    forward = torch.compile(net, mode="max-autotune-no-cudagraphs") if setting == "compiled" else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)

    def logits(x):
        if setting in ("fp32", "tf32"):
            return forward(x)
        with torch.autocast("cuda", torch.bfloat16):
            return forward(x).float()

    def once():
        x = attack.clean
        if ask["steps"]:
            net.eval()
            x = attack.begin
            for _ in range(ask["steps"]):
                x = x.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(F.cross_entropy(logits(x), attack.label, reduction="sum"), x)
                with torch.no_grad():
                    x = torch.clamp(attack.clean + torch.clamp(x + ALPHA * gradient.sign() - attack.clean, -EPS, EPS), 0, 1)
            x = x.detach()
        net.train()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits(x), attack.label).backward()
        optimizer.step()

    return {"seconds": sampled(once)}


def conv(ask):
    kind = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[ask["type"]]
    torch.backends.cudnn.allow_tf32 = ask["type"] != "fp32"
    torch.backends.cudnn.benchmark = True
    n, c, hw, k, r, stride = (ask[key] for key in ("n", "c", "hw", "k", "r", "stride"))
    make = lambda *shape: torch.randn(shape, device=DEVICE, dtype=kind).contiguous(memory_format=torch.channels_last)
    x, w = make(n, c, hw, hw), make(k, c, r, r)
    # As many sets of inputs as leave the second-level cache cold.
    sets = max(1, min(8, 2**28 // max(1, x.numel() * x.element_size())))
    xs = [x.clone(memory_format=torch.channels_last) for _ in range(sets)]
    out = F.conv2d(x, w, stride=stride, padding=r // 2)
    gs = [torch.randn_like(out) for _ in range(sets)]
    mask = {"fprop": None, "dgrad": [True, False, False], "wgrad": [False, True, False]}[ask["direction"]]
    turn = iter(range(1 << 60))

    def once():
        i = next(turn) % sets
        if mask is None:
            return F.conv2d(xs[i], w, stride=stride, padding=r // 2)
        return torch.ops.aten.convolution_backward(gs[i], xs[i], w, None, [stride] * 2, [r // 2] * 2, [1, 1], False, [0, 0], 1, mask)

    return {"seconds": sampled(once)}


def copy(_):
    a = torch.empty(2**30, device=DEVICE, dtype=torch.uint8)
    b = torch.empty_like(a)
    return {"bytes_per_second": [2 * a.numel() / s for s in sampled(lambda: b.copy_(a))]}


def matmul(ask):
    kind = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[ask["type"]]
    torch.backends.cuda.matmul.allow_tf32 = ask["type"] != "fp32"
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=kind) for _ in range(2))
    return {"flops_per_second": [2 * 8192**3 / s for s in sampled(lambda: a @ b)]}


def serve():
    about = {"torch": torch.__version__, "card": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        try:
            ask = json.loads(line)
            answer = {"copy": copy, "matmul": matmul, "pgd": pgd, "train": train, "conv": conv}[ask["what"]](ask)
        except Exception as wrong:  # one setting that fails must not end the others
            answer = {"error": f"{type(wrong).__name__}: {wrong}"[:500]}
        torch.cuda.empty_cache()
        print(json.dumps(answer), flush=True)


if options.serve:
    serve()
else:
    arguments.print_help()
