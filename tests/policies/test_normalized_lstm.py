"""A normalizer inside an LSTM: torch's numbers without one, the formula with one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_contrib import RecurrentPPO
from torch import nn

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.normalization import observation_weights, phase_norms
from rn_rl.policies import NormRecurrentActorCriticPolicy
from rn_rl.policies.normalized_lstm import NormalizedLSTM

STEPS, SEQUENCES, INPUTS, SIZE = 7, 3, 5, 4


@pytest.fixture
def lstm() -> nn.LSTM:
    return nn.LSTM(INPUTS, SIZE).double()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(STEPS, SEQUENCES, INPUTS).double()


def state() -> Any:
    return tuple(torch.randn(1, SEQUENCES, SIZE).double() for _ in range(2))


def test_without_a_normalizer_it_is_torchs(lstm, x):
    begin = state()
    ours, (h, c) = NormalizedLSTM(lstm, "none")(x, begin)
    theirs, (their_h, their_c) = lstm(x, begin)
    for found, expected in ((ours, theirs), (h, their_h), (c, their_c)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_an_episode_that_begins_resets_the_state(lstm, x):
    keep = torch.ones(SEQUENCES, STEPS).double()
    keep[1, 4] = 0
    whole, _ = NormalizedLSTM(lstm, "none")(x, state(), keep)
    fresh = tuple(torch.zeros(1, 1, SIZE).double() for _ in range(2))
    alone, _ = lstm(x[4:, 1:2], fresh)
    torch.testing.assert_close(whole[4:, 1:2], alone, rtol=0, atol=1e-14)


def test_the_normalized_state_is_fed_back(lstm, x):
    normalized = NormalizedLSTM(lstm, "ln").double()
    begin = state()
    found, (h, c) = normalized(x, begin)
    (hidden,), (cell,) = begin
    for t in range(STEPS):
        gates = x[t] @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + hidden @ lstm.weight_hh_l0.T
        i, f, g, o = (gates + lstm.bias_hh_l0).split(SIZE, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        before = torch.sigmoid(o) * torch.tanh(cell)
        centered = before - before.mean(1, keepdim=True)
        hidden = centered / (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(found[t], hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(h[0], hidden, rtol=0, atol=1e-12)
    torch.testing.assert_close(c[0], cell, rtol=0, atol=1e-12)


def test_a_phase_observes_each_real_step_once_and_the_state_moves_at_the_commit(lstm, x):
    normalized = NormalizedLSTM(lstm, "rn(half_life=2)").double()
    [norm] = phase_norms(normalized).values()
    begin, rows = state(), torch.ones(SEQUENCES, STEPS).double()
    rows[2, 3:] = 0
    first = norm.running_state.clone()
    normalized.train()
    with observation_weights(normalized, rows.flatten()):
        before, _ = normalized(x, begin)
    assert torch.equal(norm.running_state, first) and norm.pending_sums[0] == (7 + 7 + 3) * SIZE
    seen = before.swapaxes(0, 1)[rows.bool()] / norm.gain.item()
    assert float(norm.pending_sums[1]) == pytest.approx(
        float((seen.detach() - first[0]).sum()), abs=1e-9
    )
    normalized.eval()
    assert not torch.equal(norm.running_state, first)
    acting, _ = normalized(x, begin)
    assert not torch.equal(acting, before) and not norm.pending_sums.any()


def test_it_takes_over_weights_and_draws_no_random_numbers(lstm):
    before = torch.get_rng_state()
    normalized = NormalizedLSTM(lstm, "ln+rn")
    assert torch.equal(torch.get_rng_state(), before)
    assert normalized.weight_hh_l0 is lstm.weight_hh_l0
    copied = copy.deepcopy(normalized)
    assert copied.state_dict().keys() == normalized.state_dict().keys()


KWARGS = {"norm": "ln", "net_arch": [8], "lstm_hidden_size": 6}
ROLLOUT: dict[str, Any] = {
    "n_steps": 16,
    "batch_size": 8,
    "n_epochs": 1,
    "device": "cpu",
    "seed": 0,
}


def agent(lstm_norm: str, **kwargs: Any) -> RecurrentPPO:
    options = {**KWARGS, "lstm_norm": lstm_norm, **kwargs}
    policy = NormRecurrentActorCriticPolicy
    return RecurrentPPO(policy, "CartPole-v1", policy_kwargs=options, **ROLLOUT)


def test_none_changes_nothing():
    plain = RecurrentPPO(
        NormRecurrentActorCriticPolicy, "CartPole-v1", policy_kwargs=KWARGS, **ROLLOUT
    ).learn(32)
    found = agent("none").learn(32).policy.state_dict()
    for name, value in plain.policy.state_dict().items():
        assert torch.equal(value, found[name]), name


def test_an_agent_is_saved_and_loaded(tmp_path):
    model = agent("ln+rn(half_life=5)", weight_decay=0.1).learn(32)
    assert any("lstm_critic.norm" in name for name, _ in model.policy.named_parameters())
    held = {id(p) for group in model.policy.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.policy.parameters()}
    model.save(tmp_path / "agent.zip")
    loaded = RecurrentPPO.load(tmp_path / "agent.zip")
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name]), name
    assert type(loaded.policy.lstm_actor) is NormalizedLSTM


@pytest.mark.parametrize(
    ("lstm_norm", "kwargs", "said"),
    [
        ("xx", {}, "unknown normalizer 'xx'"),
        ("wn", {}, "lstm_norm='wn': wn changes the weights of a linear layer"),
        ("ln+spectral", {}, "spectral changes the weights"),
        ("rn-paper", {}, "lstm_norm='rn-paper': its output or gradient depends on the batch"),
        ("brn", {}, "its output or gradient depends on the batch"),
        ("ln", {"n_lstm_layers": 2}, "expected an LSTM of one layer"),
    ],
)
def test_a_mistake_is_one_line(lstm_norm, kwargs, said):
    with pytest.raises(UserError) as error:
        agent(lstm_norm, **kwargs)
    assert said in str(error.value) and "\n" not in str(error.value)


TRAIN = (
    "--algo ppo_lstm --env CartPole-v1 --timesteps 64 --n-envs 1 --eval-freq 0 --quiet --probe --set "
    "n_steps=16 batch_size=16 n_epochs=1 normalize=false policy_kwargs.net_arch=[8] "
    "policy_kwargs.lstm_hidden_size=6 policy_kwargs.lstm_norm=ln+rn(half_life=5)"
)


@pytest.mark.parametrize("seeds", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_command_line_trains_probes_and_evaluates_it(seeds, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the page of the probe is written
    assert main(["train", *TRAIN.split(), "--seeds", seeds, "--out", str(tmp_path)]) == 0
    runs = sorted(path.parent for path in tmp_path.rglob("run.yaml"))
    assert len(runs) == int(seeds)
    assert main(["evaluate", str(runs[0]), "--episodes", "1"]) == 0
    assert main(["probe", str(runs[0])]) == 0
    assert "lstm_actor" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("more", ["--seeds 1", "--seeds 2 --vector-env gymnasium"])
def test_a_resumed_training_equals_one_that_was_not_stopped(more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*TRAIN.replace("--probe", more).split(), "learning_rate=0.001", "clip_range=0.2"]
    for timesteps, out in (("128", "whole"), ("64", "stopped")):
        assert main(["train", *words, "--timesteps", timesteps, "--out", out]) == 0
    run = "none/ppo_lstm/CartPole-v1_1"
    assert main(["train", "--resume", f"stopped/{run}", "--timesteps", "128", "--quiet"]) == 0
    whole, stopped = (Path(out, run, "policy.safetensors") for out in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
