"""The benchmarks that run on a CPU in minutes, one after the other: tables on screen, JSON in a folder.

    python benchmarks/run_all.py [--quick] [--official CHECKOUT] [--out FOLDER]

Each script runs in a process of its own on one thread. A rival that is not installed is left out, and said. The exit
status is 1 when a script failed; the others run all the same. Each takes minutes, all of them about an hour and a half
of a quiet core; ``--only`` names some. ``--quick`` takes few rounds and short trainings: to see
that everything works, not to publish.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """A script of this folder, its arguments (and those of a quick run) and the packages of its rivals.

    ``name`` is that of its figures, and of the script where ``script`` says no other.
    """

    name: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    script: str = ""

    @property
    def file(self) -> Path:
        """The script."""
        return HERE / f"{self.script or self.name}.py"


_SHORT = ("--steps", "40", "--points", "300")
BENCHMARKS = (
    Benchmark("paths", rivals=("torchcfm", "flow_matching")),
    Benchmark("solvers", quick=("--rounds", "3"), rivals=("torchdiffeq", "torchode")),
    Benchmark("toy2d", quick=("--steps", "300", "--seeds", "1")),
    Benchmark("adaflow_toy", ("--seeds", "1"), quick=("--epochs", "20", "--seeds", "1", "--noises", "400")),
    Benchmark("reflow2d", quick=("--steps", "200", "--pairs", "2000", "--seeds", "1", "--sets", "1")),
    Benchmark("c_rectified", ("--seeds", "1"), quick=("--steps", "40", "--pairs", "600")),
    Benchmark("seqrf2d", ("--seeds", "1"), quick=_SHORT),
    Benchmark("rectified_diffusion2d", ("--seeds", "1"), quick=(*_SHORT, "--pairs", "600")),
    Benchmark("simple_reflow", ("--seeds", "1"), quick=(*_SHORT, "--pairs", "600")),
    *(
        Benchmark(
            f"straight2d_{method}",
            ("--method", method),
            ("--scale", "0.02", "--points", "200", "--sets", "1"),
            script="straight2d",
        )
        for method in ("consistency", "acceleration", "learned", "transport")
    ),
    Benchmark("idode2d", ("--seeds", "1"), quick=("--steps", "40", "--fine", "5", "--points", "20", "--batches", "20")),
    Benchmark("calmflow2d", ("--seeds", "1"), quick=("--steps", "10", "--points", "200", "--sets", "1")),
    Benchmark("step_costs", ("--small", "--device", "cpu"), quick=("--methods", "flow-matching", "ot", "caf")),
    Benchmark("river_ring", quick=("--steps", "50")),
    Benchmark("matcha_official", ("decoder",), quick=("--rounds", "2")),
)


def command(benchmark: Benchmark, out: Path, *, quick: bool, official: Path | None) -> list[str]:
    """What starts ``benchmark``."""
    words = [sys.executable, str(benchmark.file), *benchmark.arguments]
    words += ["--out", str(out / f"{benchmark.name}.json")]
    if quick:
        words += benchmark.quick
    if official is not None and benchmark.name == "matcha_official":
        words += ["--official", str(official)]
    return words


def missing(benchmark: Benchmark, official: Path | None) -> list[str]:
    """Rivals that cannot take part."""
    absent = [name for name in benchmark.rivals if importlib.util.find_spec(name) is None]
    if benchmark.name == "matcha_official" and official is None:
        absent.append("the official Matcha-TTS (name a clone with --official)")
    return absent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, short trainings")
    parser.add_argument("--official", type=Path, metavar="CHECKOUT", help="a clone of the official Matcha-TTS")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the JSON (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[b.name for b in BENCHMARKS], help="run these alone")
    args = parser.parse_args(arguments)
    search = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": search}
    failed = []
    for benchmark in BENCHMARKS:
        if args.only and benchmark.name not in args.only:
            continue
        print(f"\n== {benchmark.name}", flush=True)
        for rival in missing(benchmark, args.official):
            print(f"left out: {rival}", flush=True)
        began = time.monotonic()
        words = command(benchmark, args.out.resolve(), quick=args.quick, official=args.official)
        status = subprocess.run(words, env=environment, check=False).returncode
        seconds = time.monotonic() - began
        print(f"{'failed, exit status ' + str(status) if status else 'done'} in {seconds:.0f} s", flush=True)
        if status:
            failed.append(benchmark.name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
        return 1
    print(f"\nfigures in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
