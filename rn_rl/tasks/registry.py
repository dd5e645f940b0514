"""Table of the tasks: where the class of each is; a task's module is imported when it is used."""

from __future__ import annotations

import importlib

from rn_rl.errors import unknown
from rn_rl.tasks.task import Task

TASKS = {
    "imbalanced": "rn_rl.tasks.imbalanced:Imbalanced",
    "recurrent": "rn_rl.tasks.recurrent:Recurrent",
}
"""Class of each task, by name."""


def find_task(name: str) -> Task:
    """Return the task of a name.

    Raises:
        UserError: the name is unknown, with the nearest ones and the whole list.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    module, _, attribute = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)()
    return task
