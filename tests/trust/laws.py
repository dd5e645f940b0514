"""Laws of the parsers: every input gives a value or an error of one line, never a traceback.

Each function takes an empty folder and returns a law: a function that Hypothesis calls with inputs.
``test_fuzz.py`` tries each law on some inputs, ``fuzz.py`` on 100,000 that coverage guides.
"""

from __future__ import annotations

import base64
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rn_rl.errors import UserError
from rn_rl.experiment.grid.leases import host, is_abandoned
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.foreign import StoredAgent, read_agent
from rn_rl.experiment.runs.records import read_record
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.weights import restore_statistics, stored_vecnormalize
from rn_rl.experiment.runs.zoo_folder import ZooFolder
from rn_rl.experiment.settings.algorithms import ALGORITHMS, algorithm
from rn_rl.experiment.settings.hyperparameters import check_given, parameters, parse_assignments
from rn_rl.normalization import REGISTRY, canonical_spec, make_normalizers

Law = Callable[[], None]
"""Made by ``given``: called without arguments, it draws them."""


def one_line(error: UserError) -> None:
    assert str(error) and "\n" not in str(error)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["lin_1e-3", "-1", "nan", "auto", "rn", "CartPole-v1", "cpu", "cuda:9"]),
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NUMBERS = st.sampled_from(
    ["", "1", "-1", "0", "1e999", "nan", "half_life=2", "5, 5", "1e-300", "'a'"]
)
INFINITE = st.just(
    '{"timesteps": Infinity, "layer": "a", "weight": 1, "mean_return": 0, "episodes": 1}'
)
DEEP = st.just("[" * 10_000)  # a RecursionError
YAML_TEXTS = st.text("ab:-&*[]{}#!|>'\"%@,?~ \n0123456789.e", max_size=60)
SPECS = st.lists(
    st.one_of(
        st.sampled_from([*REGISTRY]),
        st.tuples(st.sampled_from([*REGISTRY, "x"]), NUMBERS).map(lambda p: f"{p[0]}({p[1]})"),
        st.text("lnr+()=,.-123e'[] ", max_size=12),
    ),
    min_size=1,
    max_size=3,
).map("+".join)


def normalizer_specs(folder: Path) -> Law:
    @given(SPECS)
    def law(text):
        try:
            name = canonical_spec(text)
            assert canonical_spec(name) == name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a recording that is not there
                make_normalizers(name, 8)
        except UserError as error:
            one_line(error)

    return law


def assignments_and_hyperparameters(folder: Path) -> Law:
    names = sorted({n for a in ALGORITHMS for n in parameters(algorithm(a))})
    keys = st.sampled_from([*names, "env_wrapper", "normalize", "n_timesteps", "a.b", "a", ""])
    texts = st.tuples(keys, st.one_of(st.text(max_size=8), PLAIN.map(str))).map("=".join)

    @given(
        st.sampled_from([*ALGORITHMS]), st.lists(st.one_of(texts, st.text(max_size=8)), max_size=3)
    )
    def law(algo, given_texts):
        try:
            check_given(algorithm(algo), parse_assignments(given_texts, "--set"))
        except UserError as error:
            one_line(error)

    return law


def base() -> dict[str, Any]:
    """Return the fields that each run.yaml has."""
    numbers = dict.fromkeys(("seed", "timesteps", "n_envs", "eval_freq", "eval_episodes"), 1)
    names = {"algo": "dqn", "env": "CartPole-v1", "norm": "rn", "device": "cpu", "config": "zoo"}
    return {**numbers, **names, "threads": 1, "hyperparameters": {}}


def run_files(folder: Path) -> Law:
    run = Run(folder)
    fields = [*base(), "together", "episodes", "step_timeout", "versions", "signature", "command"]
    changes = st.dictionaries(st.sampled_from(fields), PLAIN, max_size=3)

    @given(st.one_of(changes.map(lambda c: yaml.safe_dump({**base(), **c})), YAML_TEXTS))
    def law(text):
        run.spec_file.write_text(text, encoding="utf-8", errors="replace")
        try:
            spec = run.usable_spec()
            assert isinstance(spec, RunSpec) and 1 <= spec.n_envs <= 10_000
            spec.settings()
        except UserError as error:
            one_line(error)

    return law


def checkpoints(folder: Path) -> Law:
    folder = folder / "checkpoint"
    counters = st.one_of(PLAIN, st.fixed_dictionaries({"num_timesteps": PLAIN}))
    rows = st.one_of(PLAIN, st.dictionaries(st.sampled_from(["0.monitor.csv", "../x"]), PLAIN))
    shape = st.fixed_dictionaries({}, optional={"counters": counters, "monitor_rows": rows})

    @given(
        st.one_of(st.one_of(shape, PLAIN).map(json.dumps), DEEP),
        st.integers(0, 300),
        st.integers(0, 255),
    )
    def law(text, at, byte):
        np.savez(checkpoint.state_file(folder), plain=np.array(text))
        if at < 250:  # one damaged byte
            data = bytearray(checkpoint.state_file(folder).read_bytes())
            data[at % len(data)] = byte
            checkpoint.state_file(folder).write_bytes(bytes(data))
        for function in (
            checkpoint.timesteps_done,
            lambda f: monitors.has_episodes(f, 3),
            monitors.trim_monitors,
        ):
            try:
                function(folder)
            except UserError as error:
                one_line(error)
        assert checkpoint.timesteps_in(checkpoint.state_file(folder)) >= -1

    folder.mkdir()
    return law


