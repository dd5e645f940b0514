"""Identity of a search: its seeds, settings and ranges, stored so that no other search continues it."""

from __future__ import annotations

import json
from typing import Any

from rn_rl.errors import UserError
from rn_rl.experiment.runs.spec import RunSpec, flatten
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.experiment.tuning.space import Range

ATTRIBUTE = "rn-rl search"
"""Name of a study's attribute that holds it."""

MOST_SHOWN = 3
"""Most differences that an error names."""


def identity(config: TuneConfig, spec: RunSpec, ranges: list[Range]) -> dict[str, str]:
    """Return the seeds, settings and ranges of a search, as texts by name.

    ``--trials``, ``--sampler``, ``--pruner`` and the like are not in it: a search continues with other
    values of them.

    Args:
        config: options of the search.
        spec: description of its runs without drawn hyperparameters.
        ranges: its ranges.
    """
    found: dict[str, Any] = {"seeds": f"{config.seed} to {config.seed + config.seeds - 1}"}
    found |= flatten({k: v for k, v in spec.settings().items() if v is not None})
    found |= {"eval_freq": spec.eval_freq, "eval_episodes": spec.eval_episodes}
    texts = {
        name: value if isinstance(value, str) else as_json(value) for name, value in found.items()
    }
    return texts | {f"space {r.name}": f"{r.kind} {as_json(list(r.values))}" for r in ranges}


def as_json(value: Any) -> str:
    """Return a value as text that is equal for equal values."""
    return json.dumps(value, sort_keys=True, default=str)


def check_identity(config: TuneConfig, norm: str, study: Any, now: dict[str, str]) -> None:
    """Give a new study its identity, and compare it with that of one that is continued.

    Args:
        config: options of the search.
        norm: the normalizer.
        study: Optuna's study.
        now: see :func:`identity`.

    Raises:
        UserError: the study is of another search; the message names what differs.
    """
    before = study.user_attrs.get(ATTRIBUTE)
    if before is None:
        study.set_user_attr(ATTRIBUTE, now)
        return
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not differ:
        return
    told = [
        f"{name} {before.get(name, 'none')}, and now {now.get(name, 'none')}"
        for name in differ[:MOST_SHOWN]
    ]
    more = f", and {len(differ) - MOST_SHOWN} more" if len(differ) > MOST_SHOWN else ""
    raise UserError(
        f"--out {config.out}: its search for {norm} was made with {'; '.join(told)}{more}; continue it "
        "with the same options, or give another --out"
    )
