"""NormalizerLogger: logged keys, history, and the KL divergence of commits."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Categorical, Normal

from rn_rl.agents import RNDQN, RNPPO, NormalizerLogger
from rn_rl.agents.callbacks import strided
from rn_rl.normalization import phase_norms
from rn_rl.policies import policy_kwargs
from rn_rl.policies.divergence import mean_kl

DQN_FEW = {
    "seed": 0,
    "learning_starts": 20,
    "train_freq": 5,
    "batch_size": 16,
    "buffer_size": 500,
    "target_update_interval": 100,
}
PPO_FEW = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0}


class Recorder(KVWriter):
    """Store every record that is written."""

    def __init__(self) -> None:
        self.rows, self.steps = [], []

    def write(self, key_values, key_excluded, step=0) -> None:
        self.rows.append(dict(key_values))
        self.steps.append(step)


def learn(model, steps, callback=None):
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    model.learn(steps, callback=callback, log_interval=1)
    return recorder.rows


def agent(algorithm, spec="rn"):
    few = PPO_FEW if algorithm is PPO else DQN_FEW
    return algorithm("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs(spec), **few)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_stock_agents_log_gain_code_length_and_the_kl_of_commits(algorithm):
    model = agent(algorithm)
    callback = NormalizerLogger(measure_every=1)
    rows = learn(model, 400, callback)
    layers = list(phase_norms(getattr(model.policy, "q_net", model.policy)))
    assert callback.layer_names == layers and len(layers) == 2
    last = rows[-1]
    for layer in layers:
        assert last[f"normalizer/gain/{layer}"] > 0
        assert last[f"normalizer/gain/{layer}"] == last[f"normalizer/code_length/{layer}"]
    gains = [last[f"normalizer/gain/{layer}"] for layer in layers]
    assert last["normalizer/gain"] == pytest.approx(np.mean(gains))
    assert last["normalizer/commit_kl"] > 0
    assert ("normalizer/commit_greedy" in last) == (algorithm is DQN)
    assert any(key.startswith("train/") for key in last)  # SB3's own records


def test_controls_log_a_gain_but_no_code_length():
    last = learn(agent(PPO, "ramp(5, 10)"), 256, NormalizerLogger())[-1]
    assert any(key.startswith("normalizer/gain/") for key in last)
    assert not any(key.startswith("normalizer/code_length/") for key in last)


def test_without_normalizers_nothing_is_logged():
    callback = NormalizerLogger()
    rows = learn(agent(PPO, "ln"), 128, callback)
    assert not any(key.startswith("normalizer/") for row in rows for key in row)
    assert callback.history == callback.commit_kls == []


def test_history_of_ppo_has_one_row_per_phase():
    callback = NormalizerLogger()
    model = agent(PPO, "rln")
    learn(model, 64 * 6, callback)
    assert [steps for steps, _ in callback.history] == [64 * i for i in range(6)]
    gains = np.array([gains for _, gains in callback.history])
    assert (gains[:3] == pytest.approx(1)) and (abs(gains[3:] - 1) > 0.05).all()
    now = [norm.gain.mean().item() for norm in phase_norms(model.policy).values()]
    assert gains[-1] == pytest.approx(now)  # the sixth phase has not been committed yet


def test_history_of_dqn_has_one_row_per_phase():
    callback = NormalizerLogger()
    learn(agent(DQN), 200, callback)
    assert [steps for steps, _ in callback.history] == list(range(0, 200, 5))
    assert callback.history[-1][1] != callback.history[0][1]


def test_a_second_learn_continues_the_history():
    callback = NormalizerLogger()
    model = agent(PPO)
    learn(model, 128, callback)
    model.learn(128, callback=callback, reset_num_timesteps=False)
    assert [steps for steps, _ in callback.history] == [0, 64, 128, 192]


class Independent(NormalizerLogger):
    """Compute the KL independently, from copies of the policy before and after the commit."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.expected = None, []

    def _on_training_start(self) -> None:
        train = self.model.train

        def train_and_look():
            train()
            norms = phase_norms(self.model.policy).values()
            for norm in norms:
                norm.freeze()
            self.model.policy.set_training_mode(False)
            self.before = self.parameters_of_the_policy()
            self.model.policy.set_training_mode(True)
            for norm in norms:
                norm.freeze(False)

        self.model.train = train_and_look

    @torch.no_grad()
    def parameters_of_the_policy(self):
        """Logits, or mean and standard deviation, on the observations of the last rollout."""
        given = self.model.policy.get_distribution(self.seen).distribution
        if isinstance(given, Categorical):
            return (given.logits.double(),)
        assert isinstance(given, Normal)
        return given.mean.double(), given.stddev.double()

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        if self.before is None:
            return
        (old, *old_std), (new, *new_std) = self.before, self.parameters_of_the_policy()
        if old_std:
            assert torch.equal(*old_std, *new_std)
            kl = ((old - new) / old_std[0]).square() / 2
        else:
            old, new = old.log_softmax(1), new.log_softmax(1)
            kl = old.exp() * (old - new)
        self.expected.append(kl.sum(1).mean().item())

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        observations = self.model.rollout_buffer.observations
        self.seen = torch.tensor(observations.reshape(-1, observations.shape[-1]))


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("spec", ["rn", "rln", "rsn", "ramp(5, 10)"])
def test_commit_kl_of_ppo_is_that_of_the_policies_before_and_after(spec, env):
    callback = Independent()
    kwargs = policy_kwargs(spec, net_arch=[16, 16])
    model = PPO("MlpPolicy", env, policy_kwargs=kwargs, learning_rate=0.01, **PPO_FEW)
    rows = learn(model, 64 * 6, callback)
    assert len(callback.expected) == len(callback.commit_kls) == 5
    assert callback.expected[-1] > 1e-5
    assert callback.commit_kls == pytest.approx(callback.expected, rel=1e-4, abs=1e-7)
    logged = [row["normalizer/commit_kl"] for row in rows if "normalizer/commit_kl" in row]
    assert logged == pytest.approx(callback.commit_kls)


