"""Runs sorted into tasks and arms, and their comparisons with the baseline: the content of a report."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rn_rl import statistics
from rn_rl.analysis.comparison import ENDPOINTS, Comparison, compare, correct
from rn_rl.analysis.metrics import ArmMetrics, Scale, common_span, estimate, scale_of
from rn_rl.analysis.references import Reference, published
from rn_rl.analysis.tables import Estimate
from rn_rl.experiment.runs.records import Problem, RunRecord
from rn_rl.experiment.runs.spec import as_told, differences, flatten
from rn_rl.experiment.settings.options import DecisionOptions


@dataclass
class Task:
    """An algorithm on an environment with one set of settings."""

    name: str
    """Name in the report."""
    algo: str
    """Algorithm."""
    env: str
    """Environment id."""
    settings: dict[str, Any]
    """Settings that all of its runs share."""
    scale: Scale
    """Scale of its returns."""
    arms: dict[str, ArmMetrics]
    """Arms by normalizer."""
    references: list[Reference] = field(default_factory=list)
    """Single results shown beside the arms."""


@dataclass
class Summary:
    """Content of a report."""

    tasks: list[Task]
    """Tasks, by environment and algorithm."""
    baseline: str
    """Normalizer that the others are compared with."""
    endpoint: str
    """Endpoint of the comparisons, a key of :data:`~rn_rl.analysis.comparison.ENDPOINTS`."""
    comparisons: list[Comparison]
    """One for each arm other than the baseline."""
    problems: list[Problem]
    """Runs that could not be read, or only in part."""
    notes: list[str] = field(default_factory=list)
    """Sentences about limits of the data."""

    def add_references(self, agents: Iterable[Reference], *, zoo: bool) -> None:
        """Add single agents, and results that the RL Zoo published, to the tasks that they belong to."""
        for task in self.tasks:
            own = task.settings["hyperparameters"].get("env_kwargs") or {}
            for agent in agents:
                if (agent.algo, agent.env) == (task.algo, task.env):
                    differs = agent.env_kwargs != own
                    told = (
                        f" Its environment had {agent.env_kwargs or 'no arguments'}, these {own}."
                    )
                    note = agent.note + (told if differs else "")
                    task.references.append(replace(agent, note=note))
            if zoo:
                task.references += published(next(iter(task.arms.values())).runs[0].spec)
        known = {(task.algo, task.env) for task in self.tasks}
        missing = [r for r in agents if (r.algo, r.env) not in known]
        self.notes += [f"no runs to set beside this: {reference.note}" for reference in missing]

    @property
    def norms(self) -> list[str]:
        """Normalizers of all tasks, the baseline first."""
        names = dict.fromkeys(norm for task in self.tasks for norm in task.arms)
        return sorted(names, key=lambda norm: norm != self.baseline)

    @property
    def scored(self) -> list[Task]:
        """Tasks whose returns have a scale of nonzero width."""
        return [task for task in self.tasks if task.scale.one != task.scale.random]

    def everywhere(self) -> list[str]:
        """Return the normalizers that were run on every task that has scores."""
        if not self.scored:
            return []
        return [norm for norm in self.norms if all(norm in task.arms for task in self.scored)]

    @property
    def left_out(self) -> list[str]:
        """Normalizers that lack runs on some task, and so have no score over all tasks."""
        return [norm for norm in self.norms if norm not in self.everywhere()]

    def sentences(self) -> list[str]:
        """Return one sentence for each comparison."""
        return [each.sentence(len(self.comparisons)) for each in self.comparisons]

    def no_comparison(self) -> str:
        """Return why there is no comparison."""
        with_baseline = [task for task in self.tasks if self.baseline in task.arms]
        if not with_baseline:
            return f"there are no runs of the baseline {self.baseline}"
        if all(len(task.arms) == 1 for task in with_baseline):
            return f"no run of another normalizer has the settings of those of {self.baseline}"
        return f"no arm beside {self.baseline} has the {ENDPOINTS[self.endpoint]}"

    def improvements(self) -> dict[tuple[str, str], str]:
        """Return the probabilities of improvement over the baseline, by task and normalizer."""
        return {(each.task, each.norm): str(each.improvement) for each in self.comparisons}

    def overall(self) -> dict[str, dict[str, Estimate]]:
        """Return scores over all tasks, for the normalizers that were run on every one."""
        found: dict[str, dict[str, Estimate]] = {}
        for norm in self.everywhere():
            scores = [task.arms[norm].scores for task in self.scored]
            found[norm] = {
                "IQM": estimate(statistics.interquartile_mean, *scores),
                "mean": estimate(statistics.mean, *scores),
                "optimality gap": estimate(statistics.optimality_gap, *scores),
            }
            if norm != self.baseline and self.baseline in self.everywhere():
                base = [task.arms[self.baseline].scores for task in self.scored]
                improvement = estimate(statistics.probability_of_improvement, *scores, *base)
                found[norm]["probability of improvement"] = improvement
        return found


def summarize(
    records: Iterable[RunRecord],
    problems: Iterable[Problem] = (),
    *,
    baseline: str = "none",
    threshold: float | None = None,
    endpoint: str = "last",
    margin: float | None = None,
) -> Summary:
    """Sort runs into tasks and arms, and compare each arm with the baseline.

    Args:
        records: runs, from :func:`rn_rl.experiment.runs.records.read_records`.
        problems: runs that could not be read, from the same function.
        baseline: normalizer that the others are compared with.
        threshold: return that counts as learned; default: the environment's own, if it is known.
        endpoint: of the comparisons, ``"last"`` (return of the last policy) or ``"area"`` (under the
            curve).
        margin: difference of the means of the endpoint that does not matter; None: do not test it.
    """
    by_task: dict[str, list[RunRecord]] = {}
    for record in records:
        key = json.dumps(record.spec.task_settings(), sort_keys=True, default=str)
        by_task.setdefault(key, []).append(record)
    tasks = [make_task(runs, threshold) for runs in by_task.values()]
    tasks.sort(key=lambda task: (task.env, task.algo))
    name_tasks(tasks)
    summary = Summary(tasks, baseline, endpoint, [], list(problems))
    for task in tasks:
        summary.notes += notes_on(task, baseline)
        base = task.arms.get(baseline)
        for norm, arm in task.arms.items():
            if base is not None and norm != baseline:
                summary.comparisons += compare_by(endpoint, margin, task, arm, base)
                if endpoint == "area":
                    summary.notes += incomplete_curves(task, arm)
        if base is not None and endpoint == "area":
            summary.notes += incomplete_curves(task, base)
    correct(summary.comparisons)
    return summary


def summarize_for(
    options: DecisionOptions,
    records: Iterable[RunRecord],
    problems: Iterable[Problem],
    baseline: str,
) -> Summary:
    """Call :func:`summarize` with the options of a command; ``baseline`` is in the runs' spelling."""
    return summarize(
        records,
        problems,
        baseline=baseline,
        threshold=options.threshold,
        endpoint=options.endpoint,
        margin=options.equivalence,
    )


