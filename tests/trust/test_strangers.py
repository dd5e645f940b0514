"""Run folders from a stranger: nothing in them is run, nothing outside of them is written."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.runs import checkpoint, trust
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.zoo_folder import ZooFolder
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_seeds
from rn_rl.experiment.training.single import train
from rn_rl.policies.spec_arguments import NORMALIZER_ARGUMENTS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has 64 of 128 timesteps."""
    out = tmp_path_factory.mktemp("runs")
    config = TrainConfig(
        algo="ppo",
        env="CartPole-v1",
        timesteps=64,
        n_envs=1,
        eval_freq=0,
        set=("n_steps=32", "batch_size=32"),
        out=out,
        quiet=True,
    )
    return train(config).folder


@pytest.fixture
def stranger(trained, tmp_path):
    """A function that copies the run with other values in its ``run.yaml``, unsigned."""

    def copy(**values: Any) -> Path:
        folder = tmp_path / "gift" / "CartPole-v1_1"
        shutil.copytree(trained, folder)
        path = folder / "run.yaml"
        given = {**yaml.safe_load(path.read_text()), "timesteps": 128, "signature": ""}
        hyperparameters = given["hyperparameters"] | values.pop("hyperparameters", {})
        given |= {**values, "hyperparameters": hyperparameters}
        path.write_text(yaml.safe_dump(given))
        return folder

    return copy


def error_of(capsys, *words: Any) -> str:
    """Run a command that must end at once with status 2 and one line."""
    begin = time.perf_counter()
    assert main([str(word) for word in words]) == 2
    assert time.perf_counter() - begin < 20
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    return error


MODULE = "import pathlib\npathlib.Path({path!r}).touch()\n"


@pytest.mark.parametrize(
    ("command", "what", "name"),
    [
        *(
            (command, "environment", "wicked:CartPole-v1")
            for command in ("evaluate", "video", "train --resume")
        ),
        ("evaluate", "algorithm", "wicked:DQN"),
        ("train --resume", "algorithm", "wicked:DQN"),
        *(
            (command, "wrapper", "wicked:Noop")
            for command in ("evaluate", "video", "export", "train --resume")
        ),
    ],
)
def test_a_module_is_not_imported(stranger, command, what, name, tmp_path, monkeypatch, capsys):
    proof = tmp_path / "imported"
    (tmp_path / "wicked.py").write_text(MODULE.format(path=str(proof)))
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("wicked", None)
    given = {"environment": {"env": name}, "algorithm": {"algo": name}}
    given["wrapper"] = {"hyperparameters": {"env_wrapper": [{name: {"a": 1}}]}}
    folder = stranger(**given[what])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    to = ["--to", str(tmp_path / "shared")] if command == "export" else []
    error = error_of(capsys, *command.split(), folder, *to)
    assert f"its {what} {name!r} imports a module" in error and "--trust" in error
    assert not proof.exists() and "wicked" not in sys.modules
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    words = [*command.split(), str(folder), *to, "--trust"]
    main([*words, "--episodes", "1"] if command == "evaluate" else words)
    capsys.readouterr()
    assert proof.exists()


@pytest.mark.parametrize("argument", NORMALIZER_ARGUMENTS)
@pytest.mark.parametrize("place", ["policy", "extractor"])
def test_no_argument_that_is_a_normalizer_imports_a_module(
    stranger, argument, place, tmp_path, monkeypatch, capsys
):
    proof = tmp_path / "imported"
    (tmp_path / "wicked.py").write_text(MODULE.format(path=str(proof)))
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("wicked", None)
    given: dict[str, Any] = {argument: "ln+wicked:Norm(a=1)"}
    given = {"features_extractor_kwargs": given} if place == "extractor" else given
    folder = stranger(hyperparameters={"policy_kwargs": given})
    for command in ("evaluate", "video", "train --resume"):
        error = error_of(capsys, *command.split(), folder)
        assert "its normalizer 'wicked:Norm' imports a module" in error and "--trust" in error
    assert not proof.exists() and "wicked" not in sys.modules


