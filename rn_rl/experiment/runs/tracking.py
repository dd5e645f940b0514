"""Send the scalars of a run to Weights & Biases or to MLflow, beside TensorBoard's files.

The files of the run folder stay the record: a service that fails, or is not reached, gives a warning and
stops no training.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import time
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from rn_rl.errors import UserError, first_line, unknown
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import DAMAGE, write_json
from rn_rl.experiment.runs.spec import RunSpec, plain_settings

SECONDS = 10.0
"""Least seconds between two times that rows are sent."""

ROWS = Sequence[tuple[int, Mapping[str, float]]]
"""Timesteps, and values by TensorBoard tag."""


class Service(Protocol):
    """One run at a service.

    Attributes:
        identity: name of the run at the service, with which another process continues it.
    """

    identity: str

    def send(self, rows: ROWS) -> None:
        """Send rows in the order of their timesteps."""

    def close(self, *, failed: bool) -> None:
        """End the run at the service."""


class Wandb:
    """A run at Weights & Biases; ``WANDB_MODE=offline`` keeps it in files that ``wandb sync`` sends.

    Args:
        run: run folder. The project is ``WANDB_PROJECT`` or ``rn-rl``, the group ``WANDB_RUN_GROUP`` or
            the name of the folder that holds the run folders; there is also its folder ``wandb``.
        spec: description of the run.
        identity: of the run to continue; None for a new one.
    """

    def __init__(self, run: Run, spec: RunSpec, identity: str | None) -> None:
        import wandb

        if identity is not None:
            time.sleep(1)  # two parts of a run within a second would be one file
        self.identity = identity or uuid.uuid4().hex
        folder = grid_folder(run)
        mode: Any = os.environ.get("WANDB_MODE")  # W&B itself reads it once a process
        self._run = wandb.init(
            mode=mode,
            project=os.environ.get("WANDB_PROJECT") or "rn-rl",
            group=os.environ.get("WANDB_RUN_GROUP") or folder.name,
            dir=os.environ.get("WANDB_DIR") or folder,
            name=title(spec),
            tags=[tag[:64] for tag in (spec.algo, spec.env, spec.norm)],
            config=about(run, spec),
            id=self.identity,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def send(self, rows: ROWS) -> None:
        """Send rows; the step at the service is the timestep."""
        for timesteps, row in rows:
            self._run.log(dict(row), step=timesteps)

    def close(self, *, failed: bool) -> None:
        """Wait until all is sent.

        In offline mode the process of W&B closes its file after this; Python waits for it as it ends.
        """
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run at MLflow, at ``MLFLOW_TRACKING_URI`` or in ``mlflow.db`` beside the run folders.

    Args:
        run: run folder. The experiment is ``MLFLOW_EXPERIMENT_NAME``, or the name of the folder that
            holds the run folders.
        spec: description of the run.
        identity: of the run to continue; None for a new one.
    """

    MOST_METRICS = 1000
    """Metrics that MLflow takes at once."""
    MOST_PARAMS = 100

    def __init__(self, run: Run, spec: RunSpec, identity: str | None) -> None:
        from mlflow.entities import Param

        self._client, experiment = mlflow_experiment(grid_folder(run))
        if identity is None:
            tags = {"algo": spec.algo, "env": spec.env, "norm": spec.norm}
            made = self._client.create_run(experiment, run_name=title(spec), tags=tags)
            self.identity: str = made.info.run_id
            settings = about(run, spec).items()
            params = [Param(metric_name(k), str(v)[:6000]) for k, v in settings]
            for part in parts(params, self.MOST_PARAMS):
                self._client.log_batch(self.identity, params=part)
        else:
            self.identity = identity
            self._client.update_run(identity, status="RUNNING")

    def send(self, rows: ROWS) -> None:
        """Send rows; the step at the service is the timestep."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(metric_name(tag), value, now, timesteps)
            for timesteps, row in rows
            for tag, value in row.items()
        ]
        for part in parts(metrics, self.MOST_METRICS):
            self._client.log_batch(self.identity, metrics=part)

    def close(self, *, failed: bool) -> None:
        """Set the state of the run at the service."""
        self._client.set_terminated(self.identity, "FAILED" if failed else "FINISHED")


SERVICES: dict[str, type[Wandb] | type[Mlflow]] = {"wandb": Wandb, "mlflow": Mlflow}


def check_tracker(name: str) -> None:
    """Check the value of ``--track``: ``tensorboard``, ``wandb`` or ``mlflow``.

    Raises:
        UserError: there is no such service, or its package is not installed.
    """
    if name != "tensorboard" and name not in SERVICES:
        raise unknown("tracker", name, ["tensorboard", *SERVICES])
    if name in SERVICES and importlib.util.find_spec(name) is None:
        raise UserError(f"--track {name}: not installed; pip install 'rn-rl[track]'")


def make_tracker(name: str, run: Run, spec: RunSpec) -> Tracker | None:
    """Return what sends the rows of a run to a service; None for ``tensorboard``, which needs none."""
    check_tracker(name)
    return None if name == "tensorboard" else Tracker(name, run, spec)


class Tracker:
    """Send the rows of one run to a service, each once, also if the training is stopped and resumed.

    ``tracking.json`` in the run folder holds the run's identity at the service and the last timestep
    that was sent. A resumed training writes the rows after its checkpoint again, and those that the
    service has are left out. Of a process that is killed, rows of the last :data:`SECONDS` may be missing
    at the service, or be there twice.

    Args:
        name: the service.
        run: run folder.
        spec: description of the run.

    Raises:
        UserError: the service refuses, or is not reached.
    """

    def __init__(self, name: str, run: Run, spec: RunSpec) -> None:
        self.name, self.folder = name, run.folder
        self._file = run.folder / "tracking.json"
        identity, self._known = self._read()
        self._sent = self._known
        try:
            self._service: Service = SERVICES[name](run, spec, identity)
        except Exception as error:  # whatever a service raises
            hint = "; WANDB_MODE=offline writes files instead" if name == "wandb" else ""
            raise UserError(f"--track {name}: {first_line(error)}{hint}") from None
        self._rows: list[tuple[int, Mapping[str, float]]] = []
        self._last = time.monotonic()
        self._write()

    def add(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Add rows, which are sent once :data:`SECONDS` have passed since the last time."""
        self._rows += [row for row in rows if row[0] > self._known]
        if time.monotonic() - self._last >= SECONDS:
            self._send()

    def close(self) -> None:
        """Send the rest, and end the run at the service: as failed if an exception is on its way."""
        self._send()
        if self._rows:
            warnings.warn(
                f"--track {self.name}: {len(self._rows):,} rows were not sent; the event files of "
                f"{self.folder} have them",
                stacklevel=2,
            )
        self._try(lambda: self._service.close(failed=sys.exc_info()[0] is not None))

    def _send(self) -> None:
        self._last = time.monotonic()
        if self._rows and self._try(lambda: self._service.send(self._rows)):
            self._sent = max(timesteps for timesteps, _ in self._rows)
            self._rows = []
            self._write()

    def _try(self, call: Any) -> bool:
        """Return True if a call of the service raises nothing."""
        try:
            call()
        except Exception as error:  # whatever a service raises
            warnings.warn(f"--track {self.name}: {first_line(error)}", stacklevel=2)
            return False
        return True

    def _all(self) -> dict[str, Any]:
        """Return what ``tracking.json`` holds of all services."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except DAMAGE:
            return {}
        return found if isinstance(found, dict) else {}

    def _read(self) -> tuple[str | None, int]:
        """Return the identity of the run at the service, and the last timestep that it has."""
        found = self._all().get(self.name)
        identity, sent = (found.get("id"), found.get("sent")) if isinstance(found, dict) else (0, 0)
        if not (isinstance(identity, str) and re.fullmatch(r"[0-9a-f]{32}", identity)):
            return None, -1
        return identity, sent if isinstance(sent, int) else -1

    def _write(self) -> None:
        one = {"id": self._service.identity, "sent": self._sent}
        write_json(self._file, {**self._all(), self.name: one})


def grid_folder(run: Run) -> Path:
    """Return the folder that holds the run folders ``NORM/ALGO/ENV_K``."""
    return run.folder.absolute().parents[2]


def title(spec: RunSpec) -> str:
    """Return the name of a run for people."""
    return f"{spec.norm} {spec.algo} {spec.env} seed {spec.seed}"


def about(run: Run, spec: RunSpec) -> dict[str, Any]:
    """Return the settings of a run, its versions, its folder and the command that started it."""
    versions = {f"version.{name}": version for name, version in spec.versions.items()}
    shown = plain_settings(spec.shown_settings())
    return {**shown, **versions, "folder": str(run.folder), "command": spec.command}


def metric_name(tag: str) -> str:
    """Return a tag with ``-`` for the characters that MLflow does not take in names."""
    return re.sub(r"[^\w\-./ ]", "-", tag)


def parts(items: Sequence[Any], most: int) -> list[Sequence[Any]]:
    """Divide a sequence into parts of at most ``most`` items."""
    return [items[first : first + most] for first in range(0, len(items), most)]


def mlflow_experiment(folder: Path) -> tuple[Any, str]:
    """Return a client of MLflow and the number of the experiment of a folder of runs, made if need be."""
    from mlflow import MlflowClient

    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or folder.name
    with FileLock(folder / ".mlflow.lock"):  # several processes of a grid begin together
        client = MlflowClient(tracking_uri=address)
        found = client.get_experiment_by_name(name)
        number = found.experiment_id if found is not None else client.create_experiment(name)
    return client, number
