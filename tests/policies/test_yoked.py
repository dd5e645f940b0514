"""In a policy, ``yoked(RUN)`` replays in each place what the same place had in the recorded policy."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy

from rn_rl.agents.callbacks import online_norms
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from rn_rl.normalization.controls import YokedNorm
from rn_rl.policies import (
    NormActorCriticPolicy,
    NormDQNPolicy,
    NormPQNPolicy,
    NormQRDQNPolicy,
    NormRecurrentActorCriticPolicy,
    NormSACPolicy,
    NormTD3Policy,
    policy_kwargs,
)

NUMBERS = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGES = spaces.Box(0, 255, (3, 40, 40), np.uint8)
CHOICE = spaces.Discrete(2)
FORCE = spaces.Box(-1, 1, (2,), np.float32)

TWO = {"net_arch": [8, 8]}
PLACES = {
    "ppo": (NormActorCriticPolicy, "ln+{}", TWO),
    "sac": (NormSACPolicy, "ln+{}", TWO),
    "dqn simba": (NormDQNPolicy, "ln+{}", {"net": "simba", "net_arch": [8]}),
    "sac simba": (NormSACPolicy, "ln+{}", {"net": "simba", "net_arch": [8]}),
    "sac bronet": (NormSACPolicy, "ln+{}", {"net": "bronet", "net_arch": [8]}),
    "sac popart": (NormSACPolicy, "ln+{}", {"value_norm": "popart", "net_arch": [8]}),
    "ppo popart": (NormActorCriticPolicy, "{}", {"value_norm": "popart", **TWO}),
    "ppo bn": (NormActorCriticPolicy, "bn+{}", TWO),
    "ppo before hs": (NormActorCriticPolicy, "{}+hs", TWO),
    "ppo spectral": (NormActorCriticPolicy, "spectral+{}", TWO),
    "qrdqn bn": (NormQRDQNPolicy, "bn+{}", {"obs_norm": "rsnorm", **TWO}),
    "pqn bn": (NormPQNPolicy, "bn+{}", {"obs_norm": "rsnorm", **TWO}),
    "td3 rsnorm": (NormTD3Policy, "{}", {"obs_norm": "rsnorm", **TWO}),
    "ppo_lstm simba": (
        NormRecurrentActorCriticPolicy,
        "ln+{}",
        {"net": "simba", "net_arch": [8], "lstm_hidden_size": 8, "lstm_norm": "bn+{}"},
    ),
    "dqn trunk": (NormDQNPolicy, "ln+{}", {"trunk_norm": "{}", **TWO}),
    "dqn features": (
        NormDQNPolicy,
        "ln+{}",
        {"features_extractor_kwargs": {"features_dim": 8}, "trunk_norm": "bn+{}", **TWO},
    ),
}


def build(kind, spec, options, term):
    options = {k: v.format(term) if isinstance(v, str) else v for k, v in options.items()}
    given = options.pop("features_extractor_kwargs", None)
    if given:
        options["features_extractor_kwargs"] = dict(given)
    continuous = kind in (NormSACPolicy, NormTD3Policy)
    obs = IMAGES if "trunk_norm" in options else NUMBERS
    return kind(
        obs, FORCE if continuous else CHOICE, lambda _: 1e-3, norm=spec.format(term), **options
    )


def write(file, names):
    """A recording of three phases, whose gain in column c is ``c + 2``, c + 2.5 at first."""
    gains = np.tile(np.arange(len(names)) + 2.0, (3, 1))
    gains[0] += 0.5
    np.savez(file, gains=gains, timesteps=np.arange(3) * 10, layers=np.array(names))
    return f"yoked({file})"


def columns(policy):
    """Column that each yoked normalizer replays, by name, after a check of its state."""
    found = {}
    for name, norm in online_norms(policy).items():
        if isinstance(norm, YokedNorm):
            assert norm.gain.item() == norm.schedule.gains[0] and norm.problem is None
            assert norm.running_state[2].item() == norm.schedule.gains[1]
            found[name] = norm.schedule.gains[1].item() - 2
    return found


@pytest.mark.parametrize("place", PLACES)
def test_each_layer_replays_the_layer_of_its_name(place, tmp_path):
    kind, spec, options = PLACES[place]
    names = list(online_norms(build(kind, spec, options, "rn(half_life=5)")))
    policy = build(kind, spec, options, write(tmp_path / "a.npz", names))
    replayed = columns(policy)
    assert replayed == {name: names.index(name) for name in replayed} and len(replayed) >= 2
    yoked = [n for n in phase_norms(policy).values() if isinstance(n, YokedNorm)]
    for online, target in policy.target_pairs():  # the target has the state of its network
        pairs = zip(phase_norms(online).values(), phase_norms(target).values(), strict=True)
        assert all(torch.equal(a.running_state, b.running_state) for a, b in pairs)
    for norm in yoked:
        norm.reset_running_state()
    assert columns(policy) == replayed


@pytest.mark.parametrize("policy", [DQNPolicy, ActorCriticPolicy])
def test_policy_kwargs_replay_convolutions_and_hidden_layers(policy, tmp_path):
    def made(term):
        given = policy_kwargs(f"bn+{term}", net_arch=[8, 8], trunk_norm=term)
        return policy(IMAGES, CHOICE, lambda _: 1e-3, **given)

    names = list(online_norms(made("rn(half_life=5)")))
    replayed = columns(made(write(tmp_path / "a.npz", names)))
    assert replayed == {name: names.index(name) for name in replayed} and len(replayed) == 5


KWARGS = {"obs_norm": "rsnorm", **TWO}


def recorded_names(spec):
    return list(online_norms(build(NormDQNPolicy, spec, KWARGS, "")))


@pytest.mark.parametrize(
    ("recorded", "own"), [("rn", "ln+{}"), ("ln+rn", "{}"), ("rn", "ln+rms+gn+{}")]
)
def test_another_spec_replays_hidden_layers_by_their_order(recorded, own, tmp_path):
    term = write(tmp_path / "a.npz", recorded_names(recorded))  # column 0 is that of observations
    assert list(columns(build(NormDQNPolicy, own, KWARGS, term)).values()) == [1, 2]


def test_another_spec_is_refused_where_a_layer_has_several_gains(tmp_path):
    term = write(tmp_path / "a.npz", recorded_names("bn+rn"))
    with pytest.raises(UserError, match=r"may be of one layer; give the spec of that run") as e:
        build(NormDQNPolicy, "ln+ln+{}", KWARGS, term)
    assert "\n" not in str(e.value)


def test_convolutions_that_were_not_normalized_are_refused(tmp_path):
    term = write(tmp_path / "a.npz", ["q_net.2", "q_net.6"])
    with pytest.raises(
        UserError, match=r"no gain for extractor.trunk.1: the recording has q_net.2, q"
    ):
        build(NormDQNPolicy, "ln+{}", {"trunk_norm": "{}", **TWO}, term)


def test_a_loaded_agent_goes_on(tmp_path):
    kind, spec, options = PLACES["dqn simba"]
    names = list(online_norms(build(kind, spec, options, "rn(half_life=5)")))
    policy = build(kind, spec, options, write(tmp_path / "a.npz", names))
    policy.set_training_mode(True)
    policy.q_net(torch.randn(4, 5))
    policy.set_training_mode(False)
    policy.save(tmp_path / "policy.pth")
    loaded = kind.load(tmp_path / "policy.pth", device="cpu")
    norms = online_norms(loaded)
    assert [norms[name].gain.item() for name in names if name != names[0]] == [3, 4]
