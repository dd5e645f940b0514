"""``rn-rl export``: the folder plays the same agent, and the Hub's own library reads its card."""

import json
import zipfile
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from stable_baselines3 import PPO

from rn_rl.cli import main
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.evaluation.share import Card
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.weights import vecnormalize_state

TRAIN = (
    "train --algo ppo --env CartPole-v1 --norm ln+rn --timesteps 256 --n-envs 1 --eval-freq 128 "
    "--eval-episodes 1 --set n_steps=32 batch_size=32 n_epochs=1 normalize=true --quiet --out"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN.split(), str(runs)]) == 0
    [spec] = runs.rglob("run.yaml")
    assert main(["video", str(spec.parent), "--episodes", "1", "--max-steps", "9"]) == 0
    return spec.parent


@pytest.fixture(scope="module")
def shared(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "ppo-CartPole-v1"
    assert main(["export", str(run), "--to", str(folder), "--episodes", "6"]) == 0
    return folder


def test_the_folder_is_a_run_that_plays_the_same_episodes(run, shared):
    returns = evaluate(EvaluateConfig(run, episodes=6)).returns
    assert evaluate(EvaluateConfig(shared, episodes=6)).returns == returns
    assert json.loads((shared / "results.json").read_text())["returns"] == returns
    assert main(["video", str(shared), "--episodes", "1", "--max-steps", "9"]) == 0


def test_the_last_policy_is_the_same_file(run, shared):
    name = "policy.safetensors"
    assert (shared / name).read_bytes() == (run / name).read_bytes()


def test_the_card_says_which_module_a_normalizer_of_ones_own_needs(run):
    result = evaluate(EvaluateConfig(run, episodes=1))
    spec = Run(run).read_spec()
    assert "must be importable" not in Card(spec, result, filmed=False).text()
    own = replace(spec, norm="theirs", normalizers={"theirs": "my_norms:Theirs"})
    text = Card(own, result, filmed=False).text()
    assert "it is not rn-rl's own: `my_norms:Theirs` must be importable to load the agent" in text


def test_sb3_loads_the_zip(run, shared):
    mine, env = Run(shared).load_agent()
    theirs = PPO.load(shared / "ppo-CartPole-v1.zip")
    observation = env.reset()
    assert mine.predict(observation)[0] == theirs.predict(observation, deterministic=False)[0]
    for name, value in theirs.policy.state_dict().items():
        assert (value == mine.policy.state_dict()[name]).all(), name
    env.close()


def test_the_hub_reads_the_card(shared):
    card = ModelCard.load(shared / "README.md")
    assert card.data.library_name == "stable-baselines3" and "CartPole-v1" in card.data.tags
    [result] = card.data.eval_results
    found = json.loads((shared / "results.json").read_text())
    assert result.metric_value == f"{found['mean_reward']:.2f} +/- {found['std_reward']:.2f}"
    assert (result.dataset_name, result.metric_type) == ("CartPole-v1", "mean_reward")
    assert f"[{found['ci_low']:.2f}, {found['ci_high']:.2f}]" in card.text
    assert "normalizer `ln+rn`" in card.text and "n_steps: 32" in card.text
    assert "{" not in card.text.replace("{}", "")


def test_what_is_of_this_machine_alone_stays(run, shared):
    assert yaml.safe_load((run / "run.yaml").read_text())["signature"]
    for name in ("run.yaml", "config.json"):
        assert "signature" not in yaml.safe_load((shared / name).read_text())
    names = {path.name for path in shared.iterdir() if path.name != "video.mp4"}
    assert names == {
        "README.md",
        "args.yml",
        "config.json",
        "config.yml",
        "code_length.npz",
        "evaluations.npz",
        "policy.safetensors",
        "ppo-CartPole-v1.zip",
        "replay.mp4",
        "results.json",
        "run.yaml",
        "vecnormalize.json",
    }


def test_the_best_policy_and_a_second_time(run, shared, tmp_path):
    folder = tmp_path / "best"
    best = str(run / "best_model.zip")
    for _ in range(2):
        assert main(["export", best, "--to", str(folder), "--episodes", "1"]) == 0
    returns = evaluate(EvaluateConfig(run / "best_model.zip", episodes=6)).returns
    assert evaluate(EvaluateConfig(folder, episodes=6)).returns == returns
    theirs, env = Run(run).load_agent(weights=run / "best_model.zip")
    mean = json.loads((folder / "vecnormalize.json").read_text())
    assert mean == json.loads(json.dumps(vecnormalize_state(theirs.get_vec_normalize_env())))
    env.close()
    start = f"{TRAIN} {tmp_path / 'on'} --from {folder}"
    assert main(start.split()) == 0
    with zipfile.ZipFile(folder / "ppo-CartPole-v1.zip") as stored:
        assert "policy.pth" in stored.namelist()


def test_another_run_is_not_overwritten(run, tmp_path, capsys):
    assert main([*TRAIN.split(), str(tmp_path)]) == 0
    [spec] = tmp_path.rglob("run.yaml")
    for target, said in (
        (spec.parent, "its run.yaml would be lost"),
        (run, "it is the run itself"),
    ):
        assert main(["export", str(run), "--to", str(target)]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert main(["export", str(tmp_path / "no"), "--to", str(tmp_path / "new")]) == 2
    assert "no such folder" in capsys.readouterr().err and not (tmp_path / "new").exists()