def records(folder: Path) -> Law:
    run = Run(folder)
    lengths = [
        yaml.safe_dump({**base(), "timesteps": timesteps, "eval_freq": every})
        for timesteps, every in ((100, 50), (10**12, 1), (100, 0), (0, 0))
    ]
    arrays = st.one_of(
        st.lists(st.floats(width=32), max_size=4).map(np.array),
        st.lists(st.integers(-5, 100), max_size=4).map(np.array),
        st.lists(st.lists(st.floats(), min_size=2, max_size=2), max_size=3).map(np.array),
        st.text(max_size=3).map(np.array),
    )
    final = st.one_of(
        PLAIN, st.fixed_dictionaries({n: PLAIN for n in ("timesteps", "mean_return", "episodes")})
    )

    @given(
        arrays,
        arrays,
        st.one_of(final.map(json.dumps), INFINITE, DEEP),
        st.text("0123456789.,-\nrlt#{}einfa", max_size=60),
        st.sampled_from(lengths),
    )
    def law(timesteps, results, last, monitor, spec):
        run.spec_file.write_text(spec)
        np.savez(run.evaluations_file, timesteps=timesteps, results=results)
        run.final_file.write_text(last)
        (folder / "0.monitor.csv").write_text(f"#{{}}\nr,l,t\n{monitor}")
        run.divergence_file.unlink(missing_ok=True)
        if len(monitor) % 3 == 0:
            run.divergence_file.write_text(last)
        try:
            read_record(run)
        except UserError as error:
            one_line(error)

    return law


def claims(folder: Path) -> Law:
    path = folder / "key"

    @given(st.one_of(PLAIN.map(json.dumps), DEEP, st.text(max_size=20)), st.booleans())
    def law(text, ours):
        if ours:
            text = json.dumps({"host": host(), "pid": text})
        path.write_text(text, encoding="utf-8", errors="replace")
        is_abandoned(path)

    return law


def zoo_folders(folder: Path) -> Law:
    """Small ones; large and deep ones are those of ``run.yaml``, which the same function reads."""
    config = st.dictionaries(
        st.sampled_from(["env_wrapper", "normalize", "frame_stack", "vec_env_wrapper", "n_envs"]),
        PLAIN,
    )

    @given(st.one_of(config.map(yaml.safe_dump), YAML_TEXTS), PLAIN.map(yaml.safe_dump))
    def law(text, args):
        (folder / "config.yml").write_text(text, encoding="utf-8", errors="replace")
        (folder / "args.yml").write_text(args, encoding="utf-8", errors="replace")
        try:
            ZooFolder(folder).environment()
        except UserError as error:
            one_line(error)

    return law


def statistics(folder: Path) -> Law:
    """``vecnormalize.json`` of rn-rl 0.1.0, and the member of a zip of today."""
    path = folder / "vecnormalize.json"
    moments = st.fixed_dictionaries({}, optional={"mean": PLAIN, "var": PLAIN, "count": PLAIN})
    parts = {"obs": st.one_of(moments, PLAIN), "ret": st.one_of(moments, PLAIN), "returns": PLAIN}
    whole = st.fixed_dictionaries({}, optional={**parts, "obs_is_dict": PLAIN})
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))

    @given(st.one_of(st.one_of(whole, PLAIN).map(json.dumps), DEEP, st.binary(max_size=9)))
    def law(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            stored = stored_vecnormalize(folder / "best.zip", path)
            assert stored is not None
            restore_statistics(stored, path, env)
        except UserError as error:
            one_line(error)

    return law


def foreign_agents(folder: Path) -> Law:
    """The description in an SB3 zip, which is read without unpickling."""
    path = folder / "agent.zip"
    pickled = st.one_of(
        st.binary(max_size=40), st.sampled_from([pickle.dumps(c) for c in (dict, RunSpec, DQN)])
    ).map(lambda raw: {":type:": "x", ":serialized:": base64.b64encode(raw).decode()})
    texts = st.text("[{(<class 'torch.nn.ReLU>)}],:0123456789ae. ", max_size=40)
    values = st.one_of(PLAIN, texts, st.just("[" * 10_000))
    kwargs = st.dictionaries(st.sampled_from([":serialized:", "net_arch", "norm", "a"]), values)
    parts = {"policy_class": st.one_of(pickled, PLAIN), "policy_kwargs": st.one_of(kwargs, PLAIN)}
    whole = st.fixed_dictionaries({}, optional={**parts, "_last_original_obs": PLAIN})

    @given(st.one_of(st.one_of(whole, PLAIN).map(json.dumps), DEEP, st.text(max_size=9)))
    def law(content):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data", content.encode(errors="replace"))
        for use in (StoredAgent.policy_class, StoredAgent.policy_kwargs):
            try:
                use(read_agent(path))
            except UserError as error:
                one_line(error)

    return law


LAWS: dict[str, Callable[[Path], Law]] = {
    law.__name__: law
    for law in (
        normalizer_specs,
        assignments_and_hyperparameters,
        run_files,
        checkpoints,
        records,
        claims,
        zoo_folders,
        statistics,
        foreign_agents,
    )
}
