"""Writes `reference.json`: logits and input gradients of networks that have no stored golden values, from definitions of
their own in PyTorch, with procedural weights.

usage: python reference.py > reference.json

The definitions follow the public codes that the cards name (kuangliu/pytorch-cifar, Cadene's collection, Caffe), the
generator is the one of `tests/models.rs`. f64 throughout, eval mode, images as they are.
"""

import json
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def fnv(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) % 2**64
    return h


def uniform(name, count):
    with np.errstate(over="ignore"):
        x = np.uint64(fnv(name)) + np.arange(count, dtype=np.uint64)
        z = x + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def fill(net):
    state = {}
    for name, tensor in net.state_dict().items():
        shape = tuple(tensor.shape)
        u = uniform(name, tensor.numel())
        kind = name.rsplit(".", 1)[1]
        if kind == "num_batches_tracked":
            state[name] = tensor
            continue
        if len(shape) > 1:
            u = u * np.sqrt(6 / np.prod(shape[1:]))
        elif kind == "weight":
            u = 1 + 0.1 * u
        elif kind == "running_var":
            u = 1 + 0.5 * abs(u)
        else:
            u = 0.1 * u
        state[name] = torch.tensor(u.astype(np.float32).astype(np.float64)).reshape(shape)
    net.load_state_dict(state)
    return net


def conv(c, k, r, s=1, p=0, g=1, bias=False):
    return nn.Conv2d(c, k, r, stride=s, padding=p, groups=g, bias=bias)


class DenseLayer(nn.Module):
    def __init__(self, c, growth):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(c), conv(c, 4 * growth, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), conv(4 * growth, growth, 3, p=1)

    def forward(self, x):
        y = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([self.conv2(F.relu(self.bn2(y))), x], 1)


class Transition(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(c), conv(c, c // 2, 1)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    def __init__(self, growth=12):
        super().__init__()
        c = 2 * growth
        self.conv1 = conv(3, c, 3, p=1)
        for i, count in enumerate([6, 12, 24, 16], 1):
            setattr(self, f"dense{i}", nn.Sequential(*(DenseLayer(c + j * growth, growth) for j in range(count))))
            c += count * growth
            if i < 4:
                setattr(self, f"trans{i}", Transition(c))
                c //= 2
        self.bn, self.linear = nn.BatchNorm2d(c), nn.Linear(c, 10)

    def forward(self, x):
        x = self.conv1(x)
        for i in range(1, 5):
            x = getattr(self, f"dense{i}")(x)
            if i < 4:
                x = getattr(self, f"trans{i}")(x)
        return self.linear(F.avg_pool2d(F.relu(self.bn(x)), 4).flatten(1))


class Separable(nn.Module):
    def __init__(self, c, k, s):
        super().__init__()
        self.conv1, self.bn1 = conv(c, c, 3, s, 1, c), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = conv(c, k, 1), nn.BatchNorm2d(k)

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 32, 3, p=1), nn.BatchNorm2d(32)
        rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
        layers, c = [], 32
        for k, s in rows:
            layers.append(Separable(c, k, s))
            c = k
        self.layers, self.linear = nn.Sequential(*layers), nn.Linear(1024, 10)

    def forward(self, x):
        return self.linear(F.avg_pool2d(self.layers(F.relu(self.bn1(self.conv1(x)))), 2).flatten(1))


class Inverted(nn.Module):
    def __init__(self, c, k, expansion, s):
        super().__init__()
        self.stride, inner = s, c * expansion
        self.conv1, self.bn1 = conv(c, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, s, 1, inner), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, k, 1), nn.BatchNorm2d(k)
        self.shortcut = nn.Sequential()
        if s == 1 and c != k:
            self.shortcut = nn.Sequential(conv(c, k, 1), nn.BatchNorm2d(k))

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return y + self.shortcut(x) if self.stride == 1 else y


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 32, 3, p=1), nn.BatchNorm2d(32)
        layers, c = [], 32
        stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
        for expansion, k, count, s in stages:
            for i in range(count):
                layers.append(Inverted(c, k, expansion, s if i == 0 else 1))
                c = k
        self.layers = nn.Sequential(*layers)
        self.conv2, self.bn2, self.linear = conv(320, 1280, 1), nn.BatchNorm2d(1280), nn.Linear(1280, 10)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(self.layers(F.relu(self.bn1(self.conv1(x)))))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class Grouped(nn.Module):
    def __init__(self, c, cardinality, width, s):
        super().__init__()
        inner, out = cardinality * width, 2 * cardinality * width
        self.conv1, self.bn1 = conv(c, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, s, 1, cardinality), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, out, 1), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if s != 1 or c != out:
            self.shortcut = nn.Sequential(conv(c, out, 1, s), nn.BatchNorm2d(out))

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNeXt(nn.Module):
    def __init__(self, cardinality, width):
        super().__init__()
        self.conv1, self.bn1, c = conv(3, 64, 1), nn.BatchNorm2d(64), 64
        for stage, s in enumerate([1, 2, 2], 1):
            blocks = []
            for i in range(3):
                blocks.append(Grouped(c, cardinality, width, s if i == 0 else 1))
                c = 2 * cardinality * width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            width *= 2
        self.linear = nn.Linear(c, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, 8).flatten(1))


