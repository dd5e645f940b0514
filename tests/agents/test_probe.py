"""Probes of agents: every algorithm computes what it does without, and the record is of its layers."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rn_rl.agents import (
    ProbeCallback,
    SeedBatchDQN,
    SeedBatchPPO,
    SeedBatchProbe,
    SeedBatchRecurrentPPO,
)
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import read_probe
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_seeds
from rn_rl.experiment.training.seed_batch import BATCHES
from rn_rl.experiment.training.single import train
from rn_rl.normalization import phase_norms
from rn_rl.policies import NormDQNPolicy
from rn_rl.probe.network import churn_of
from rn_rl.probe.sites import layer_of
from tests.factories import envs_of

REPLAY = {"learning_starts": 20, "batch_size": 16, "buffer_size": 100}
SMALL = {"net_arch": [8]}
ROLLOUT = {"n_steps": 32, "batch_size": 16}
LSTM = {"lstm_hidden_size": 8, **SMALL}
AGENTS = [
    (DQN, "MlpPolicy", "CartPole-v1", {**REPLAY, "policy_kwargs": SMALL}, 40),
    (PPO, "MlpPolicy", "CartPole-v1", {**ROLLOUT, "n_epochs": 2, "policy_kwargs": SMALL}, 96),
    (
        RecurrentPPO,
        "MlpLstmPolicy",
        "CartPole-v1",
        {**ROLLOUT, "n_epochs": 1, "policy_kwargs": LSTM},
        96,
    ),
    (SAC, "MlpPolicy", "Pendulum-v1", {**REPLAY, "policy_kwargs": SMALL}, 32),
    (ARS, "MlpPolicy", "CartPole-v1", {"n_delta": 2, "policy_kwargs": SMALL}, 200),
    *(
        pytest.param(cls, "MlpPolicy", env, {**kwargs, "policy_kwargs": SMALL}, 96, marks=[slow])
        for slow in [pytest.mark.slow]
        for cls, env, kwargs in [
            (QRDQN, "CartPole-v1", REPLAY),
            (A2C, "CartPole-v1", {}),
            (TRPO, "CartPole-v1", ROLLOUT),
            (MaskablePPO, "CartPole-v1", ROLLOUT),
            (TD3, "Pendulum-v1", REPLAY),
            (DDPG, "Pendulum-v1", REPLAY),
            (TQC, "Pendulum-v1", REPLAY),
            (CrossQ, "Pendulum-v1", REPLAY),
        ]
    ),
]


@pytest.mark.parametrize(("cls", "policy", "env", "kwargs", "steps"), AGENTS)
def test_an_agent_learns_the_same_to_the_bit_and_its_layers_are_recorded(
    cls, policy, env, kwargs, steps
):
    def learn(callback):
        # SB3 writes into the dictionary of policy_kwargs
        model = cls(policy, env, seed=0, device="cpu", **copy.deepcopy(kwargs))
        arguments = {"use_masking": False} if cls is MaskablePPO else {}
        model.learn(steps, callback=callback, **arguments)
        return model

    plain = learn(None)
    with ProbeCallback(every=1) as probe:
        model = learn(probe)
    for name, value in plain.policy.state_dict().items():
        assert torch.equal(value, model.policy.state_dict()[name]), name
    arrays = probe.log.arrays()
    assert len(probe.log) >= 2 and np.isfinite(arrays["residual"][-1]).mean() > 0.5
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.policy.modules())
    columns = set(probe.log.columns)
    if cls is RecurrentPPO:
        assert {"lstm_actor@0", "lstm_actor@10", "action_net"} <= columns
        assert "get" not in vars(model.rollout_buffer)
    if cls is SAC:
        assert {"actor.mu", "critic.qf0.0", "critic.qf1.2", "critic_target.qf0.0"} <= columns
    if cls is DQN:
        assert {"q_net.q_net.0", "q_net_target.q_net.2"} <= columns
        i, j = (probe.log.columns.index(f"q_net{t}.q_net.0") for t in ("", "_target"))
        assert arrays["code"][-1, i] != arrays["code"][-1, j]
    if cls is not ARS:
        assert np.isfinite(arrays["churn"][-1]).any()


def test_an_environment_that_raises_leaves_no_hooks():
    class Broken(gym.Wrapper):
        def step(self, action):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 50:
                raise RuntimeError("broken")
            return super().step(action)

    model = DQN("MlpPolicy", Broken(gym.make("CartPole-v1")), seed=0, **REPLAY)
    probe = ProbeCallback(every=1)  # without with
    with pytest.raises(RuntimeError, match="broken"):
        model.learn(100, callback=probe)
    assert len(probe.log) > 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.policy.modules())


def test_the_critic_of_trpo_is_observed_with_the_default_batches():
    model = TRPO("MlpPolicy", "CartPole-v1", seed=0, **ROLLOUT, policy_kwargs=dict(SMALL))
    with ProbeCallback(every=1) as probe:
        model.learn(64, callback=probe)
    arrays = probe.log.arrays()
    for layer in ("mlp_extractor.value_net.0", "value_net", "action_net"):
        assert np.isfinite(arrays["residual"][:, probe.log.columns.index(layer)]).all(), layer
    dead = arrays["dead"][-1]
    assert np.isnan(dead[probe.log.columns.index("action_net")])
    assert 0 <= dead[probe.log.columns.index("mlp_extractor.policy_net.0")] < 1


def test_padding_of_recurrent_minibatches_is_not_observed():
    """Sequences end where episodes do, so later steps have fewer rows."""
    model = RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", seed=0, **ROLLOUT, n_epochs=1, policy_kwargs=dict(LSTM)
    )
    probe = ProbeCallback(every=1, batches=None)
    seen = []
    end = probe._end_phase
    probe._end_phase = lambda: (seen.append(counts(probe)), end())
    model.learn(64, callback=probe)
    rows, features = max(seen, key=lambda pair: pair[0].sum())
    assert rows.sum() == 32 * features  # each row of the rollout once, none of the padding
    assert rows[0] > rows[15]


def counts(probe):
    states = probe.probes[0]._states if probe.probes else None
    if states is None or "lstm_actor" not in states.slots:
        return np.zeros(32), 1
    slot = states.slots["lstm_actor"]
    return states.pending[0, slot.first : slot.first + slot.steps].numpy().copy(), slot.features


def seed_batch(kind):
    given = {"policy_kwargs": dict(SMALL), "device": "cpu"}
    if kind == "dqn":
        given["policy_kwargs"] = {"norm": "rn", **SMALL}
        models = [DQN(NormDQNPolicy, "CartPole-v1", seed=s, **REPLAY, **given) for s in (0, 1)]
        return SeedBatchDQN(models, envs_of(models))
    if kind == "ppo":
        models = [PPO("MlpPolicy", "CartPole-v1", seed=s, **ROLLOUT, **given) for s in (0, 1)]
        return SeedBatchPPO(models, envs_of(models))
    given["policy_kwargs"] = dict(LSTM)
    models = [
        RecurrentPPO("MlpLstmPolicy", "CartPole-v1", seed=s, **ROLLOUT, **given) for s in (0, 1)
    ]
    return SeedBatchRecurrentPPO(models, envs_of(models))


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("dqn", "q_net.q_net.0"),
        ("ppo", "mlp_extractor.policy_net.0"),
        pytest.param("ppo_lstm", "lstm_actor@31", marks=pytest.mark.slow),
    ],
)
def test_all_seeds_of_a_batch_are_probed_at_once_and_learn_the_same(kind, layer):
    plain, mine = seed_batch(kind), seed_batch(kind)
    probe = SeedBatchProbe(mine)
    plain.learn(128)
    mine.learn(128, on_rollout_start=lambda: probe.after_phase())
    probe.after_phase()
    rows = len(probe.log)
    probe.after_phase()  # nothing was learned since
    assert len(probe.log) == rows > 2
    probe.close()
    assert torch.equal(plain.stack.weights, mine.stack.weights)
    first, second = (probe.log.arrays(seed) for seed in (0, 1))
    i = probe.log.columns.index(layer)
    assert first["code"].shape == second["code"].shape
    assert first["mean"][-1, i] != second["mean"][-1, i]
    if kind == "ppo_lstm":
        assert {"lstm_critic@0", "action_net"} <= set(probe.log.columns)
        return
    # the second seed's layer by itself, on the same observations
    module = dict(mine.write_back(1).policy.named_modules())[layer]
    output = module(mine.recent_observations(64)[1].float()).detach()
    assert second["mean"][-1, i] == pytest.approx(float(output.mean()), rel=1e-4, abs=1e-6)
    assert second["sd"][-1, i] == pytest.approx(float(output.std(correction=0)), rel=1e-3)


def test_a_batch_of_fewer_seeds_goes_on_with_their_probes():
    batch = seed_batch("ppo")
    probe = SeedBatchProbe(batch)
    batch.learn(64, on_rollout_start=lambda: probe.after_phase())
    probe.after_phase()
    before = probe.log.arrays(1)
    batch.envs.keep([1])
    smaller = batch.only([1])
    after = probe.only(smaller, [1])
    smaller.learn(128, on_rollout_start=lambda: after.after_phase())
    found = after.log.arrays(0)
    np.testing.assert_array_equal(found["code"][: len(before["code"])], before["code"])
    assert len(found["code"]) > len(before["code"]) and found["residual"].max() < 3


OPTIONS = {
    "algo": "dqn",
    "env": "CartPole-v1",
    "norm": "rn",
    "set": ("learning_starts=50", "train_freq=4", "gradient_steps=1", "policy_kwargs.net_arch=[8]"),
    "eval_freq": 0,
    "quiet": True,
    "probe": True,
}


def test_a_run_records_its_probe_and_continues_it_exactly(tmp_path):
    whole = train(TrainConfig(**OPTIONS, timesteps=400, out=tmp_path / "a"))
    half = train(TrainConfig(**OPTIONS, timesteps=200, out=tmp_path / "b"))
    train(TrainConfig(resume=half.folder, timesteps=400, quiet=True))
    one, other = (read_probe(run.probe_file) for run in (whole, half))
    assert one.columns == other.columns and len(one.timesteps) > 50
    np.testing.assert_array_equal(one.timesteps, other.timesteps)
    for name in ("code", "residual", "shift", "ratio", "dead", "rank"):
        np.testing.assert_array_equal(one.values[name], other.values[name], err_msg=name)


def test_the_seeds_of_a_batch_each_have_a_probe_in_their_run(tmp_path):
    runs = train_seeds(TrainConfig(**OPTIONS, timesteps=200, seeds=2, engine="batch", out=tmp_path))
    records = [read_probe(Run(run.folder).probe_file) for run in runs]
    assert records[0].columns == records[1].columns
    assert not np.array_equal(records[0].values["code"], records[1].values["code"])
    assert np.isfinite(records[0].values["residual"][-1]).all()


def test_gain_step_and_churn_of_seeds_are_those_of_their_networks():
    batch = seed_batch("dqn")
    probe = SeedBatchProbe(batch)
    weights, outputs, rows = [], [], []

    def after_phase():
        before = len(probe.log)
        probe.after_phase()
        if len(probe.log) == before:
            return
        net = batch.write_back(1).policy.q_net
        layer = net.q_net[-1]
        weights.append(torch.cat([layer.weight.flatten(), layer.bias]).detach().clone())
        outputs.append(net(probe._reference[0][1].float()).detach().clone())
        [norm] = phase_norms(net).values()
        rows.append(float(norm.gain.mean()))

    batch.learn(64, on_rollout_start=after_phase)
    probe.close()
    arrays = probe.log.arrays(1)
    columns = probe.log.columns
    assert len(rows) > 3
    gains = arrays["gain"][:, columns.index("q_net.q_net.1.out")]
    np.testing.assert_allclose(gains, rows, rtol=1e-5)
    last = f"q_net.q_net.{len(batch.write_back(1).policy.q_net.q_net) - 1}"
    now, old = weights[-1], weights[-2]
    step, churn = (arrays[name][-1, columns.index(last)] for name in ("step", "churn"))
    assert step == pytest.approx(float((now - old).norm() / old.norm()), rel=1e-4) and step > 0
    assert churn == pytest.approx(churn_of(outputs[-2], outputs[-1]), rel=1e-3) and churn > 0
    assert not np.isfinite(arrays["step"][:, columns.index("q_net_target.q_net.0")]).any()


PENDULUM = {"sac", "td3", "ddpg", "tqc", "crossq"}
QUICK = ("learning_starts=20", "batch_size=16", "buffer_size=200", "train_freq=8")
SETTINGS = {
    **{algo: (*QUICK, "gradient_steps=1") for algo in ("dqn", "rndqn", "qrdqn", *PENDULUM)},
    **{
        algo: ("n_steps=16", "batch_size=16", "n_epochs=1")
        for algo in ("ppo", "rnppo", "ppo_lstm", "ppo_mask")
    },
    "a2c": ("n_steps=16",),
    "trpo": ("n_steps=16", "batch_size=16"),
    "pqn": ("n_steps=16", "batch_size=16", "n_epochs=1"),
}


@pytest.mark.parametrize(
    "algo",
    [
        algo if algo in ("dqn", "a2c", "td3") else pytest.param(algo, marks=pytest.mark.slow)
        for algo in BATCHES
    ],
)
def test_every_seed_batch_records_a_probe(tmp_path, algo):
    env = "Pendulum-v1" if algo in PENDULUM else "CartPole-v1"
    config = TrainConfig(
        algo=algo,
        env=env,
        norm="ln" if algo == "crossq" else "rn",
        # otherwise the replay memory weights transitions by age, which no batch does
        config="paper" if algo == "rndqn" else "zoo",
        set=(*SETTINGS[algo], "policy_kwargs.net_arch=[8]"),
        n_envs=1,
        timesteps=80,
        seeds=2,
        engine="batch",
        eval_freq=60,
        eval_episodes=1,
        quiet=True,
        probe=True,
        out=tmp_path,
    )
    runs = train_seeds(config)
    records = [read_probe(Run(run.folder).probe_file) for run in runs]
    modules = dict(runs[0].load_agent()[0].policy.named_modules())
    for record in records:
        for measure in ("residual", "step", "churn"):
            assert np.isfinite(record.values[measure][-1]).any(), measure
        layers = {layer_of(name, modules) for name in record.columns}
        assert layers <= set(modules)
    assert not np.array_equal(records[0].values["code"], records[1].values["code"])
    if algo != "crossq":
        assert np.isfinite(records[0].values["gain"][-1]).any()
    tags = EventAccumulator(str(runs[1].folder)).Reload().Tags()["scalars"]
    assert {tag.split("/")[1] for tag in tags if tag.startswith("probe/")} >= {"residual", "churn"}


@pytest.mark.parametrize("kind", [DQN, PPO])
def test_the_last_phase_is_in_tensorboard(tmp_path, kind):
    """SB3 writes its logger after rollouts, and nothing after the last one."""
    settings = {"n_steps": 32, "batch_size": 16} if kind is PPO else REPLAY
    agent = kind("MlpPolicy", "CartPole-v1", seed=0, tensorboard_log=str(tmp_path), **settings)
    probe = ProbeCallback()
    agent.learn(96, callback=probe)
    [folder] = tmp_path.iterdir()
    events = EventAccumulator(str(folder)).Reload()
    column = probe.log.columns[0]
    found = events.Scalars(f"probe/residual/{column}")
    assert [found[-1].step] == probe.log.timesteps[-1:]
    assert found[-1].value == pytest.approx(probe.log.arrays()["residual"][-1, 0], rel=1e-5)
    # SB3 writes values of PPO a rollout late
    late = 1 if kind is PPO else 0
    assert len({scalar.step for scalar in found}) == len(found) - late
