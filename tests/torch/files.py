"""Writes checkpoints in every form that torch.save knows, and beside each what torch itself reads from it.

usage: python torch_files.py FOLDER

NAME.pt is the checkpoint, NAME.safetensors the weights as contiguous float32 and int64; NAME.entry, where there is
one, says which of several weights they are. checkpoints of which the weights cannot be read are called refuse-*.pt.
"""

import argparse
import pathlib
import sys
import warnings
import zipfile
from collections import OrderedDict

import torch
from torch import nn

try:
    import numpy
except ImportError:
    numpy = None

warnings.filterwarnings("ignore")
torch.manual_seed(1)
folder = pathlib.Path(sys.argv[1])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.fc = nn.Linear(7, 4)
        self.tied = nn.Linear(7, 4)
        self.tied.weight = self.fc.weight

    def forward(self, x):
        return self.bn(self.conv(x))


def dump(name, tensors):
    """Safetensors by hand: eight bytes of length, a JSON header, the elements."""
    import json

    header, parts, at = {}, [], 0
    for key, value in tensors.items():
        value = value.detach().float() if value.is_floating_point() else value.detach().long()
        raw = bytes(value.contiguous().clone().untyped_storage())
        kind = "F32" if value.is_floating_point() else "I64"
        header[key] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    with open(folder / f"{name}.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(parts))


def save(name, checkpoint, pick=lambda c: c, entry=None, **options):
    path = folder / f"{name}.pt"
    torch.save(checkpoint, path, **options)
    back = pick(torch.load(path, map_location="cpu", weights_only=False))
    dump(name, {k: v for k, v in back.items() if isinstance(v, torch.Tensor)})
    if entry is not None:
        (folder / f"{name}.entry").write_text(entry)


def types():
    values = torch.randn(4, 6, dtype=torch.float64) * torch.logspace(-30, 30, 24, dtype=torch.float64).reshape(4, 6)
    whole = torch.arange(-12, 12).reshape(2, 3, 4)
    halves = torch.arange(0x7C01, dtype=torch.int32).to(torch.int16).view(torch.float16)
    return {
        "double": values,
        "float": values.float(),
        "half": halves,
        "half.negative": -halves[: 0x7C00 + 1],
        "bfloat16": values.bfloat16(),
        "long": whole * (1 << 40),
        "int": whole.int() * (1 << 20),
        "short": whole.short(),
        "char": whole.char(),
        "byte": whole.abs().byte(),
        "bool": whole > 0,
        "scalar": torch.tensor(3.5),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }


def views():
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    return {
        "base": base,
        "transposed": base.transpose(1, 3),
        "sliced": base[:, 1:, ::2, 1:4],
        "tail": base[1, 2, 3],
        "expanded": torch.randn(3, 1).expand(3, 50),
        "stretched": torch.tensor(2.0).expand(4, 5),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "windows": torch.randn(10).unfold(0, 4, 2),
        "diagonal": torch.randn(6, 6, dtype=torch.float16).diagonal(),
        "ones": torch.randn(1, 1, 4)[:, :, 1:].permute(2, 0, 1),
        "nothing": base[:, 2:2],
    }


def trained(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    extras = {
        "optimizer": optimizer.state_dict(),
        "epoch": 90,
        "big": 1 << 100,
        "best_acc1": torch.tensor(76.15),
        "args": argparse.Namespace(lr=0.1, arch="net", milestones=[1, 2], path=pathlib.PurePosixPath("a/b")),
        "arch": "net",
        "history": [0.5, 0.25, None, True, (1, 2), {3}, frozenset([4]), b"bytes", bytearray(b"more")],
        "rng": torch.get_rng_state(),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }
    if numpy is not None:
        extras |= {"loss": numpy.float64(0.1), "curve": numpy.arange(5.0), "numpy_rng": numpy.random.get_state()}
    return extras


def main():
    net, average = Net(), Net()
    extras = trained(net)
    weights = net.state_dict()
    state = lambda c: c["state_dict"]
    forms = {f"zip{p}": {"pickle_protocol": p} for p in (2, 3, 4, 5)}
    forms |= {f"legacy{p}": {"pickle_protocol": p, "_use_new_zipfile_serialization": False} for p in (2, 3, 4, 5)}
    for form, options in forms.items():
        save(f"bare-{form}", weights, **options)
        save(f"types-{form}", types(), **options)
        save(f"views-{form}", views(), **options)
        save(f"wrapped-{form}", {"state_dict": weights, **extras}, state, "state_dict", **options)
        parallel = {"state_dict": nn.DataParallel(net).state_dict(), **extras}
        save(f"parallel-{form}", parallel, state, "state_dict", **options)
        save(f"parameters-{form}", OrderedDict(net.named_parameters()), **options)
        torch.save(net, folder / f"refuse-module-{form}.pt", **options)
        torch.save({"net": net, "acc": 1}, folder / f"refuse-wrapped-module-{form}.pt", **options)

    for name in ("model_state_dict", "model", "net"):
        save(f"under-{name}", {name: weights, **extras}, lambda c: c[name], name)
    save("nested", {"model": {"state_dict": weights}, "epoch": 1}, lambda c: c["model"]["state_dict"], "model.state_dict")
    for name in ("state_dict_ema", "ema", "ema_state_dict", "model_ema"):
        both = {name: average.state_dict(), "state_dict": weights}
        save(f"both-{name}", both, state, "state_dict")
        save(f"only-{name}", {name: average.state_dict(), "epoch": 1}, lambda c: c[name], name)
    save("inner-ema", {"model": {"net": weights, "ema": average.state_dict()}}, lambda c: c["model"]["net"], "model.net")
    save("unusual", {"generator": weights, "epoch": 1}, lambda c: c["generator"], "generator")
    save("big", OrderedDict(w=torch.randn(700, 1000), h=torch.randn(300, 1000).half()))
    save("many", {f"layers.{i}.weight": torch.randn(3) for i in range(2000)}, pickle_protocol=4)
    swapped()

    torch.save(torch.ones(2).to_sparse(), folder / "refuse-tensor.pt")
    torch.save({"w": torch.eye(3).to_sparse()}, folder / "refuse-sparse.pt")
    torch.save({"w": torch.ones(3, dtype=torch.complex64)}, folder / "refuse-complex.pt")
    torch.save({"w": torch.ones(3, dtype=torch.complex64).conj().imag}, folder / "refuse-negated.pt")
    torch.save({"epoch": 3}, folder / "refuse-nothing.pt")
    torch.jit.trace(net.eval(), torch.randn(1, 3, 8, 8)).save(folder / "refuse-script.pt")
    with zipfile.ZipFile(folder / "bare-zip2.pt") as old, zipfile.ZipFile(folder / "refuse-packed.pt", "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


def swapped():
    """What a big-endian machine would write: torch itself swaps the bytes back."""
    tensors = types()
    torch.save(tensors, folder / "plain.part")
    sizes = {f"plain/data/{i}": tensor.element_size() for i, tensor in enumerate(tensors.values())}
    with zipfile.ZipFile(folder / "plain.part") as old, zipfile.ZipFile(folder / "swapped.pt", "w") as new:
        for name in old.namelist():
            content, size = old.read(name), sizes.get(name, 1)
            content = b"".join(content[at : at + size][::-1] for at in range(0, len(content), size))
            new.writestr(name, b"big" if name.endswith("byteorder") else content)
    back = torch.load(folder / "swapped.pt", map_location="cpu")
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())
    dump("swapped", back)


main()