class AllCnn(nn.Module):
    def __init__(self):
        super().__init__()
        rows = [(3, 96, 3, 1, 1), (96, 96, 3, 1, 1), (96, 96, 3, 2, 1), (96, 192, 3, 1, 1), (192, 192, 3, 1, 1)]
        rows += [(192, 192, 3, 2, 1), (192, 192, 3, 1, 0), (192, 192, 1, 1, 0)]
        layers = []
        for c, k, r, s, p in rows:
            layers += [conv(c, k, r, s, p, bias=True), nn.ReLU()] + ([nn.Dropout(0.5)] if s == 2 else [])
        self.features, self.classifier = nn.Sequential(*layers), conv(192, 10, 1, bias=True)

    def forward(self, x):
        return self.classifier(self.features(x)).mean((2, 3))


class OriginalAlexNet(nn.Module):
    """Blue first, as the card says; the images themselves are red first."""

    def __init__(self):
        super().__init__()
        norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        pool = nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            *[conv(3, 96, 11, 4, bias=True), nn.ReLU(), norm, pool],
            *[conv(96, 256, 5, p=2, g=2, bias=True), nn.ReLU(), norm, pool],
            *[conv(256, 384, 3, p=1, bias=True), nn.ReLU()],
            *[conv(384, 384, 3, p=1, g=2, bias=True), nn.ReLU()],
            *[conv(384, 256, 3, p=1, g=2, bias=True), nn.ReLU(), pool],
        )
        drop, linear = nn.Dropout, nn.Linear
        self.classifier = nn.Sequential(
            *[drop(), linear(9216, 4096), nn.ReLU(), drop(), linear(4096, 4096), nn.ReLU(), linear(4096, 1000)]
        )

    def forward(self, x):
        return self.classifier(self.features(x.flip(1)).flatten(1))


