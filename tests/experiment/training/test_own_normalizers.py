"""Runs with a user's own normalizers and other networks: recorded, found again, refused."""

import functools
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from joblib.externals.loky import get_reusable_executor
from torch import nn

import rn_rl
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.normalization import REGISTRY, canonical_spec, plugins
from rn_rl.normalization.plugins import WithRegistered, is_importable

ROOT = Path(__file__).parents[3]

MODULE = '''
import pathlib
from rn_rl.normalization import RunningNorm

pathlib.Path(__file__).with_name("was_imported").touch()


class Mine(RunningNorm):
    """Running statistics with another floor."""

    def __init__(self, num_features, floor=0.1):
        super().__init__(num_features, eps=floor)
'''

TRAIN = "train --algo dqn --env CartPole-v1 --timesteps 64 --eval-freq 0 --quiet --out runs --set"
SETTINGS = "learning_starts=16 train_freq=8 batch_size=8 buffer_size=200 policy_kwargs.net_arch=[8]"


@pytest.fixture
def module(tmp_path, monkeypatch):
    before = dict(REGISTRY)
    (tmp_path / "own_norms.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_norms", None)
    REGISTRY.clear()
    REGISTRY.update(before)


def command(*more):
    return [*TRAIN.split(), *SETTINGS.split(), *more]


def test_a_fresh_process_finds_the_class_of_a_run_and_a_stranger_needs_trust(module, capsys):
    assert main(command("--norm", "ln+own_norms:Mine(floor=0.2)")) == 0
    [folder] = (module / "runs").glob("*/*/*_1")
    assert (
        yaml.safe_load((folder / "run.yaml").read_text())["norm"] == "ln+own_norms:Mine(floor=0.2)"
    )
    (module / "was_imported").unlink()
    code = "import sys; from rn_rl.cli import main; sys.exit(main(sys.argv[1:]))"
    typed = [sys.executable, "-c", code, "evaluate", str(folder), "--episodes", "1"]
    path = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        typed, cwd=module, capture_output=True, text=True, env={**os.environ, **path}
    )
    assert done.returncode == 0, done.stderr
    assert (module / "was_imported").exists()

    gift = module / "gift" / "CartPole-v1_1"
    shutil.copytree(folder, gift)
    given = yaml.safe_load((gift / "run.yaml").read_text())
    (gift / "run.yaml").write_text(yaml.safe_dump({**given, "signature": ""}))
    (module / "was_imported").unlink()
    sys.modules.pop("own_norms", None)
    capsys.readouterr()
    assert main(["evaluate", str(gift), "--episodes", "1"]) == 2
    error = capsys.readouterr().err
    assert "its normalizer 'own_norms:Mine' imports a module" in error and error.count("\n") == 1
    assert not (module / "was_imported").exists()
    assert main(["evaluate", str(gift), "--episodes", "1", "--trust"]) == 0
    hidden = {**given["hyperparameters"], "policy_kwargs": {"obs_norm": "own_norms:Mine"}}
    changed = {**given, "signature": "", "norm": "ln", "hyperparameters": hidden}
    (gift / "run.yaml").write_text(yaml.safe_dump(changed))
    capsys.readouterr()
    assert main(["evaluate", str(gift), "--episodes", "1"]) == 2
    assert "'own_norms:Mine' imports a module" in capsys.readouterr().err


def test_a_run_records_where_a_registered_name_is_from(module):
    sys.path.append(str(module))
    try:
        from own_norms import Mine  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(module))
    rn_rl.register("mine", Mine)
    assert main(command("--norm", "ln+mine")) == 0
    [folder] = (module / "runs").glob("*/*/*_1")
    spec = Run(folder).read_spec()
    assert spec.norm == "ln+mine" and spec.normalizers == {"mine": "own_norms:Mine"}
    del REGISTRY["mine"]
    model, env = Run(folder).load_agent()
    env.close()
    assert "mine" in REGISTRY and model.policy.norm == "ln+mine"

    class Inside(Mine):
        """In a function."""

    rn_rl.register("inside", Inside)
    with pytest.raises(UserError, match="no other process can import; move it to a module"):
        resolve(TrainConfig(algo="dqn", env="CartPole-v1", norm="inside"))


@pytest.fixture
def registered(module, monkeypatch):
    """``mine``, registered here, in processes that begin anew."""
    monkeypatch.syspath_prepend(module)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    from own_norms import Mine  # type: ignore[import-not-found]

    rn_rl.register("mine", Mine, scale_invariant=True)
    get_reusable_executor().shutdown()
    yield module
    get_reusable_executor().shutdown()


def test_processes_of_seeds_know_a_registered_name(registered):
    norm = "mine+nap"  # nap warns without a scale-invariant one
    assert main(command("--norm", norm, "--seeds", "2", "--engine", "process")) == 0
    assert len(list((registered / "runs").glob(f"{norm}/dqn/*/policy.safetensors"))) == 2


def test_processes_of_a_comparison_know_a_registered_name(registered):
    words = "compare --algo dqn --env CartPole-v1 --timesteps 64 --eval-freq 64 --eval-episodes 1"
    shape = "--final-episodes 1 --seeds 2 --norms none,mine --jobs 2 --engine process --out runs --quiet"
    assert main([*words.split(), *shape.split(), "--set", *SETTINGS.split()]) == 0
    assert len(list((registered / "runs").glob("*/dqn/*/final.json"))) == 4


