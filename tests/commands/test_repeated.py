"""An option with several values that is typed several times has all of them."""

import pytest

from rn_rl.cli import COMMANDS, main
from rn_rl.commands.repeated import gathered, list_options


def options(words):
    """Return each option with its words, in alphabetical order."""
    return sorted(" ".join(words).replace(" --", "\n--").split("\n"))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train --set a=1 --set b=2", "train --set a=1 b=2"),
        ("train --set=a=1 --norm ln --set b=-2 c=3", "train --norm ln --set a=1 b=-2 c=3"),
        (
            "train --set a=1 --env_kwargs x=1 --env-kwargs y=2",
            "train --set a=1 --env-kwargs x=1 y=2",
        ),
        ("train --set a=1 b=2 --seed 3", "train --set a=1 b=2 --seed 3"),
        ("train --seed 3 --seed 4", "train --seed 3 --seed 4"),
        ("compare --agent a.zip --seeds 2 --agent b.zip", "compare --seeds 2 --agent a.zip b.zip"),
        ("compare --norms none,ln --norms rn", "compare --norms none,ln --norms rn"),
    ],
)
def test_values_are_gathered(typed, expected):
    words = typed.split()
    found = gathered(words, COMMANDS[words[0]][0])
    assert options(found) == options(expected.split())


def test_every_list_is_known():
    found = {name: list_options(config) for name, (config, _) in COMMANDS.items()}
    assert found["train"] == {"--set", "--env-kwargs"} and found["report"] == {"--agent"}
    assert found["compare"] == {"--set", "--env-kwargs", "--agent"}


def test_both_values_are_trained(tmp_path):
    words = (
        "train --algo dqn --env CartPole-v1 --quiet --timesteps 16 --set gamma=0.5 --set tau=0.25"
    )
    assert main([*words.split(), "--out", str(tmp_path)]) == 0
    [settings] = tmp_path.rglob("run.yaml")
    assert "gamma: 0.5" in settings.read_text() and "tau: 0.25" in settings.read_text()
