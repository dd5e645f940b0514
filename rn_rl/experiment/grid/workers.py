"""Processes that work side by side: of this machine, or of a Ray cluster."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import joblib

from rn_rl.errors import UserError
from rn_rl.experiment.training.interrupts import begin_worker


class Placed(Protocol):
    """Options of a command that say where it works.

    Attributes:
        engine: ``"ray"`` for a cluster; else processes of this machine.
        address: address of the cluster.
        jobs: processes at once; None: as many as there are cores.
        threads: threads of each.
        device: device of the networks.
    """

    engine: str
    address: str | None
    jobs: int | None
    threads: int
    device: str


ENGINES = ("auto", "process", "batch", "ray")


def check_place(config: Placed) -> None:
    """Raise a :class:`UserError` for a value that is wrong by itself."""
    if config.engine not in ENGINES:
        raise UserError(f"--engine {config.engine}: expected one of {', '.join(ENGINES)}")
    if config.jobs is not None and config.jobs < 1:
        raise UserError(f"--jobs {config.jobs}: expected at least 1")
    if config.address is not None and config.engine != "ray":
        raise UserError(f"--address {config.address}: is for --engine ray")


@contextmanager
def workers(config: Placed) -> Iterator[int]:
    """Choose joblib's backend for the block: processes of this machine, or a Ray cluster.

    Args:
        config: options of the command.

    Yields:
        The number of processes to run at once.

    Raises:
        UserError: Ray is not installed, or there is no cluster at ``config.address``.
    """
    if config.engine != "ray":
        options = {"inner_max_num_threads": config.threads, "initializer": begin_worker}
        with joblib.parallel_config("loky", **options), warnings.catch_warnings():
            # loky replaces a process that has grown, after its job; nothing is lost
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            cpus = os.cpu_count() or 1
            yield config.jobs or side_by_side(config.threads, config.device, cpus)
        return
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise UserError(
            "--engine ray: ray is not installed; install it with: pip install 'rn-rl[ray]'"
        ) from None
    try:
        ray.init(
            address=config.address,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--address {config.address}: no Ray cluster there ({reason})") from None
    register_ray()
    try:
        cpus = int(ray.cluster_resources().get("CPU", os.cpu_count() or 1))
        with joblib.parallel_config("ray"):
            yield config.jobs or side_by_side(config.threads, config.device, cpus)
    finally:
        ray.shutdown()


def side_by_side(threads: int, device: str, cores: int) -> int:
    """Return the number of processes to run at once.

    Args:
        threads: threads of each.
        device: device of the networks. On a GPU one process is best, since several take turns.
        cores: cores of the machine or cluster.
    """
    return 1 if device.startswith("cuda") else max(cores // threads, 1)
