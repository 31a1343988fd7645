"""Work done ahead by threads, handed over in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def ordered(jobs: Iterator[Callable[[], T]], *, threads: int, ahead: int) -> Generator[T, None, None]:
    """Results of ``jobs`` in their order, computed by ``threads`` threads at most ``ahead`` jobs early.

    With ``threads = 0`` each job runs when it is asked for. What a job raises is raised at its turn. Closing the
    iterator drops the jobs that have not begun.
    """
    if threads == 0:
        for job in jobs:
            yield job()
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="flowkit-loader")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(job) for job in islice(jobs, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(job) for job in islice(jobs, 1))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