def compare_by(
    endpoint: str, margin: float | None, task: Task, arm: ArmMetrics, base: ArmMetrics
) -> list[Comparison]:
    """Compare an arm with the baseline by the endpoint, and show the other; [] without values."""
    values = {
        "last": (arm.last, base.last),
        "area": tuple(areas[~np.isnan(areas)] for areas in (arm.areas, base.areas)),
    }
    x, y = values[endpoint]
    if not len(x) or not len(y):
        return []
    # last returns that are not finite were replaced by one value, which shows nothing about equality
    finite = [[math.isfinite(run.last_return) for run in each.runs] for each in (arm, base)]
    measured = all(any(each) for each in finite)
    found = compare(task.name, arm.norm, base.norm, x, y, margin if measured else None)
    found.equal = found.equal and all(map(all, finite))
    found.measure = ENDPOINTS[endpoint]
    [other] = [name for name in ENDPOINTS if name != endpoint]
    shown = estimate(statistics.probability_of_improvement, *values[other])
    if not math.isnan(shown.value):
        found.other = ENDPOINTS[other], shown
    return [found]


def incomplete_curves(task: Task, arm: ArmMetrics) -> list[str]:
    """Return a note if runs of an arm have no area, because they were not evaluated to their end."""
    missing = int(np.isnan(arm.areas).sum())
    if not missing:
        return []
    return [
        f"{task.name}, {arm.norm}: {missing} of {len(arm.runs)} runs have no complete curve, so no area."
    ]


def make_task(runs: list[RunRecord], threshold: float | None) -> Task:
    """Make a task from runs with the same settings; ``none`` is the first arm."""
    spec = runs[0].spec
    scale, span = scale_of(runs, threshold), common_span(runs)
    by_arm: dict[str, list[RunRecord]] = {}
    for run, name in zip(runs, arm_names(runs), strict=True):
        by_arm.setdefault(name, []).append(run)
    arms: dict[str, ArmMetrics] = {}
    for name in sorted(by_arm, key=lambda name: (name != "none", name)):
        mine = sorted(by_arm[name], key=lambda r: r.spec.seed)
        returns = np.array([run.last_return for run in mine])
        returns = np.where(np.isfinite(returns), returns, scale.worst)
        arms[name] = ArmMetrics(name, mine, scale, returns, span)
    return Task("", spec.algo, spec.env, spec.task_settings(), scale, arms)


def arm_names(runs: list[RunRecord]) -> list[str]:
    """Return the name of each run's arm: its normalizer, and how the arms of one normalizer differ."""
    tuned = [flatten({k: run.spec.hyperparameters.get(k) for k in run.spec.own}) for run in runs]
    by_norm: dict[str, list[dict[str, Any]]] = {}
    for run, mine in zip(runs, tuned, strict=True):
        by_norm.setdefault(run.spec.norm, []).append(mine)
    differ = {norm: differences(settings) for norm, settings in by_norm.items()}
    names = []
    for run, mine in zip(runs, tuned, strict=True):
        which = as_told(differ[run.spec.norm], mine)
        names.append(run.spec.norm + (f" ({which})" if which else ""))
    return names


