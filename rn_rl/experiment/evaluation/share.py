"""A trained run as a folder to share: weights, settings, results and a model card."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import EvaluateConfig, ExportConfig
from rn_rl.experiment.evaluation.evaluate import Evaluation, evaluate
from rn_rl.experiment.runs.folder import Run, find_run
from rn_rl.experiment.runs.io import atomic_write, write_json, write_text, write_yaml
from rn_rl.experiment.runs.spec import RunSpec, file_name
from rn_rl.experiment.runs.weights import save_policy, vecnormalize_state


def export(config: ExportConfig) -> Path:
    """Evaluate a run, and write it in the layout of Stable-Baselines3 agents on the Hugging Face Hub.

    The folder holds ``README.md`` (the model card), ``results.json``, ``config.json``, the SB3 zip
    ``<algo>-<Env>.zip``, the RL Zoo's ``config.yml`` and ``args.yml``, ``replay.mp4`` if the run has a
    video, and what makes it a run that every command of ours opens: ``run.yaml``,
    ``policy.safetensors`` and ``evaluations.npz``. Nothing is uploaded.

    Args:
        config: options of ``rn-rl export``.

    Returns:
        The folder.

    Raises:
        UserError: there is no such run, a file of it is damaged, or the folder holds another run.
    """
    run, weights = find_run(config.run)
    spec = run.usable_spec(trust=config.trust)
    target = Run(config.to)
    if target.folder.exists() and target.folder.samefile(run.folder):
        raise UserError(f"--to {config.to}: it is the run itself; choose another folder")
    check_target(target, spec)
    options = EvaluateConfig(config.run, config.episodes, trust=config.trust)
    if not spec.deterministic_evaluation:
        options = replace(options, stochastic=True)
    result = evaluate(options)
    shared = replace(spec, signature="", started_from=None, together=[])
    copy_agent(run, weights, target, shared, trust=config.trust)
    card = Card(shared, result, (run.folder / "video.mp4").is_file())
    write_text(target.folder / "results.json", json.dumps(card.results(), indent=2) + "\n")
    write_text(target.folder / "README.md", card.text())
    return target.folder


WRITTEN = (
    "run.yaml", "README.md", "config.json", "config.yml", "args.yml", "policy.safetensors",
    "vecnormalize.json", "evaluations.npz", "code_length.npz", "replay.mp4",
)  # fmt: skip
"""Names of the files of an export, beside results.json and the agent's zip."""


def check_target(target: Run, spec: RunSpec) -> None:
    """Raise :class:`UserError` if an export would overwrite other files than those of its own kind."""
    name = zip_name(spec)
    if not (target.folder / "results.json").exists():
        lost = [each for each in (*WRITTEN, name) if (target.folder / each).exists()]
        if lost:
            raise UserError(
                f"--to {target.folder}: its {lost[0]} would be lost; expected a new folder"
            )
        return
    other = [path.name for path in target.folder.glob("*.zip") if path.name != name]
    if other:
        raise UserError(
            f"--to {target.folder}: another agent, {other[0]}, is there; expected a new folder"
        )


def zip_name(spec: RunSpec) -> str:
    """Return the name of the agent's file, as the Hub's agents have it."""
    return f"{file_name(spec.algo)}-{file_name(spec.env)}.zip"


def copy_agent(run: Run, weights: Path | None, target: Run, spec: RunSpec, *, trust: bool) -> None:
    """Write the files of the agent and of its settings.

    Args:
        run: the run.
        weights: an SB3 zip of it such as ``best_model.zip``; None for its last policy.
        target: the folder to write, as a run.
        spec: description of the run without what concerns this machine alone.
        trust: as for :meth:`~rn_rl.experiment.runs.folder.Run.load_agent`.
    """
    target.folder.mkdir(parents=True, exist_ok=True)
    model, env = run.load_agent(weights=weights, trust=trust)
    normalizer = model.get_vec_normalize_env()
    with atomic_write(target.policy_file) as temporary:
        if weights is None:
            shutil.copyfile(run.policy_file, temporary)
        else:
            save_policy(model, temporary, normalizer)
    if normalizer is not None:  # of a best policy, those of its time
        write_json(target.vecnormalize_file, vecnormalize_state(normalizer))
    env.close()
    target.write_spec(spec)
    settings = {name: value for name, value in asdict(spec).items() if name != "signature"}
    write_yaml(target.spec_file, settings)  # without the proof that it was trained on this account
    zoo = target.zoo_folder(spec.env)
    for path in (zoo / "config.yml", zoo / "args.yml"):
        path.replace(target.folder / path.name)
    zoo.rmdir()
    copies = [
        (weights or run.zip_file(spec.env), zip_name(spec)),
        (run.evaluations_file, run.evaluations_file.name),
        (run.folder / "code_length.npz", "code_length.npz"),
        (run.folder / "video.mp4", "replay.mp4"),
    ]
    for source, name in copies:
        if source.is_file():
            with atomic_write(target.folder / name) as temporary:
                shutil.copyfile(source, temporary)
        else:
            (target.folder / name).unlink(missing_ok=True)  # of an earlier export
    write_text(target.folder / "config.json", json.dumps(settings, indent=2) + "\n")