@pytest.mark.parametrize(
    "wrapper",
    [
        {"gymnasium.wrappers.RecordVideo": {"video_folder": "{elsewhere}"}},
        {"stable_baselines3.common.monitor.Monitor": {"filename": "{elsewhere}/x"}},
        {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5, "other": "{elsewhere}"}},
        "rn_rl.cli.main",
        ["minigrid.wrappers.ImgObsWrapper", "gymnasium.make"],
        {"a": {}, "b": {}},
        3,
    ],
)
def test_a_wrapper_that_may_write_is_refused(stranger, wrapper, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    text = json.dumps(wrapper).replace("{elsewhere}", str(elsewhere))
    folder = stranger(hyperparameters={"env_wrapper": json.loads(text)})
    error = error_of(capsys, "evaluate", folder, "--episodes", "1")
    assert "its wrapper" in error and "--trust" in error
    assert not elsewhere.exists()


def test_a_wrapper_of_the_list_needs_no_trust(stranger, capsys):
    wrapper = {"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5}}
    folder = stranger(hyperparameters={"env_wrapper": [wrapper]})
    assert main(["evaluate", str(folder), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == [5]


@pytest.mark.parametrize("name", ["policy", "replay_buffer_class"])
def test_a_class_from_elsewhere_is_refused(stranger, name, capsys):
    folder = stranger(hyperparameters={name: "rn_rl.cli.main"})
    assert f"its {name} 'rn_rl.cli.main' is not one of SB3's" in error_of(
        capsys, "evaluate", folder
    )


def test_a_run_of_this_account_needs_no_trust_wherever_it_is(
    trained, tmp_path, monkeypatch, capsys
):
    """Its signature holds for what it names, and not for what is changed afterwards."""
    (tmp_path / "own_env.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "copied"
    shutil.copytree(trained, folder)
    run = Run(folder)
    spec = yaml.safe_load((folder / "run.yaml").read_text())
    run.write_spec(RunSpec(**{**spec, "env": "own_env:CartPole-v1"}))
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text.replace("own_env:CartPole-v1", "own_env:Acrobot-v1"))
    assert "imports a module" in error_of(capsys, "evaluate", folder)
    (folder / "run.yaml").write_text(text)
    trust.key_file().unlink()  # another account
    assert "imports a module" in error_of(capsys, "evaluate", folder)


def test_the_key_is_for_the_user_alone(trained):
    trust.signature(Run(trained).read_spec())
    assert trust.key_file().stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["../victim.csv", "/etc/passwd", "run.yaml", "victim.csv"])
def test_no_file_elsewhere_is_cut(stranger, name, capsys):
    folder = stranger()
    victim = folder.parent / "victim.csv"
    victim.write_text("a\nb\nc\n")
    (folder / "victim.csv").write_text("a\nb\nc\n")
    state = checkpoint.state_file(folder / "checkpoint")
    arrays = dict(np.load(state))
    plain = json.loads(str(arrays["plain"]))
    plain["monitor_rows"] = {name: 1}
    arrays["plain"] = np.array(json.dumps(plain))
    np.savez(state, **arrays)
    assert "is damaged" in error_of(capsys, "train", "--resume", folder)
    assert victim.read_text() == (folder / "victim.csv").read_text() == "a\nb\nc\n"


@pytest.mark.parametrize("names", [["../other"], ["/tmp/x"], [".."], [3], [{"a": 1}]])
def test_a_batch_names_only_folders_beside_it(stranger, names, capsys):
    folder = stranger(together=names)
    assert "expected names of folders beside the run" in error_of(
        capsys, "train", "--resume", folder
    )


def test_links_are_not_followed(stranger, tmp_path, capsys):
    folder = stranger()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / "1.monitor.csv").symlink_to(victim)
    assert "is a symbolic link" in error_of(capsys, "train", "--resume", folder)
    assert victim.read_text() == "precious"


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("n_envs: 1", "n_envs: 10000000", "n_envs=10000000: expected 1 to 10,000"),
        ("threads: 1", "threads: 1000000", "threads=1000000: expected 1 to 1,024"),
        ("device: cpu", "device: meta", "device 'meta': expected"),
        ("seed: 0", "seed: -1", "seed=-1: expected 0 to"),
        ("seed: 0", "seed: true", "seed: expected int, not 'True'"),
        ("seed: 0", f"seed: {'9' * 5000}", "cannot be read"),
        ("seed: 0", "seed: 2020-01-01", "a value of type date"),
        ("timesteps: 128", "timesteps: .inf", "timesteps: expected int"),
        ("env: CartPole-v1", 'env: "\\e[31mred"', "control characters"),
        ("env: CartPole-v1", "env: <b>", "env '<b>': expected"),
        ("hyperparameters:", f"{BOMB}hyperparameters:", "more than 20,000 values"),
        ("hyperparameters:", f"deep: {'[' * 100}{']' * 100}\nhyperparameters:", "levels"),
        ("hyperparameters:", f"deep: {'[' * 10**5}{']' * 10**5}\nhyperparameters:", "cannot be"),
        ("hyperparameters:", f"long: {'x' * 10**6}\nhyperparameters:", "bytes, expected at most"),
        ("hyperparameters:", "more: 1\nhyperparameters:", "unexpected keyword argument 'more'"),
        ("hyperparameters:", "!!python/object/apply:os.system [ls]\nhyperparameters:", "cannot"),
    ],
)
def test_a_hostile_run_file_is_one_line_and_stops_no_report(
    stranger, trained, old, new, said, capsys
):
    folder = stranger()
    path = folder / "run.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    for command in ("evaluate", "train --resume"):
        assert said in error_of(capsys, *command.split(), folder)
    both = folder.parent
    shutil.copytree(trained, both / "CartPole-v1_2")
    main(["report", str(both), "--out", str(both / "report.html")])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and "\x1b[31m" not in printed.out + printed.err