def test_commit_kl_of_dqn_is_that_of_the_softmax_before_and_after():
    model = agent(DQN, "ramp(50, 1000)")
    callback = NormalizerLogger(measure_every=1)
    learn(model, 200, callback)
    model.policy.set_training_mode(False)
    model.policy.set_training_mode(True)
    model.q_net(torch.randn(16, 4))
    before = copy.deepcopy(model.q_net)
    for norm in phase_norms(before).values():
        norm.freeze()
    before.set_training_mode(False)
    model.policy.set_training_mode(False)
    memory = model.replay_buffer
    x = torch.as_tensor(memory.observations[: memory.size(), 0])
    with torch.no_grad():
        p, q = before(x).double().softmax(1), model.q_net(x).double().softmax(1)
        changed = (before(x).argmax(1) != model.q_net(x).argmax(1)).double().mean()
    size = callback._commit_size(x.numpy())
    expected = (p * (p / q).log()).sum(1).mean().item()
    assert expected > 1e-6
    assert size == {"commit_kl": pytest.approx(expected, rel=1e-3), "commit_greedy": changed}


def test_kl_is_finite_where_a_probability_underflows():
    def softmax(*q):
        return Categorical(logits=torch.tensor([q]), validate_args=False)

    # the second probability of the new distribution underflows to 0 in float32
    old, new = softmax(0.0, -100.0), softmax(0.0, -110.0)
    assert old.probs[0, 1] > 0 and new.probs[0, 1] == 0
    assert mean_kl([old], [new]) == pytest.approx(10 * np.exp(-100.0), rel=1e-3)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_logging_does_not_change_what_is_learned(algorithm):
    def weights(callback):
        model = agent(algorithm)
        learn(model, 300, callback)
        return {k: v.numpy().tobytes() for k, v in model.policy.state_dict().items()}

    assert weights(NormalizerLogger(measure_every=1)) == weights(None)


def test_rndqn_and_rnppo_log_without_a_callback():
    for model in (
        RNPPO("MlpPolicy", "CartPole-v1", norm="rn", **PPO_FEW),
        RNDQN("MlpPolicy", "CartPole-v1", norm="rn", **DQN_FEW),
    ):
        rows = learn(model, 400)
        assert any("normalizer/commit_kl" in row for row in rows)
        assert any(key.startswith("normalizer/gain/") for row in rows for key in row)


def test_other_on_policy_agents_are_logged():
    model = A2C("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs=policy_kwargs("rsn"))
    rows = learn(model, 100, NormalizerLogger())
    assert any("normalizer/commit_kl" in row for row in rows)


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_gains_are_there_at_each_timestep_with_a_row(algorithm):
    """Also where a phase has several rows: DQN's here has 200 steps, which are several episodes."""
    model = agent(algorithm)
    if algorithm is DQN:
        model.train_freq = TrainFreq(200, TrainFrequencyUnit.STEP)
    evaluation = EvalCallback(
        Monitor(gym.make("CartPole-v1")), n_eval_episodes=1, eval_freq=50, verbose=0
    )
    callback = NormalizerLogger()
    recorder = Recorder()
    model.set_logger(Logger(folder=None, output_formats=[recorder]))
    model.learn(600, callback=CallbackList([callback, evaluation]), log_interval=1)
    gains = dict(callback.history)
    told = {}
    for step, row in zip(recorder.steps, recorder.rows, strict=True):
        told.setdefault(step, {}).update(row)
    assert len(told) > len(gains)
    for step, row in told.items():
        phase = max(begin for begin in gains if begin < step)
        for layer, gain in zip(callback.layer_names, gains[phase], strict=True):
            assert row[f"normalizer/gain/{layer}"] == gain
            assert row[f"normalizer/code_length/{layer}"] == gain


@pytest.mark.parametrize("measure_every", [1, 3])
def test_every_nth_commit_is_measured(measure_every):
    callback = NormalizerLogger(measure_every=measure_every)
    learn(agent(PPO), 64 * 7, callback)
    phases = range(1, 8)  # at the first there are no observations to measure on
    assert len(callback.commit_kls) == len([p for p in phases if p % measure_every == 0 and p > 1])


@pytest.mark.parametrize("steps", [10, 512, 700, 1000, 1024, 1535, 4096])
def test_observations_for_the_kl_span_the_whole_rollout(steps):
    rows = strided(np.arange(steps).reshape(steps, 1, 1), 512)
    assert rows.shape[1:] == (1,) and len(rows) <= 512
    gaps = np.diff(rows[:, 0])
    assert gaps.max() - gaps.min() <= 1
    assert steps - rows[-1, 0] <= gaps.max() + 1


def test_observations_that_are_normalized_twice_are_warned_of():
    def learn_with(**options):
        env = VecNormalize(make_vec_env("CartPole-v1", 1), **options)
        kwargs = {"obs_norm": "rsnorm", "net_arch": [8]}
        RNPPO("MlpPolicy", env, norm="ln", policy_kwargs=kwargs, **PPO_FEW).learn(64)

    with pytest.warns(
        UserWarning, match="twice, by VecNormalize and by obs_norm='rsnorm'; expected"
    ):
        learn_with()
    learn_with(norm_obs=False)  # where a warning would be an error
