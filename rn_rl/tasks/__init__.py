"""Supervised tasks on the same normalizers: classification, generation, question answering; no SB3.

``rn-rl task NAME`` trains every arm (normalizer) of a task on every setting with several seeds, and
writes a table with intervals, paired differences, a CSV file, figures and a finding.

A task is one module with one class, a :class:`~rn_rl.tasks.task.Task`, and one row in
:data:`rn_rl.tasks.registry.TASKS`. :mod:`rn_rl.tasks.task` documents what a task gives; the rest is done
by:

===============  =====================================================================================
``run``          the command: which runs are missing, a pool of processes, files
``store``        finished runs as JSON lines, one for each (arm, setting, seed)
``results``      runs by arm and setting: values over seeds, curves, intervals, paired differences
``page``         table, CSV files and figures
``seeding``      generators that depend on the seed and a purpose, so that all arms share the data order
===============  =====================================================================================

Building blocks for anybody's networks are exported here: :class:`FedBackNorm` and the recurrent cells
:class:`NormRNNCell`, :class:`NormLSTMCell`, :class:`NormGRUCell`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rn_rl.tasks.fed_back import FedBackNorm, NormGRUCell, NormLSTMCell, NormRNNCell
    from rn_rl.tasks.results import Results
    from rn_rl.tasks.task import Metric, Result, Task

_EXPORTS = {
    "FedBackNorm": "rn_rl.tasks.fed_back",
    "Metric": "rn_rl.tasks.task",
    "NormGRUCell": "rn_rl.tasks.fed_back",
    "NormLSTMCell": "rn_rl.tasks.fed_back",
    "NormRNNCell": "rn_rl.tasks.fed_back",
    "Result": "rn_rl.tasks.task",
    "Results": "rn_rl.tasks.results",
    "Task": "rn_rl.tasks.task",
}

__all__ = [
    "FedBackNorm",
    "Metric",
    "NormGRUCell",
    "NormLSTMCell",
    "NormRNNCell",
    "Result",
    "Results",
    "Task",
]


def __getattr__(name: str) -> Any:
    # on first use, so that "rn-rl --help", which reads rn_rl.tasks.config, loads no torch
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rn_rl.tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
