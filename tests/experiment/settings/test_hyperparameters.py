"""Values of ``--set``: None turns off what an algorithm lets you turn off, and nothing else."""

import pytest

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.settings.algorithms import ALGORITHMS, algorithm
from rn_rl.experiment.settings.hyperparameters import check_given, parameters, parse_assignments

RUN = {"n_envs", "n_timesteps"}


@pytest.mark.parametrize("text", ["null", "None", "~", ""])
def test_none_in_every_spelling(text):
    given = parse_assignments([f"age_half_life={text}"], "--set")
    assert given == {"age_half_life": None}
    check_given(algorithm("rndqn"), given)


@pytest.mark.parametrize("name", ["None!", "none", "NONE"])
def test_other_words_stay_words(name):
    assert parse_assignments([f"x={name}"], "--set") == {"x": name}


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize("text", ["None", "many"])
def test_what_has_to_be_a_number_is_one(algo, text):
    known = parameters(algorithm(algo))
    for name in {
        "learning_rate",
        "gamma",
        "buffer_size",
        "noise_std",
        "n_steps",
    } & known.keys() | RUN:
        given = parse_assignments([f"{name}={text}"], "--set")
        with pytest.raises(UserError, match=f"{name}={given[name]!r}: expected a number"):
            check_given(algorithm(algo), given)


@pytest.mark.parametrize(
    ("algo", "name"),
    [("rndqn", "age_half_life"), ("rndqn", "max_grad_norm"), ("ppo_lstm", "batch_size")],
)
def test_what_can_be_none_trains(algo, name, tmp_path):
    steps = "n_steps=1" if algo == "rndqn" else "n_steps=16"
    words = ["train", "--algo", algo, "--env", "CartPole-v1", "--quiet", "--timesteps", "64"]
    words += ["--set", f"{name}=None", "--set", steps, "--out", str(tmp_path)]
    assert main(words) == 0
    [settings] = tmp_path.rglob("run.yaml")
    assert f"{name}: null" in settings.read_text()
