"""The networks of the cards in `models/` in PyTorch: what both peers are made of."""

import torch
from torch import nn
from torch.nn import functional as F


class Normalise(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


def conv_bn(c_in, c_out, kernel, stride, bias=False):
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class Residual(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.first = conv_bn(c_in, c_out, 3, stride)
        self.second = conv_bn(c_out, c_out, 3, 1)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else conv_bn(c_in, c_out, 1, stride)

    def forward(self, x):
        y = F.relu(self.first(x), inplace=True)
        return F.relu(self.second(y) + self.shortcut(x), inplace=True)


class Preactivated(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(c_in), nn.BatchNorm2d(c_out)])
        self.first = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        same = stride == 1 and c_in == c_out
        self.shortcut = None if same else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.norms[0](x), inplace=True)
        skip = x if self.shortcut is None else self.shortcut(y)
        return self.second(F.relu(self.norms[1](self.first(y)), inplace=True)) + skip


def stages(block, channels, widths, blocks):
    """Stages of residual blocks; all but the first halve the image."""
    layers = []
    for stage, (width, count) in enumerate(zip(widths, blocks)):
        for i in range(count):
            layers.append(block(channels, width, 2 if stage > 0 and i == 0 else 1))
            channels = width
    return layers


def head(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


def vgg(parts):
    layers, channels = [], 3
    for count, width in parts:
        for _ in range(count):
            layers += [conv_bn(channels, width, 3, 1, bias=True), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers + [nn.Flatten(), nn.Linear(channels, 10)]
