"""The phase rule in training: acting and learning use the same function within a phase."""

import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor

from rn_rl.agents import RNDQN, RNPPO
from rn_rl.normalization import REGISTRY, phase_norms
from rn_rl.policies import NormDQNPolicy, policy_kwargs
from tests.factories import slow_unless

PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
STATEFUL = [name for name in PHASE_RULE if REGISTRY[name].stateful]

DQN_FEW = {
    "seed": 0,
    "learning_starts": 20,
    "train_freq": 5,
    "batch_size": 16,
    "buffer_size": 500,
    "target_update_interval": 100,
}


def bits(module, part=""):
    return {k: v.numpy().tobytes() for k, v in module.state_dict().items() if part in k}


def ppo(how, spec, **options):
    settings = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "seed": 0, **options}
    if how == "RNPPO":
        return RNPPO("MlpPolicy", "CartPole-v1", norm=spec, **settings)
    return PPO("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs(spec), **settings)


def dqn(how, spec, **options):
    settings = {**DQN_FEW, **options}
    if how == "RNDQN":
        return RNDQN("MlpPolicy", "CartPole-v1", norm=spec, **settings)
    if how == "NormDQNPolicy":
        return DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs={"norm": spec}, **settings)
    return DQN("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs(spec), **settings)


class Record:
    """Record max |ratio - 1| and max |value - rollout value| of every minibatch of PPO."""

    def __init__(self, model) -> None:
        self.ratio_errors, self.value_errors, self.gains = [], [], []
        self.policy, self.buffer = model.policy, model.rollout_buffer
        self.evaluate, self.get = model.policy.evaluate_actions, model.rollout_buffer.get
        model.policy.evaluate_actions, model.rollout_buffer.get = (
            self.evaluate_actions,
            self.batches,
        )

    def batches(self, batch_size):
        for batch in self.get(batch_size):
            self.batch = batch
            yield batch

    def evaluate_actions(self, observations, actions):
        assert self.policy.training
        values, log_prob, entropy = self.evaluate(observations, actions)
        old = self.batch.old_values
        ratio = (log_prob - self.batch.old_log_prob).exp()
        self.ratio_errors.append((ratio - 1).abs().max().item())
        self.value_errors.append(((values.flatten() - old).abs().max() / old.abs().max()).item())
        self.gains.append([n.gain.mean().item() for n in phase_norms(self.policy).values()])
        return values, log_prob, entropy


@pytest.mark.parametrize(
    ("how", "spec"),
    slow_unless(
        lambda how, spec: how == "policy_kwargs" or spec in ("none", "rn", "brn", "ln+rn", "nap"),
        (
            case
            for case in itertools.product(
                ("policy_kwargs", "RNPPO"), (*PHASE_RULE, "ln+rn", "rln(half_life=3)")
            )
            if case != ("policy_kwargs", "nap")  # whose projections need a Norm policy
        ),
    ),
    indirect=["spec"],
)
def test_ppo_ratio_is_1_before_any_gradient_step(spec, how):
    model = ppo(how, spec, learning_rate=0.0)
    record = Record(model)
    model.learn(64 * 5)
    assert len(record.ratio_errors) == 5 * 2 * 2
    assert max(record.ratio_errors) <= 1e-5
    assert max(record.value_errors) <= 1e-5
    if phase_norms(model.policy):  # two commits give the code its mass, the third moves the gain
        assert all(abs(gain - 1) > 0.05 for gain in record.gains[-1])


@pytest.mark.parametrize("spec", ["rn-paper", "rln-paper"])
def test_the_published_normalizers_violate_the_ratio(spec):
    model = ppo("policy_kwargs", spec, learning_rate=0.0)
    record = Record(model)
    model.learn(64 * 3)
    assert max(record.ratio_errors) > 0.01
    assert max(record.value_errors) > 0.1


@pytest.mark.parametrize("spec", STATEFUL, indirect=True)
def test_state_changes_once_per_rollout_and_not_within_epochs(spec):
    model = ppo("RNPPO", spec)
    record = Record(model)
    seen = []
    evaluate = model.policy.evaluate_actions

    def watch(*args):
        result = evaluate(*args)
        seen.append(str(bits(record.policy, "running_")))
        return result

    model.policy.evaluate_actions = watch
    model.learn(64 * 3)
    assert len(seen) == 12
    assert [len(set(seen[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
    assert len(set(seen)) == 3


WAYS = slow_unless(
    lambda how, spec: how == "NormDQNPolicy" or spec in ("rn", "brn"),
    itertools.product(("policy_kwargs", "NormDQNPolicy", "RNDQN"), STATEFUL),
)


@pytest.mark.parametrize(("how", "spec"), WAYS, indirect=["spec"])
def test_target_has_the_state_of_the_online_network_after_an_update(spec, how):
    model = dqn(how, spec).learn(200)  # the last step updates the target
    online, target = model.q_net, model.q_net_target
    assert bits(online, "running_") == bits(target, "running_")
    assert bits(online, "running_") != bits(dqn(how, spec).q_net, "running_")
    # commits the online network; the target changes at its next update
    model.predict(np.zeros(4, np.float32))
    assert bits(online, "running_") != bits(target, "running_")


@pytest.mark.parametrize(("how", "spec"), WAYS, indirect=["spec"])
def test_the_target_has_observed_nothing(spec, how):
    model = dqn(how, spec).learn(200)
    assert all(not any(value) for value in bits(model.q_net_target, "pending_").values())
    assert any(any(value) for value in bits(model.q_net, "pending_").values())


@pytest.mark.parametrize("how", ["policy_kwargs", "NormDQNPolicy", "RNDQN"])
def test_predictions_after_the_first_leave_the_state_bit_equal(how):
    model = dqn(how, "rn").learn(200)
    before = bits(model.policy)
    observations = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    model.predict(observations[0], deterministic=True)
    committed = bits(model.policy)
    assert committed != before
    for i in range(1000):
        model.predict(observations[i] if i % 2 else observations[i : i + 7], deterministic=True)
    assert bits(model.policy) == committed


class Watching(EvalCallback):
    """An EvalCallback that compares the state before and after each evaluation."""

    def _on_step(self) -> bool:
        before = bits(self.model.policy)
        go_on = super()._on_step()
        assert bits(self.model.policy) == before
        return go_on


@pytest.mark.parametrize("how", ["policy_kwargs", "NormDQNPolicy", "RNDQN", "PPO", "RNPPO"])
def test_evaluations_in_the_middle_of_training_change_nothing(how):
    def trained(callback):
        make = ppo if how.endswith("PPO") else dqn
        return make(how, "rln").learn(320, callback=callback)

    env = Monitor(gym.make("CartPole-v1"))
    watching = Watching(env, n_eval_episodes=2, eval_freq=30, verbose=0)
    evaluated, plain = trained(watching), trained(None)
    assert watching.n_calls == 320 and watching.last_mean_reward > 0
    assert bits(evaluated.policy) == bits(plain.policy)


@pytest.mark.parametrize("how", ["NormDQNPolicy", "RNDQN"])
def test_training_mode_does_not_make_the_target_observe_or_commit(how):
    model = dqn(how, "rn").learn(200)
    before = bits(model.q_net_target)
    model.policy.train()
    model.q_net_target(torch.randn(16, 4))
    assert model.q_net_target.training
    model.policy.eval()
    assert bits(model.q_net_target) == before
