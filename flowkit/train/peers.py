"""A process that fails ends all processes of its training, at once and with its cause.

Without this the others would wait for it in a collective call until a timeout, on GPUs where no exception reaches them.
Each process tells the launch's store that it lives, reads whether another has failed, and watches its neighbour. One
that was killed can tell nothing: who loses the connection to it finds out whose signs of life have ended, and tells.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

from flowkit.errors import UserError

#: Seconds between two looks.
_PAUSE = 1.0
#: Looks at a neighbour that shows no life before it counts as lost: looks, not seconds, so that a run that was
#: suspended as a whole goes on.
_LOOKS = 90
#: Looks at all others in which one that is lost shows no life, once a connection has broken.
_SILENT = 3
#: Seconds that the main thread has to end by itself.
_GRACE = 5.0
#: What stands for a sign of life of a process that ended by itself: its training done, or because of another's end.
_ENDED = (b"done", b"left")
_GONE = "is gone (killed, or its machine lost): go on with --resume last"
_WORDS = ("gloo", "connection closed by peer", "connection reset", "broken pipe", "nccl", "tcpstore")


class PeerLost(UserError):
    """Another process of the run failed or is gone."""


class Peers:
    """Context of a training: an error inside is told to the other processes, theirs end this one.

    Args:
        rank, count: this process and how many there are; with one nothing happens.
    """

    _entered = 0

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._store: Any = None
        #: The first process that failed and why, once it was read.
        self._known: tuple[int, str] | None = None

    def __enter__(self) -> Peers:
        if self.count > 1:
            from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

            # Of its own connection: the main thread may be waiting on the other one.
            host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            plain = TCPStore(host, port, None, False, timedelta(seconds=60))
            Peers._entered += 1
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            self._store = PrefixStore(f"flowkit/{attempt}/{Peers._entered}", plain)
            self._thread = threading.Thread(target=self._watch, name="flowkit-peers", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count == 1:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=2 * _PAUSE)
        if error is None:
            self._tell(f"beat/{self.rank}", "done")
            return
        if _of_a_connection(error):
            # The cause is another's; finding it takes a moment, which the launcher's signal must not cut short.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._tell(f"beat/{self.rank}", "left")
            first = self._failed() or self._lost()
            if first is None:
                text = f"the connections broke, though all processes live ({_line(error)}); go on with --resume last"
                self._tell("failed", json.dumps([self.rank, text]), first=True)
                first = self._failed() or (self.rank, text)
            self._linger(first[0])
            raise PeerLost(_sentence(self.rank, *first)) from None
        line = _line(error)
        self._tell("failed", json.dumps([self.rank, line]), first=True)
        if not isinstance(error, UserError):
            print(f"flowkit: process {self.rank} failed: {line}", file=sys.stderr, flush=True)
        self._tell(f"beat/{self.rank}", "left")
        self._linger(self.rank)

    def _tell(self, key: str, value: str, *, first: bool = False) -> None:
        try:
            if first:
                self._store.compare_set(key, "", value)
            else:
                self._store.set(key, value)
        except Exception:  # the store's process is gone: so are all
            return

    def _failed(self) -> tuple[int, str] | None:
        """The first process that failed and why."""
        if self._known is None:
            try:
                if self._store.check(["failed"]):
                    rank, text = json.loads(self._store.get("failed"))
                    self._known = int(rank), str(text)
            except Exception:  # the store's process is gone
                return None
        return self._known

    def _beats(self) -> dict[int, bytes]:
        """The last sign of life of each other process."""
        keys = {rank: f"beat/{rank}" for rank in range(self.count) if rank != self.rank}
        return {rank: self._store.get(key) if self._store.check([key]) else b"" for rank, key in keys.items()}

    def _lost(self) -> tuple[int, str] | None:
        """The process that is gone without a word, told to the others; None where none can be named."""
        try:
            seen = self._beats()
            silent = set(seen)
            for _ in range(_SILENT):
                time.sleep(_PAUSE)
                if (first := self._failed()) is not None:
                    return first
                silent = {rank for rank, beat in self._beats().items() if beat == seen[rank] and beat not in _ENDED}
        except Exception:
            return self._known or (0, f"it keeps the launch's store and {_GONE}")
        if not silent:
            return None
        mine, *others = sorted(silent)
        more = f" (so are processes {', '.join(map(str, others))})" if others else ""
        text = f"it {_GONE}{more}"
        self._tell("failed", json.dumps([mine, text]), first=True)
        return self._failed() or (mine, text)

    def _linger(self, failed: int) -> None:
        """Where this process keeps the launch's store, leave the others the time to read there who failed."""
        if self.rank or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return
        with suppress(Exception):
            end = time.monotonic() + _SILENT * _PAUSE
            while time.monotonic() < end:
                if all(beat in _ENDED for rank, beat in self._beats().items() if rank != failed):
                    return
                time.sleep(_PAUSE / 10)

    def _watch(self) -> None:
        neighbour, seen, looks, number = (self.rank + 1) % self.count, b"", 0, 0
        while not self._stop.wait(_PAUSE):
            number += 1
            try:
                self._store.set(f"beat/{self.rank}", str(number))
                key = f"beat/{neighbour}"
                beat = self._store.get(key) if self._store.check([key]) else b""
            except Exception:
                if not self._stop.is_set():
                    self._end(*(self._known or (0, f"it keeps the launch's store and {_GONE}")))
                return
            first = self._failed()
            looks = looks + 1 if beat == seen and beat not in _ENDED else 0
            seen = beat
            if first is None and looks >= _LOOKS:
                first = (neighbour, "it no longer answers (killed, stuck, or its machine lost)")
                self._tell("failed", json.dumps(first), first=True)
            if first is not None:
                self._tell(f"beat/{self.rank}", "left")
                self._end(*first)
                return

    def _end(self, rank: int, text: str) -> None:
        """End this process, unless its main thread does so itself in time."""
        if self._stop.wait(_GRACE):
            return
        os.write(2, f"flowkit: {_sentence(self.rank, rank, text)}\n".encode())
        os._exit(1)


def _line(error: BaseException) -> str:
    text = f"{error}" if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def _sentence(mine: int, rank: int, text: str) -> str:
    if rank == mine:
        return f"process {mine}: {text}"
    return f"process {mine} stops because process {rank} failed: {text}"


def _of_a_connection(error: BaseException) -> bool:
    """Whether the error is the echo of another process's end."""
    from torch import distributed

    kinds = (distributed.DistError, distributed.DistBackendError, distributed.DistNetworkError, ConnectionError)
    if isinstance(error, kinds):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)
