"""Results of runs as tidy data: one row for each evaluation, with every setting in a column."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import atomic_write
from rn_rl.experiment.runs.records import Problem, RunRecord, find_runs, read_records
from rn_rl.experiment.runs.spec import flatten

if TYPE_CHECKING:
    import pandas as pd

FIRST = ("algo", "env", "norm", "seed")
"""Columns that name a run; settings and hyperparameters follow in alphabetical order."""


def read_runs(path: str | os.PathLike[str], *, last: bool = False) -> pd.DataFrame:
    """Read the evaluations of all finished runs below a folder.

    Nothing is unpickled, and no file is changed. A run that cannot be read, or that is not finished, is
    left out with a warning that names it.

    Args:
        path: folder of runs, or one run.
        last: one row for each run, with the return of its last policy, in place of its evaluations.

    Returns:
        A pandas frame with the columns ``algo``, ``env``, ``norm``, ``seed``, each setting and
        hyperparameter (``n_timesteps``, ``learning_rate``, ``policy_kwargs.net_arch``, ...; missing
        where a run does not set it), ``timestep`` and ``return`` (mean over the episodes of the
        evaluation; missing where a run diverged). With ``last`` also ``episodes``, of which ``return``
        is the mean. Lists are JSON text.

    Raises:
        UserError: there is no such folder, no finished run in it, or pandas is not installed.
    """
    pandas = load_pandas()
    root = Path(path)
    folders = find_runs(root)
    records, problems = read_records(folders)
    left_out = [problem for problem in problems if not problem.counted]
    if not records:
        raise UserError(
            f"runs {root}: no finished run among {len(folders)} folders{first(left_out)}"
        )
    if left_out:
        warnings.warn(f"{len(left_out)} runs are left out{first(left_out)}", stacklevel=2)
    return frame(pandas, tidy_columns(records, last=last))


def first(problems: Sequence[Problem]) -> str:
    """Return the end of a sentence that names the first problem; empty without one."""
    return f", such as {problems[0].run}: {problems[0].what}" if problems else ""


def tidy_columns(records: Sequence[RunRecord], *, last: bool = False) -> dict[str, list[Any]]:
    """Return the columns of tidy data by name, all of the same length; see :func:`read_runs`.

    A missing value is None.
    """
    settings = [settings_of(record) for record in records]
    names = sorted({name for each in settings for name in each}.difference(FIRST))
    counts = [1 if last else len(record.timesteps) for record in records]
    found: dict[str, list[Any]] = {}
    for name in (*FIRST, *names):
        values = alike([each.get(name) for each in settings])
        found[name] = [v for v, n in zip(values, counts, strict=True) for _ in range(n)]
    if last:
        found["timestep"] = [record.spec.timesteps for record in records]
        found["return"] = finite(record.last_return for record in records)
        found["episodes"] = [record.episodes for record in records]
    else:
        found["timestep"] = [int(t) for record in records for t in record.timesteps]
        found["return"] = finite(float(x) for record in records for x in record.returns)
    return found


def settings_of(record: RunRecord) -> dict[str, Any]:
    """Return the settings of a run by column; names of our own columns are never hyperparameters."""
    spec = record.spec
    flat = flatten(spec.settings())
    flat["n_timesteps"] = flat.pop("timesteps")
    taken = ("timestep", "return", "episodes")
    flat = {name: value for name, value in flat.items() if name not in taken}
    return {**flat, "algo": spec.algo, "env": spec.env, "norm": spec.norm, "seed": spec.seed}


def alike(values: Sequence[Any]) -> list[Any]:
    """Return the values of a column as one type: numbers, truth values, or else text.

    Lists and mappings become JSON. None, and a number that is not finite, is None.
    """
    given = [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
    there = [value for value in given if value is not None]
    if all(isinstance(value, bool) for value in there):
        return given
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return given
    return [v if v is None or isinstance(v, str) else json.dumps(v) for v in given]


def finite(values: Iterable[float]) -> list[float | None]:
    """Return numbers, None in place of those that are not finite."""
    return [value if math.isfinite(value) else None for value in values]


def frame(pandas: Any, columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Return columns as a pandas frame with nullable types, so that integers stay integers."""
    return pandas.DataFrame(columns).convert_dtypes(convert_string=False)


def write_parquet(columns: dict[str, list[Any]], path: Path) -> None:
    """Write columns as a Parquet file.

    Raises:
        UserError: pandas or pyarrow is not installed.
    """
    table = frame(load_pandas(), columns)
    with atomic_write(path) as temporary:
        needed(lambda: table.to_parquet(temporary, index=False), "Parquet files need pyarrow")


def load_pandas() -> Any:
    """Import pandas; importing it takes a second, and the commands do not need it."""

    def load() -> Any:
        import pandas

        return pandas

    return needed(load, "a frame of runs needs pandas")


def needed(call: Callable[[], Any], what: str) -> Any:
    """Call a function; a package that is not installed becomes an error that names the extra."""
    try:
        return call()
    except ImportError:
        raise UserError(f"{what}: pip install 'rn-rl[data]'") from None
