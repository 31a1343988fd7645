"""Bits per dimension on Fashion-MNIST: i-DODE and plain flow matching with the same network, batch and training time.

The network is ``PictureUNet`` with Fourier inputs, in float32. Flow matching trains on uniformly dequantised bytes,
i-DODE on the middles of the bins, as truncated-normal dequantisation wants it; both are judged by both dequantisations
with one and five noises, Dormand and Prince's method at 1e-5, Rademacher probes, on the first pictures of the test
set. ``-fine`` continues with the second-order term for the last fifth of the time.

    python benchmarks/idode_fashion.py --data fashion.npz --method idode-vp --minutes 4 --device cuda --out vp.json
    python benchmarks/idode_fashion.py --merge vp.json fm.json --out benchmarks/out/idode_fashion.json
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.imaging.data.glyphs import DrawnGlyphs
from domains.imaging.data.pictures import PictureSamples
from domains.imaging.models.unet import PictureUNet
from domains.imaging.task import ImageTask
from flowkit import atomic
from flowkit.fields.predictions import Displacement
from flowkit.metrics.dequantisers import TruncatedNormal, Uniform
from flowkit.nn.fourier import FourierInputs
from flowkit.nn.network import Network, NetworkSpec
from flowkit.objectives import IDODE, FlowMatching, Objective
from flowkit.paths import SPLogSNRPath, VPLogSNRPath
from flowkit.times import StratifiedTimes
from flowkit.train.bits import bits_per_dimension


def objectives(name: str) -> tuple[Objective, Objective | None, bool]:
    """Objective, that of the last fifth or None, and whether bytes are dequantised in training."""
    vp, sp = VPLogSNRPath(), SPLogSNRPath()
    known: dict[str, tuple[Objective, Objective | None, bool]] = {
        "flow-matching": (FlowMatching(times=StratifiedTimes()), None, True),
        "idode-vp": (IDODE(path=vp), None, False),
        "idode-sp": (IDODE(path=sp, prediction=Displacement()), None, False),
        "idode-vp-uniform-times": (IDODE(path=vp, times=StratifiedTimes()), None, False),
        "idode-vp-fine": (IDODE(path=vp), IDODE(path=vp, second_order=0.1), False),
        "idode-sp-fine": (
            IDODE(path=sp, prediction=Displacement()), IDODE(path=sp, prediction=Displacement(), second_order=0.1),
            False,
        ),
    }  # fmt: skip
    return known[name]


METHODS = ("flow-matching", "idode-vp", "idode-sp", "idode-vp-uniform-times", "idode-vp-fine", "idode-sp-fine")


def data(path: Path | None) -> tuple[PictureSamples, PictureSamples]:
    """Training and test pictures of an archive (train, train_labels, test, test_labels); None draws glyphs of 16 x
    16.
    """
    if path is None:
        glyphs = DrawnGlyphs(size=16, pictures=512, held_out=64)
        return glyphs.split("train"), glyphs.split("test")  # pyright: ignore[reportReturnType]
    archive = np.load(path)
    return tuple(
        PictureSamples(
            torch.from_numpy(np.array(archive[name])).unsqueeze(1),
            torch.from_numpy(np.array(archive[f"{name}_labels"])).long(),
        )
        for name in ("train", "test")
    )  # pyright: ignore[reportReturnType]


def train(arguments: argparse.Namespace, device: torch.device) -> tuple[ImageTask, PictureSamples, dict[str, Any]]:
    """AdamW, a warm-up and a cosine over the time, an average of the weights; returns the task with the average."""
    training, test = data(arguments.data)
    objective, last, dequantise = objectives(arguments.method)
    size = training.pictures.shape[-1]
    torch.manual_seed(arguments.seed)

    def unet(spec: NetworkSpec) -> Network:
        return PictureUNet(spec, widths=arguments.widths)  # pyright: ignore[reportArgumentType]

    def network(spec: NetworkSpec) -> Network:
        return FourierInputs(spec, network=unet)

    task = ImageTask(network, objective, size=size, dequantise=dequantise, feature_steps=0).to(device)
    pictures = training.pictures.to(device)
    labels = torch.zeros(len(pictures), dtype=torch.long, device=device)
    average = copy.deepcopy(task.networks)
    optimiser = torch.optim.AdamW(task.parameters(), lr=arguments.lr, betas=(0.9, 0.99), weight_decay=0.01)
    generator = torch.Generator(device).manual_seed(arguments.seed)
    seconds = 60.0 * arguments.minutes
    began, step, fine, losses = time.perf_counter(), 0, 0, []
    task.train()
    while True:
        share = step / arguments.steps if arguments.steps else (time.perf_counter() - began) / seconds
        if share >= 1.0:
            break
        if last is not None and share > 0.8:
            task.objective, fine = last, fine + 1
        rate = arguments.lr * min(1.0, (step + 1) / 200) * max(0.02, 0.5 * (1.0 + float(np.cos(np.pi * share))))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rows = torch.randint(len(pictures), (arguments.batch,), generator=generator, device=device)
        loss = task({"picture": pictures[rows], "label": labels[rows]}, generator=generator).total
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            keep = min(arguments.ema, (1 + step) / (10 + step))
            for slow, fast in zip(average.parameters(), task.networks.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - keep)
        step += 1
        if step % 200 == 0:
            losses.append(float(loss.detach()))
            print(
                f"{arguments.method} step {step} loss {losses[-1]:.4f} {time.perf_counter() - began:.0f} s", flush=True
            )
    if device.type == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - began
    task.networks = average
    count = sum(p.numel() for p in average.parameters())
    return (
        task.eval(),
        test,
        {"steps": step, "fine_steps": fine, "train_s": taken, "parameters": count, "losses": losses},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/idode_fashion.json"))
    parser.add_argument("--data", type=Path, help="an npz archive; without one small drawn glyphs")
    parser.add_argument("--method", choices=METHODS, default="idode-vp")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training")
    parser.add_argument("--steps", type=int, default=0, help="of training instead of minutes")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument("--pictures", type=int, default=512, help="of the test set")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 5], help="noises of each picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--merge", type=Path, nargs="+", help="results to put together")
    arguments = parser.parse_args()
    if arguments.merge:
        runs = [run for path in arguments.merge for run in json.loads(path.read_text())["runs"]]
        print("| method | seed | steps | truncated, 1 noise | 5 | uniform, 1 noise | 5 | evaluations |")
        print("|---|---|---|---|---|---|---|---|")
        for run in runs:
            cells = [
                run.get(f"{name}_{k}", {}).get("bpd", float("nan")) for name in ("truncated", "uniform") for k in (1, 5)
            ]
            numbers = " | ".join(f"{cell:.3f}" for cell in cells)
            print(f"| {run['method']} | {run['seed']} | {run['steps']} | {numbers} | {run['truncated_1']['nfe']:.0f} |")
        atomic.write_json(arguments.out, {"runs": runs})
        return
    # Bits hang on the last digits of float32: no TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device(arguments.device)
    task, test, taken = train(arguments, device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    run = {"method": arguments.method, "seed": arguments.seed, "machine": card, "torch": torch.__version__, **taken}
    for name, dequantiser in (("truncated", TruncatedNormal()), ("uniform", Uniform())):
        for draws in arguments.draws:
            began = time.perf_counter()
            found = bits_per_dimension(
                task,
                test,
                dequantiser=dequantiser,
                draws=draws,
                limit=arguments.pictures,
                batch=arguments.pictures,
                seed=0,
            )
            run[f"{name}_{draws}"] = {**found, "seconds": time.perf_counter() - began}
            print(arguments.method, name, draws, json.dumps(run[f"{name}_{draws}"]), flush=True)
            atomic.write_json(arguments.out, {"runs": [run]})


if __name__ == "__main__":
    main()
