"""Runs independent pieces of work side by side in processes, through joblib.

A backend that the caller chose with `joblib.parallel_config` is used (Ray and Dask bring theirs); without one, joblib's
own processes (loky) are. These start new Python processes. Nothing is inherited from this one: no key, no open ledger,
no state of a generator. A backend that forks copies memory, but noise of a claim refuses to be drawn in a process that
did not make its generator (`privacy.randomness`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from typing import TypeVar

from consortia.common.errors import InputError, RunFailedError

__all__ = ["side_by_side"]

Task = TypeVar("Task")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> Iterator[Result]:
    """Yield ``work(task)`` of each task, in the order of the tasks.

    A task holds all that its result depends on, its seed among it, so results do not depend on `jobs`; noise is drawn
    anew by whoever does the work. At most `jobs` tasks are taken from `tasks` before one is finished, and each has one
    thread. An error of a task is raised here, and no further task is started.

    Parameters
    ----------
    work : callable
        A function that another process can import, or a partial of one.
    tasks : iterable
        Taken one by one. With `jobs` = 1 each is done before the next is taken, in this process.
    jobs : int
        Tasks at the same time.

    Raises
    ------
    InputError
        The chosen backend runs threads. Logs and what an audit observes belong to a process.
    RunFailedError
        A process of the backend ended without an answer.
    """
    if jobs == 1:
        yield from map(work, tasks)
        return
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    backend, _ = get_active_backend()
    if getattr(backend, "supports_sharedmem", False):
        raise InputError(
            f"--jobs: wanted a joblib backend of processes, got {type(backend).__name__}, whose jobs share memory; "
            "choose loky, ray or dask in parallel_config, or leave it out"
        )
    how = "generator" if backend.supports_return_generator else "list"
    parallel = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="n_jobs", return_as=how)
    try:
        yield from parallel(delayed(_alone)(work, task) for task in tasks)
    except BrokenExecutor:
        raise RunFailedError(
            f"--jobs {jobs}: a process ended without an answer, as one does that is killed for lack of memory; take a "
            "smaller --jobs"
        ) from None


def _alone(work: Callable[[Task], Result], task: Task) -> Result:
    """Do one task with one thread: more would only wait for each other."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    with threadpool_limits(1):
        return work(task)