SENT = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
print(pickle.load(open(sys.argv[2], "rb"))("mine"))
"""


def row_of(name):
    row = REGISTRY[name]
    return row.name, row.scale_invariant, row.summary, row.factory.__name__


def test_what_is_sent_to_a_process_has_all_that_was_registered(registered):
    rn_rl.register("halved", functools.partial(REGISTRY["mine"].factory, floor=0.5))
    rn_rl.register("lambda", lambda width: nn.Identity())
    sent = WithRegistered(canonical_spec)
    assert [row.name for row in sent.rows] == ["mine"]  # the others no process can import
    (registered / "sent").write_bytes(pickle.dumps(sent))
    typed = [sys.executable, "-c", SENT, str(registered), "sent"]
    done = subprocess.run(typed, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mine"]
    expected = row_of("mine")
    del REGISTRY["mine"]
    sent = pickle.loads(pickle.dumps(sent))
    with pytest.raises(UserError, match="unknown normalizer 'mine'"):
        canonical_spec("mine")
    sent.function = row_of
    assert sent("mine") == expected
    for origin in (REGISTRY["halved"].origin, REGISTRY["lambda"].origin):
        assert not is_importable(origin)


def test_what_a_module_says_when_it_registers_is_kept(module, monkeypatch):
    monkeypatch.syspath_prepend(module)
    text = (
        MODULE + "import rn_rl\nrn_rl.register('mine', Mine, scale_invariant=True, summary='own')\n"
    )
    (module / "own_norms.py").write_text(text)
    plugins.adopt({"mine": "own_norms:Mine"})
    assert REGISTRY["mine"].scale_invariant and REGISTRY["mine"].summary == "own"


@pytest.mark.parametrize(
    ("algo", "options"),
    [
        ("ppo_lstm", "policy_kwargs.lstm_norm=mine"),
        ("dqn", "policy_kwargs.obs_norm=mine"),
        ("dqn", "policy_kwargs.features_extractor_kwargs={norm: mine, net_arch: [8]}"),
    ],
)
def test_every_place_of_a_registered_name_is_recorded(algo, options, module, monkeypatch):
    monkeypatch.syspath_prepend(module)
    from own_norms import Mine  # type: ignore[import-not-found]

    rn_rl.register("mine", Mine)
    spec = resolve(TrainConfig(algo=algo, env="CartPole-v1", set=(options,)))
    assert spec.normalizers == {"mine": "own_norms:Mine"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--net", "simbar"], "unknown net 'simbar'. Did you mean 'simba'"),
        (["--net", "simba", "--set", "policy_kwargs.net_arch=[8,4]"], "it has blocks of one width"),
        (
            ["--net", "simba", "--set", "normalize=true"],
            "normalized twice, by VecNormalize and by obs_norm",
        ),
        (
            ["--net", "simba", "--set", "policy_kwargs.net=mlp"],
            "--net simba and --set policy_kwargs.net=mlp",
        ),
        (["--norm", "nowhere_at_all:Norm"], "cannot import 'nowhere_at_all'"),
        (["--norm", "json:JSONDecoder"], "JSONDecoder is not a torch.nn.Module"),
        (["--set", "policy_kwargs.obs_norm=rsnorm", "normalize=true"], "normalized twice"),
        (["--set", "policy_kwargs.norm=rn"], "--set policy_kwargs.norm=rn: expected --norm rn"),
        (["--set", "policy_kwargs.net=[simba]"], "unknown net \"['simba']\""),
        (["--set", "policy_kwargs.net_arch=3"], "net_arch 3 of the network: expected whole"),
        (["--set", "policy_kwargs.value_norm=popar"], "unknown value_norm 'popar'"),
    ],
)
def test_what_cannot_be_is_one_line(options, message, capsys, tmp_path):
    typed = f"train --algo dqn --env CartPole-v1 --timesteps 64 --quiet --out {tmp_path}"
    assert main([*typed.split(), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_of_settings_may_name_the_normalizer(tmp_path):
    path = tmp_path / "own.yml"
    path.write_text("default: {policy_kwargs: {norm: ln+rn, net_arch: [8]}}\n")
    given = TrainConfig(algo="dqn", env="CartPole-v1", conf_file=path)
    assert resolve(given).norm == "ln+rn"
    assert resolve(replace(given, norm="bn")).norm == "bn"
    path.write_text("default: {policy_kwargs: {norm: none, net_arch: [8]}}\n")  # as it is exported
    assert resolve(given).norm == "none" and resolve(replace(given, net="simba")).norm == "ln"


def test_another_network_brings_its_norm_and_sizes():
    spec = resolve(TrainConfig(algo="sac", env="Pendulum-v1", net="simba"))
    assert spec.norm == "ln" and spec.hyperparameters["policy_kwargs"]["net"] == "simba"
    assert "net_arch" not in spec.hyperparameters["policy_kwargs"]
    assert resolve(TrainConfig(algo="dqn", env="CartPole-v1", net="simbav2")).norm == "none"
    assert resolve(TrainConfig(algo="pqn", env="CartPole-v1")).norm == "ln"
    assert resolve(TrainConfig(algo="dqn", env="CartPole-v1")).norm == "none"
    given = TrainConfig(algo="dqn", env="CartPole-v1", net="simba", norm="ln+rn(half_life=50)")
    assert resolve(given).norm == "ln+rn(half_life=50)"