def name_tasks(tasks: list[Task]) -> None:
    """Set the names of tasks, such as ``dqn on CartPole-v1``; equal ones also name their differences."""
    for task in tasks:
        like = [t for t in tasks if (t.algo, t.env) == (task.algo, task.env)]
        differ = differences([flatten(t.settings) for t in like])
        which = as_told(differ, flatten(task.settings))
        task.name = f"{task.algo} on {task.env}" + (f" ({which})" if which else "")
    names = [task.name for task in tasks]
    for i, task in enumerate(tasks):  # different values may have the same text
        if names.count(task.name) > 1:
            task.name += f" #{names[: i + 1].count(names[i])}"


def notes_on(task: Task, baseline: str) -> list[str]:
    """Return notes on limits of a task's data: no baseline, no scale, one seed, unequal runs."""
    notes = []
    tunings = [name for name in task.arms if name.startswith(f"{baseline} (")]
    if tunings:
        notes.append(
            f"{task.name}: the baseline was tuned in {len(tunings)} ways, {'; '.join(tunings)}: nothing "
            "is compared with it. Report the runs of one of them by themselves."
        )
    elif baseline not in task.arms:
        notes.append(
            f"{task.name}: no runs of the baseline {baseline}, so nothing to compare with."
        )
    if not task.scale.known and task.scale.one == task.scale.random:
        notes.append(f"{task.name}: no known scale, and all return the same: there are no scores.")
    elif not task.scale.known:
        notes.append(
            f"{task.name}: no known scale; a score of 0 is the lowest and 1 the highest return here."
        )
    for arm in task.arms.values():
        if len(arm.runs) == 1:
            notes.append(f"{task.name}, {arm.norm}: one seed, so no interval.")
        if len(arm.grids) > 1:
            notes.append(
                f"{task.name}, {arm.norm}: runs were evaluated at different timesteps; curves are "
                f"interpolated at those of the run with the fewest, up to the shortest."
            )
        layers = Counter(tuple(run.gains.layers) for run in arm.runs if run.gains is not None)
        if len(layers) > 1:
            shown = layers.most_common(1)[0][1]
            notes.append(
                f"{task.name}, {arm.norm}: runs recorded the gains of different layers; shown are those "
                f"of {shown} of {len(arm.runs)} runs."
            )
    notes += unequal_evaluations(task)
    own = {name for arm in task.arms.values() for run in arm.runs for name in run.spec.own}
    if own:
        notes.append(
            f"{task.name}: each normalizer has hyperparameters that were tuned for it: "
            f"{', '.join(sorted(own))}."
        )
    tuned = [run.spec for arm in task.arms.values() for run in arm.runs if run.spec.searched]
    for first, last in sorted({(spec.searched[0], spec.searched[1]) for spec in tuned}):
        of_it = [spec for spec in tuned if spec.searched == [first, last]]
        inside = sum(first <= spec.seed <= last for spec in of_it)
        which = f"seed {first}" if first == last else f"seeds {first} to {last}"
        seen = f"{inside} of {len(of_it)} runs are of these, whose returns are too good"
        notes.append(
            f"{task.name}: rn-rl tune chose hyperparameters on {which}; "
            f"{seen if inside else 'no run is of these'}."
        )
    counts = {len(arm.runs) for arm in task.arms.values()}
    if len(counts) > 1:
        each = ", ".join(f"{arm.norm} {len(arm.runs)}" for arm in task.arms.values())
        notes.append(f"{task.name}: numbers of seeds differ: {each}.")
    return notes


def unequal_evaluations(task: Task) -> list[str]:
    """Return notes if the runs of a task were evaluated at different timesteps, or in different ways."""
    notes = []
    grids = set().union(*(arm.grids for arm in task.arms.values()))
    first, last = next(iter(task.arms.values())).span
    if len(grids) > 1 and not math.isnan(first):
        notes.append(
            f"{task.name}: not all runs were evaluated at the same timesteps; areas are of timesteps "
            f"{first:,.0f} to {last:,.0f}, and steps to threshold as coarse as a run's evaluations."
        )
    ways: dict[tuple[bool, int], Counter[str]] = {}
    for norm, arm in task.arms.items():
        for run in arm.runs:
            if run.episodes:  # none of a run that diverged
                ways.setdefault((run.held_out, run.episodes), Counter())[norm] += 1
    if len(ways) > 1:
        told = "; ".join(
            f"{last_policy(*way)}: " + ", ".join(f"{norm} {n}" for norm, n in counts.items())
            for way, counts in sorted(ways.items())
        )
        notes.append(f"{task.name}: last policies were measured unequally (runs): {told}.")
    return notes


def last_policy(held_out: bool, episodes: int) -> str:
    """Return, as text, how the return of a last policy was measured."""
    if held_out:
        return f"{episodes} episodes after the training"
    return f"{episodes} episodes of the last evaluation while training"
