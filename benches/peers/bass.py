"""BaSS of CIFAR-10 training images: the published procedure, image by image in NumPy, and a batched torch.fft version.

    python benches/peers/bass.py CIFAR_DIR --petard target/release/petard     # times by turns, ratios of medians, bytes compared
    python benches/peers/bass.py CIFAR_DIR --check 1500                        # statistics of the test split in f64, no times

CIFAR_DIR holds cifar-10-batches-bin. The goal: at least 20 times the first, 3 times the second.
"""
import argparse, os, re, statistics, subprocess, tempfile, time
import numpy as np


def rings(h, w):
    y, x = np.ogrid[:h, :w]
    return np.floor(np.hypot(y - h // 2, x - w // 2)).astype(int)


def weights(amplitude, ring):
    """One weight a ring, or None where a channel stays as it is."""
    last = ring.max()
    mean = np.array([amplitude[ring == k].mean() for k in range(1, last)])
    if not (mean >= 1).all():
        return None
    out = np.ones(last + 1)
    out[1:last] = (np.log(mean) / np.log(mean).sum()) / (mean / mean.sum())
    return out


def bass_numpy(image):
    """One image [H, W, C] of bytes."""
    h, w, channels = image.shape
    ring, out = rings(h, w), image.copy()
    for c in range(channels):
        f = np.fft.fftshift(np.fft.fft2(image[:, :, c]))
        amplitude = np.abs(f + 1e-8)
        amplitude[np.unravel_index(np.argmax(amplitude), amplitude.shape)] = 0
        by = weights(amplitude, ring)
        if by is not None:
            back = np.real(np.fft.ifft2(np.fft.ifftshift(f * by[ring])))
            out[:, :, c] = np.clip(back, 0, 255).astype(np.uint8)
    return out


def bass_torch(images, device, batch=2048):
    """Images [N, C, H, W] of bytes; everything batched."""
    import torch
    n, c, h, w = images.shape
    half = w // 2 + 1
    ring = torch.from_numpy(np.fft.ifftshift(rings(h, w)))[:, :half].to(device)
    copies = torch.full((half,), 2.0, device=device)
    copies[0] = 1
    if w % 2 == 0:
        copies[-1] = 1
    last = int(ring.max())
    flat, each = ring.reshape(-1), copies.expand(h, half).reshape(-1)
    size = torch.zeros(last + 1, device=device).index_add_(0, flat, each)
    out = torch.empty_like(images)
    for i in range(0, n, batch):
        x = images[i : i + batch].to(device)
        f = torch.fft.rfft2(x.float())
        mean = torch.zeros(*x.shape[:2], last + 1, device=device).index_add_(2, flat, f.abs().flatten(2) * each) / size
        inner = mean[..., 1:last]
        stays = ~(inner >= 1).all(-1)
        by = torch.ones_like(mean)
        logs = inner.log()
        by[..., 1:last] = (logs / logs.sum(-1, keepdim=True)) / (inner / inner.sum(-1, keepdim=True))
        y = torch.fft.irfft2(f * by[..., flat].view(*x.shape[:2], h, half), s=(h, w)).clamp_(0, 255).to(torch.uint8)
        out[i : i + batch] = torch.where(stays[..., None, None], x, y).to(out.device)
    return out


def load(folder, names):
    files = [os.path.join(folder, "cifar-10-batches-bin", n) for n in names]
    return np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073)[:, 1:] for f in files]).reshape(-1, 3, 32, 32)


def check(images):
    ring = rings(32, 32)
    all_weights, changes = [], []
    for image in images.transpose(0, 2, 3, 1):
        for c in range(3):
            amplitude = np.abs(np.fft.fftshift(np.fft.fft2(image[:, :, c])) + 1e-8)
            by = weights(amplitude, ring)
            all_weights += [by] if by is not None else []
        changes.append((bass_numpy(image).astype(float) - image) / 255)
    median, changes = np.median(all_weights, axis=0), np.array(changes).reshape(len(images), -1)
    print("median weights", {k: round(float(median[k]), 3) for k in (1, 5, 10, 15, 20, 21)})
    print("mean L2 change %.3f, L-inf %.3f" % (np.linalg.norm(changes, axis=1).mean(), np.abs(changes).max(1).mean()))


def ours(petard, folder, extra):
    """Seconds of the work alone and of the whole command, and the bytes."""
    with tempfile.TemporaryDirectory() as out:
        begin = time.perf_counter()
        words = [petard, "dataset", "bass", "--data", "cifar10:" + folder, "--split", "train", "--out", out + "/set.npz"] + extra
        text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        whole = time.perf_counter() - begin
        return float(re.search(r"([\d.]+) s without", text)[1]), whole, np.load(out + "/set.npz")["images"]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("cifar")
    args.add_argument("--petard", default="target/release/petard")
    args.add_argument("--check", type=int)
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--numpy-images", type=int, default=1000, help="NumPy's time is proportional: measured on so many")
    args.add_argument("--device", default="cpu")
    args = args.parse_args()
    if args.check:
        return check(load(args.cifar, ["test_batch.bin"])[: args.check])
    import torch
    torch.set_num_threads(args.threads)
    images = load(args.cifar, ["data_batch_%d.bin" % i for i in range(1, 6)])
    tensor = torch.from_numpy(images)
    first = images[: args.numpy_images].transpose(0, 2, 3, 1)
    extra = ["--device", "cuda:0" if args.device == "cuda" else "cpu", "--threads", str(args.threads)]
    times = {"petard": [], "petard, reading and writing": [], "numpy": [], "torch": [], "torch rfft2 512": []}
    bass_torch(tensor[:2048], args.device)
    for _ in range(args.rounds):
        work, whole, made = ours(args.petard, args.cifar, extra)
        times["petard"].append(work)
        times["petard, reading and writing"].append(whole)
        begin = time.perf_counter()
        by_numpy = np.stack([bass_numpy(i) for i in first])
        times["numpy"].append((time.perf_counter() - begin) * len(images) / len(first))
        begin = time.perf_counter()
        by_torch = bass_torch(tensor, args.device)
        times["torch"].append(time.perf_counter() - begin)
        x = tensor[:512].float()
        begin = time.perf_counter()
        for _ in range(20):
            torch.fft.rfft2(x)
        times["torch rfft2 512"].append((time.perf_counter() - begin) / 20)
    median = {k: statistics.median(v) for k, v in times.items()}
    print("torch.fft.rfft2 of 512x3x32x32  %.5f s" % median.pop("torch rfft2 512"))
    for name, seconds in median.items():
        print("%-28s %9.4f s   petard is %.2f times as fast" % (name, seconds, seconds / median["petard"]))
    apart = made[: len(first)].astype(int) - by_numpy.transpose(0, 3, 1, 2).astype(int)
    print("against NumPy: %.5f %% of the bytes differ, by %d at most" % (100 * (apart != 0).mean(), abs(apart).max()))
    apart = made.astype(int) - by_torch.numpy().astype(int)
    print("against torch: %.5f %% of the bytes differ, by %d at most" % (100 * (apart != 0).mean(), abs(apart).max()))


if __name__ == "__main__":
    main()
