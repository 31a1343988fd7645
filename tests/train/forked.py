"""Processes for tests: to be killed, to fail, to meet each other.

They are forked from one that has imported everything, so that many short ones cost one start of torch. As a script this
is that process. A function that is run so is named by module and name; the module lies where the tests find it too.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[2]
#: Equal in all workers of one run of the tests, another in the next.
DRAWS = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID"))


class Forked:
    """Processes that run ``function`` at the same time; ``world`` of them as ``torchrun`` starts them.

    Args:
        function: ``module:name``, or ``module:name:really`` for one whose process ends like any program: with what
            Python and the libraries do at exit.
        arguments: JSON values.
        said: file for what they print; of several, process n's ends in ``-n``.
        world: how many; with more than one, they find RANK and so on in the environment.
        env: variables of the environment.
    """

    def __init__(
        self, function: str, *arguments: Any, said: Path, world: int = 1, env: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        said.parent.mkdir(parents=True, exist_ok=True)
        self.files = [said] if world == 1 else [said.with_name(f"{said.name}-{rank}") for rank in range(world)]
        ask = {"function": function, "arguments": arguments, "path": sys.path}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.pids: list[int] = []
        for rank, file in enumerate(self.files):
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            found = {k: str(v) for k, v in variables.items()} if world > 1 else {}
            self.pids.append(_parent().ask(ask | {"said": str(file), "env": found | dict(env or {})}))

    def wait(self, seconds: float = 180.0) -> list[int]:
        """Their exit statuses (-9: killed); those that are late are killed and count as 99."""
        end = time.monotonic() + seconds
        while None in (codes := _parent().ask({"poll": self.pids})):
            if time.monotonic() > end:
                self.kill()
                return [99 if code is None else code for code in codes]
            time.sleep(0.01)
        return codes

    def kill(self) -> None:
        """SIGKILL to all, and to what they started."""
        for pid in self.pids:
            os.killpg(pid, signal.SIGKILL)

    def said(self) -> str:
        """What they printed."""
        return "".join(file.read_text() for file in self.files)


class Runs:
    """Trainings of :mod:`toy_training`, several jobs one after the other in each run's folder.

    They are performed once for all workers of the tests.

    Args:
        root: folder of the runs, one for all workers.
        jobs: run -> its jobs.
        env: variables of the environment.
    """

    def __init__(
        self, root: Path, jobs: Mapping[str, list[dict[str, Any]]], env: Mapping[str, str] | None = None
    ) -> None:  # fmt: skip
        from flowkit.shards.locks import locked

        self.root, done = root, root / "statuses.json"
        with locked(root.with_name(f"{root.name}.lock")):
            if not done.exists():
                root.mkdir()
                _parent()  # before the threads ask for it
                # Two at a time: some wait for each other, and then nobody computes.
                with ThreadPoolExecutor(2) as pool:
                    found = dict(pool.map(lambda run: (run, self._perform(run, jobs[run], env or {})), jobs))
                done.write_text(json.dumps(found))
        #: run -> the exit status of each job; of one by several processes a list.
        self.statuses: dict[str, list[Any]] = json.loads(done.read_text())

    @classmethod
    def of(cls, factory: Any, name: str, *arguments: Any) -> Runs:
        """In the folder of this run of the tests, given pytest's ``tmp_path_factory``."""
        base: Path = factory.getbasetemp()
        return cls((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name, *arguments)

    def _perform(self, run: str, jobs: list[dict[str, Any]], env: Mapping[str, str]) -> list[Any]:
        statuses = []
        for number, job in enumerate(jobs):
            world = job.get("world", 1)
            said = self.root / f"said-{run}-{number}"
            job = job | {"folder": str(self.root / run)}
            codes = Forked(job.get("by", "toy_training:perform"), job, said=said, world=world, env=env).wait()
            statuses.append(codes[0] if world == 1 else codes)
        return statuses

    def said(self, run: str, job: int = 0, rank: int | None = None) -> str:
        """What a job printed; of several processes that of ``rank``, or of all."""
        stem = f"said-{run}-{job}"
        files = sorted(self.root.glob(f"{stem}*")) if rank is None else [self.root / f"{stem}-{rank}"]
        return "".join(file.read_text() for file in files)

    def check(self, expected: Mapping[str, list[Any]]) -> None:
        """See that every job ended with its status; a set: with each of these, whichever process it was."""
        for run, codes in expected.items():
            for number, (wanted, found) in enumerate(zip(codes, self.statuses[run], strict=True)):
                fits = set(found) == wanted if isinstance(wanted, set) else found == wanted
                assert fits, (run, number, found, self.said(run, number))

    def checkpoint(self, run: str, step: int | str = "last") -> Path:
        """The folder of a checkpoint."""
        return self.root / run / "checkpoints" / (step if isinstance(step, str) else f"{step:08d}")

    def tensors(self, run: str, step: int | str = "last") -> dict[str, Any]:
        """All tensors of a checkpoint: ``<file>/<name>``."""
        from safetensors.torch import load_file

        folder = self.checkpoint(run, step)
        files = sorted(folder.rglob("*.safetensors"))
        assert files, folder
        return {
            f"{file.relative_to(folder).with_suffix('')}/{name}": value
            for file in files
            for name, value in load_file(file).items()
        }

    def differing(self, one: str, other: str) -> list[str]:
        """Names of tensors of the last checkpoints that are not the same bits."""
        import torch

        a, b = self.tensors(one), self.tensors(other)
        assert a.keys() == b.keys()
        return [name for name in a if not torch.equal(a[name], b[name])]

    def records(self, run: str) -> list[dict[str, float]]:
        """Its metrics, without what depends on the clock."""
        import toy_training

        return toy_training.records(self.root / run)


class _Parent:
    """The process that forks, from here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HOME,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HOME)},
        )  # fmt: skip
        atexit.register(self._close)

    def ask(self, what: dict[str, Any]) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(json.dumps(what), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@cache
def _parent() -> _Parent:
    return _Parent()


def main() -> None:
    """Fork on demand, until nobody asks any more."""
    # What the processes import, once.
    import accelerate  # noqa: F401
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.launcher.api
    import torch.distributed.tensor

    import flowkit.config.recipe
    import flowkit.shards.check
    import flowkit.train.loop
    import flowkit.train.peers  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()  # or the children's collections would copy everything
    statuses: dict[int, int | None] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "poll" in asked:
            for pid in asked["poll"]:
                if statuses[pid] is None and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    statuses[pid] = os.waitstatus_to_exitcode(found[1])
            print(json.dumps([statuses[pid] for pid in asked["poll"]]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            _child(asked)
            return
        statuses[pid] = None
        print(pid, flush=True)
    for pid, status in statuses.items():
        if status is None:
            os.killpg(pid, signal.SIGKILL)


def _child(asked: dict[str, Any]) -> None:
    """Run the function in this process and end it; returns where it shall end like a program."""
    from flowkit.errors import UserError

    os.setsid()
    said = os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for handle, to in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(handle, to)
    os.environ.update(asked["env"])
    sys.path[:0] = [folder for folder in asked["path"] if folder not in sys.path]
    module, name, *really = asked["function"].split(":")
    code = 0
    try:
        code = getattr(importlib.import_module(module), name)(*asked["arguments"]) or 0
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        code = 2
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if not really:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
