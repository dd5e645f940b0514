"""Jobs of a grid as tasks of a Ray cluster, which places each on a node that has room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rn_rl.experiment.grid.jobs import Job, Outcome, run_job
from rn_rl.normalization.plugins import WithRegistered

TRIES = 3
"""Times that a job is started, if its process or its node is lost each time."""


def run_on_ray(
    todo: list[Job], threads: int, device: str, at_once: int | None
) -> Iterator[tuple[Job, Outcome | None]]:
    """Run jobs on the cluster, and yield each with its outcome when it ends.

    A job whose process or node is lost is started again, at once and on any node: its leases there are
    free, and it continues from its checkpoints. Nodes that join later take jobs that still wait.

    Args:
        todo: the jobs.
        threads: cores that a job takes.
        device: device of the networks; on ``cuda`` a job also takes a GPU, or a part of one.
        at_once: most jobs at once; on a GPU the number that share it. None: as many as there is room for.

    Yields:
        A job and its outcome; None if it was lost :data:`TRIES` times.
    """
    import ray

    placed: dict[str, Any] = {"num_cpus": threads, "max_retries": 0}
    if device.startswith("cuda"):
        placed["num_gpus"] = 1 / (at_once or 1)
        at_once = None
    task = ray.remote(_call).options(**placed)
    work = WithRegistered(run_job)
    waiting = [_absolute(job) for job in todo]
    running: dict[Any, Job] = {}
    started: Counter[str] = Counter()
    while waiting or running:
        while waiting and (at_once is None or len(running) < at_once):
            job = waiting.pop(0)
            started[job.keys[0]] += 1
            running[task.remote(work, job)] = job
        [reference], _ = ray.wait(list(running), num_returns=1)
        job = running.pop(reference)
        try:
            yield job, ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:  # the process or the node is gone
            if started[job.keys[0]] < TRIES:
                waiting.append(job)
            else:
                yield job, None


def _call(work: WithRegistered, job: Job) -> Outcome:
    """Run a job in a process of the cluster; Ray makes tasks of functions alone."""
    outcome: Outcome = work(job)
    return outcome


def _absolute(job: Job) -> Job:
    """Return a job whose paths do not depend on the folder in which a node works."""
    config = replace(job.config, out=job.config.out.absolute())
    return replace(job, config=config, stop_file=job.stop_file.absolute())