class BnInception(nn.Module):
    """Blue first, as the card says."""

    BLOCKS = {
        "3a": (192, 64, 64, 64, 64, 96, 32),
        "3b": (256, 64, 64, 96, 64, 96, 64),
        "3c": (320, 0, 128, 160, 64, 96, 0),
        "4a": (576, 224, 64, 96, 96, 128, 128),
        "4b": (576, 192, 96, 128, 96, 128, 128),
        "4c": (576, 160, 128, 160, 128, 160, 128),
        "4d": (608, 96, 128, 192, 160, 192, 128),
        "4e": (608, 0, 128, 192, 192, 256, 0),
        "5a": (1056, 352, 192, 320, 160, 224, 128),
        "5b": (1024, 352, 192, 320, 192, 224, 128),
    }

    def __init__(self):
        super().__init__()
        self.add("conv1_7x7_s2", 3, 64, 7, 2)
        self.add("conv2_3x3_reduce", 64, 64, 1)
        self.add("conv2_3x3", 64, 192, 3)
        for name, (c, n1, r3, n3, rd, nd, pool) in self.BLOCKS.items():
            block, s = f"inception_{name}_", 1 if n1 else 2
            if n1:
                self.add(block + "1x1", c, n1, 1)
                self.add(block + "pool_proj", c, pool, 1)
            self.add(block + "3x3_reduce", c, r3, 1)
            self.add(block + "3x3", r3, n3, 3, s)
            self.add(block + "double_3x3_reduce", c, rd, 1)
            self.add(block + "double_3x3_1", rd, nd, 3)
            self.add(block + "double_3x3_2", nd, nd, 3, s)
        self.last_linear = nn.Linear(1024, 1000)

    def add(self, name, c, k, r, s=1):
        setattr(self, name, conv(c, k, r, s, r // 2, bias=True))
        setattr(self, name + "_bn", nn.BatchNorm2d(k))

    def unit(self, name, x):
        return F.relu(getattr(self, name + "_bn")(getattr(self, name)(x)))

    def forward(self, x):
        def half(x):
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        x = half(self.unit("conv1_7x7_s2", x.flip(1)))
        x = half(self.unit("conv2_3x3", self.unit("conv2_3x3_reduce", x)))
        for name, row in self.BLOCKS.items():
            block = f"inception_{name}_"
            single = self.unit(block + "3x3", self.unit(block + "3x3_reduce", x))
            double = self.unit(block + "double_3x3_1", self.unit(block + "double_3x3_reduce", x))
            parts = [single, self.unit(block + "double_3x3_2", double)]
            if row[1]:
                pooled = F.max_pool2d(x, 3, 1, 1) if name == "5b" else F.avg_pool2d(x, 3, 1, 1)
                x = torch.cat([self.unit(block + "1x1", x), *parts, self.unit(block + "pool_proj", pooled)], 1)
            else:
                x = torch.cat([*parts, half(x)], 1)
        return self.last_linear(x.mean((2, 3)))


NETS = {
    "allcnn-cifar10": (AllCnn, 32),
    "densenet-cifar10": (DenseNet, 32),
    "mobilenet-cifar10": (MobileNet, 32),
    "mobilenet_v2-cifar10": (MobileNetV2, 32),
    "resnext29_2x64d-cifar10": (lambda: ResNeXt(2, 64), 32),
    "resnext29_32x4d-cifar10": (lambda: ResNeXt(32, 4), 32),
    "alexnet-original": (OriginalAlexNet, 227),
    "bninception": (BnInception, 224),
}


def run(net, x, label):
    image = x.detach().clone().requires_grad_()
    logits = net(image)
    loss = F.cross_entropy(logits, torch.full((2,), label))
    loss.backward()
    return *(v.detach().double().flatten().numpy() for v in (logits, image.grad)), loss.item()


def record(name, make, side):
    net = fill(make().double().eval())
    pixels = (uniform("input", 2 * 3 * side * side) + 1) / 2
    x = torch.tensor(pixels.astype(np.float32).astype(np.float64)).reshape(2, 3, side, side)
    classes = 1000 if side > 32 else 10
    label = sum(name.encode()) % classes
    logits, grad, loss = run(net, x, label)
    off = np.linalg.norm(run(net.float(), x.float(), label)[1] - grad) / np.linalg.norm(grad)
    positions = [(2 * k + 1) * grad.size // 32 for k in range(16)]
    return {
        "input_shape": [2, 3, side, side],
        "classes": classes,
        "label": label,
        "parameters": sum(p.numel() for p in net.parameters()),
        "logits_first16": logits[:16].tolist(),
        "logits_sum": logits.sum(),
        "logits_abs_sum": abs(logits).sum(),
        "argmax": logits.reshape(2, -1).argmax(1).tolist(),
        "loss": loss,
        "grad_positions": positions,
        "grad_values": grad[positions].tolist(),
        "grad_l1": abs(grad).sum(),
        "grad_l2": np.linalg.norm(grad),
        "grad_sum": grad.sum(),
        "f32": {"grad_relative_L2_error": off},
    }


json.dump({name: record(name, *row) for name, row in NETS.items()}, sys.stdout, indent=1)
print()