@pytest.mark.parametrize("text", [BOMB, f"normalize: {'[' * 10**5}{']' * 10**5}"])
def test_a_hostile_folder_of_the_zoo_is_one_line(text, tmp_path):
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yml is damaged \(more than 20"):
        ZooFolder(tmp_path).environment()


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 10**4])
def test_a_hostile_value_is_one_line(value, capsys):
    words = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--set", f"gamma={value}"]
    assert "cannot read the value" in error_of(capsys, *words)


def test_a_damaged_checkpoint_of_a_seed_batch_is_named(tmp_path, capsys):
    config = TrainConfig(
        algo="ppo",
        env="CartPole-v1",
        seeds=2,
        engine="batch",
        timesteps=64,
        n_envs=1,
        eval_freq=0,
        set=("n_steps=32", "batch_size=32", "n_epochs=1"),
        out=tmp_path,
        quiet=True,
    )
    folder = train_seeds(config, Console(quiet=True))[1].folder
    state = folder / "checkpoint" / "state.npz"
    arrays = dict(np.load(state))
    plain = json.loads(str(arrays["plain"]))
    del plain["best"]
    arrays["plain"] = np.array(json.dumps(plain))
    np.savez(state, **arrays)
    words = ["train", "--resume", folder, "--timesteps", "128", "--quiet"]
    assert "is damaged (KeyError: 'best'), or one of its seed batch" in error_of(capsys, *words)


def damaged(kind: str, data: bytes) -> bytes:
    middle = len(data) // 2
    return {
        "empty": b"",
        "half": data[:middle],
        "a bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "text": b"hello",
        "a bracket": with_headers(data, lambda header: header.replace(b"}", b" ")),
        "a size": with_headers(data, lambda _: header_of((10**15,))),
    }[kind]


def header_of(shape: tuple[int, ...]) -> bytes:
    """Return the header of an array of float64 in a file of NumPy, without its magic and length."""
    return (
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode()
        + b"\n"
    )


def with_headers(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return an npz in which the header of every array is another one."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            array = old.read(name)
            end = 10 + int.from_bytes(array[8:10], "little")
            header = change(array[10:end])
            size = len(header).to_bytes(2, "little")
            new.writestr(name, array[:8] + size + header + array[end:])
    return written.getvalue()


@pytest.mark.parametrize("kind", ["empty", "half", "text", "a bit", "a bracket", "a size"])
def test_a_damaged_checkpoint_is_named(stranger, kind, capsys):
    folder = stranger()
    state = folder / "checkpoint" / "state.npz"
    state.write_bytes(damaged(kind, state.read_bytes()))
    assert "state.npz is damaged" in error_of(capsys, "train", "--resume", folder)


@pytest.mark.parametrize(
    "change",
    [
        {"counters": []},
        {"counters": {"num_timesteps": "many"}},
        {"counters": {"num_timesteps": -5}},
        {"counters": None},
        {"monitor_rows": [1]},
        {"optimizers": []},
        {"environments": [{}]},
        {"environments": "x"},
        {"random": 5, "evaluation_calls": {}, "best_mean_reward": [], "episodes": 4},
    ],
)
def test_a_checkpoint_of_another_shape_is_named(stranger, change, capsys):
    folder = stranger()
    state = folder / "checkpoint" / "state.npz"
    arrays = dict(np.load(state))
    arrays["plain"] = np.array(json.dumps({**json.loads(str(arrays["plain"])), **change}))
    np.savez(state, **arrays)
    error = error_of(capsys, "train", "--resume", folder)
    assert re.search(r"damaged|cannot be replayed|expected", error)


def test_escapes_in_the_name_of_a_folder_are_not_obeyed(tmp_path, capsys):
    name = "\x1b[2Jrun"
    os.mkdir(tmp_path / name)
    assert "\x1b" not in error_of(capsys, "evaluate", tmp_path / name)