@dataclass(frozen=True)
class Card:
    """The model card of an agent."""

    spec: RunSpec
    result: Evaluation
    filmed: bool
    """True if the folder holds ``replay.mp4``."""

    def results(self) -> dict[str, Any]:
        """Return the contents of ``results.json``, with the names that the Hub's agents have."""
        result = self.result
        return {
            "mean_reward": result.mean_return,
            "std_reward": result.std_return,
            "is_deterministic": result.deterministic,
            "n_eval_episodes": result.episodes,
            "eval_datetime": datetime.now(UTC).isoformat(timespec="seconds"),
            "ci_low": result.ci_low,
            "ci_high": result.ci_high,
            "returns": result.returns,
        }

    def head(self) -> dict[str, Any]:
        """Return what the Hub reads from the card: library, tags and result."""
        spec, result = self.spec, self.result
        metric = {
            "type": "mean_reward",
            "value": f"{result.mean_return:.2f} +/- {result.std_return:.2f}",
            "name": "mean_reward",
            "verified": False,
        }
        task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
        data = {"name": spec.env, "type": spec.env}
        found = {"task": task, "dataset": data, "metrics": [metric]}
        return {
            "library_name": "stable-baselines3",
            "tags": [spec.env, "deep-reinforcement-learning", *TAGS],
            "model-index": [{"name": spec.algo.upper(), "results": [found]}],
        }

    def text(self) -> str:
        """Return the card, Markdown behind YAML."""
        spec, result = self.spec, self.result
        head = yaml.safe_dump(self.head(), sort_keys=False)
        settings = yaml.safe_dump(spec.hyperparameters, sort_keys=False)
        versions = ", ".join(f"{name} {version}" for name, version in spec.versions.items())
        actions = "greedy" if result.deterministic else "sampled"
        rows = [
            (
                "return, mean ± std over episodes",
                f"{result.mean_return:.2f} ± {result.std_return:.2f}",
            ),
            ("95% interval of the mean", result.interval),
            ("episodes, actions", f"{result.episodes}, {actions}"),
            ("length of an episode, mean", f"{result.mean_length:.1f}"),
            ("timesteps of the training", f"{result.timesteps:,}"),
        ]
        if result.success_rate is not None:
            rows.append(("episodes with a positive return", f"{100 * result.success_rate:.0f}%"))
        table = "\n".join(f"| {name} | {value} |" for name, value in rows)
        network = f"with the normalizer `{plain(spec.norm)}` between the layers of its network"
        if spec.norm == "none":
            network = "without a normalizer in its network"
        if spec.normalizers:
            origins = ", ".join(f"`{plain(origin)}`" for origin in spec.normalizers.values())
            network += f"; it is not rn-rl's own: {origins} must be importable to load the agent"
        film = "\nOne of its episodes is in `replay.mp4`.\n" if self.filmed else ""
        return CARD.format(
            head=head,
            algo=spec.algo.upper(),
            env=plain(spec.env),
            norm=plain(spec.norm),
            network=network,
            seed=spec.seed,
            table=table,
            film=film,
            settings=settings.rstrip().replace("```", "'''"),
            command=plain(spec.command) or "unknown",
            versions=plain(versions),
        )


TAGS = ("reinforcement-learning", "stable-baselines3", "rn-rl")

CARD = """---
{head}---

# {algo} on {env}, normalizer `{norm}`

An agent of Stable-Baselines3 {network}, trained with rn-rl from seed {seed}.
{film}
| | |
| --- | --- |
{table}

The interval is over episodes of this one agent. It says nothing about agents of other seeds.

## Play it

Download the folder, then, with rn-rl installed:

```
rn-rl evaluate FOLDER
rn-rl video FOLDER --out clip.mp4
```

or in Python:

```
from pathlib import Path
from rn_rl.experiment.runs.folder import Run

model, env = Run(Path("FOLDER")).load_agent()
```

Both read `run.yaml` and `policy.safetensors`, and nothing is unpickled. The zip is for
Stable-Baselines3's own `load()`, which unpickles: use that only where you trust the author.

## Settings

```yaml
{settings}
```

Trained by

```
{command}
```

with {versions}.
"""


def plain(text: str) -> str:
    """Return text without what would end a code span or a line of the card."""
    return " ".join(text.replace("`", "'").split())
