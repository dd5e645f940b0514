"""Saliency priors of transitions: their numbers, updates of single agents, and who refuses them."""

import math

import numpy as np
import pytest
import torch
from sb3_contrib import TRPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env
from torch.nn import functional as F  # noqa: N812

from rn_rl.agents import RNDQN, RNPPO, priors
from rn_rl.agents.priors import NetworkPriors, labels, replay_priors
from rn_rl.cli import main
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.single import train
from rn_rl.normalization import (
    SaliencyNorm,
    class_shares,
    make_normalizers,
    named_priors,
    saliency_prior,
)
from rn_rl.policies import policy_kwargs
from tests.factories import replay_samples, to_double, transitions
from tests.trust.killing import check_equal, contents
from tests.trust.test_exact import Goal, StopAt, options

SPECS = [
    f"sn(prior={name}{shuffled})"
    for name in ("td", "reward", "action")
    for shuffled in ("", ",shuffled=true")
]


def rndqn(norm, seed=0, **kwargs):
    given = {
        "learning_rate": 1e-2,
        "batch_size": 16,
        "buffer_size": 300,
        "learning_starts": 20,
        "max_grad_norm": None,
        "age_half_life": None,
        "policy_kwargs": {"net_arch": [8, 8]},
        **kwargs,
    }
    return RNDQN("MlpPolicy", "CartPole-v1", norm, seed=seed, device="cpu", **given)


def rnppo(norm, env="CartPole-v1", seed=0, **kwargs):
    given = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, **kwargs}
    given = {"policy_kwargs": {"net_arch": [8, 8]}, **given}
    return RNPPO("MlpPolicy", env, norm, seed=seed, device="cpu", **given)


def bits(module):
    return {name: value.numpy().tobytes() for name, value in module.state_dict().items()}


# numbers


def shares_of(norm, actions, rewards, errors, orders=()):
    network = NetworkPriors(make_normalizers(norm, 4)[0])
    given = (torch.tensor(x) for x in (actions, rewards, errors))
    [s] = network.shares(*given, [torch.tensor(order) for order in orders])
    return s.tolist()


def test_shares_by_hand():
    actions, rewards = [0, 1, 0, 0], [1.0, 0.0, 1.0, 0.0]
    errors = [0.5, -2.0, 0.0, 1.0]
    assert shares_of("sn(prior=action)", actions, rewards, errors) == [0.75, 0.25, 0.75, 0.75]
    assert shares_of("sn(prior=td)", actions, rewards, errors) == [0.75, 0.25, 1.0, 0.5]
    # the mean is 1/2, from which all are as far
    assert shares_of("sn(prior=reward)", actions, rewards, errors) == [1.0] * 4
    rare = [0.0, 0.0, 4.0, 0.0]  # the mean is 1
    assert shares_of("sn(prior=reward)", actions, rare, errors) == [1.0, 1.0, 0.25, 1.0]
    constant = [0.1] * 4
    assert shares_of("sn(prior=reward)", actions, constant, errors) == [1.0] * 4
    order = [1, 0, 3, 2]
    found = shares_of("sn(prior=td,shuffled=true)", actions, rewards, errors, [order])
    assert found == [0.25, 0.75, 0.5, 1.0]


def test_equal_rewards_are_equal_whatever_their_rounding():
    """The mean of 0.1 and 0.3 is as far from both, but for rounding."""
    rewards = torch.tensor([0.1, 0.3] * 16)
    s = NetworkPriors(make_normalizers("sn(prior=reward)", 4)[0]).shares(rewards, rewards, None)[0]
    assert s.tolist() == [1.0] * 32


def test_actions_of_several_components_are_equal_as_a_whole():
    numbers = labels(np.array([[0, 1], [1, 0], [0, 1], [1, 1]]))
    assert len(set(numbers.tolist())) == 3 and numbers[0] == numbers[2]


# DQN


def float64_forward(norm_gain, weights, x, s):
    """Q-values of a 4-8-8-2 network with ``sn`` at a gain of 1; s is 1 where there is no prior."""
    length = (norm_gain - s.log())[:, None]
    one = F.relu(length * (x @ weights["q_net.0.weight"].T + weights["q_net.0.bias"]))
    two = F.relu(length * (one @ weights["q_net.3.weight"].T + weights["q_net.3.bias"]))
    return two @ weights["q_net.6.weight"].T + weights["q_net.6.bias"]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_an_update_of_dqn_by_hand(spec, loss, monkeypatch):
    model = rndqn(spec, loss=loss, policy_kwargs={
        "net_arch": [8, 8], "optimizer_class": torch.optim.SGD,
    })  # fmt: skip
    to_double(model.q_net)
    to_double(model.q_net_target)
    model._setup_learn(1000)
    drawn = transitions(np.random.default_rng(1), (1, 16), 4)
    one = replay_samples(drawn, 0)
    model.replay_buffer.sample = lambda *args, **kwargs: one
    order = torch.from_numpy(np.random.default_rng(2).permutation(16))
    monkeypatch.setattr(priors, "permutation", lambda size: order)
    names = dict(model.q_net.named_parameters())
    weights = {name: p.detach().clone().requires_grad_() for name, p in names.items()}
    target = {name: p.detach() for name, p in model.q_net_target.named_parameters()}
    model.train(1, 16)

    x, following = one.observations.double(), one.next_observations.double()
    certain = torch.ones(16, dtype=torch.float64)  # without a prior
    best = float64_forward(1, target, following, certain).amax(1, keepdim=True)
    wanted = one.rewards + (1 - one.dones) * model.gamma * best
    with torch.no_grad():
        errors = (wanted - float64_forward(1, weights, x, certain).gather(1, one.actions))[:, 0]
    labels_and_tails = {
        "action": one.actions[:, 0],
        "reward": (one.rewards - one.rewards.mean())[:, 0].abs(),
        "td": errors.abs(),
    }
    chosen = labels_and_tails[spec.partition("=")[2].strip(")").split(",")[0]]
    same = chosen[:, None] == chosen if "action" in spec else chosen >= chosen[:, None]
    s = same.double().mean(1)
    assert len(set(s.tolist())) > 1
    s = s[order] if "shuffled" in spec else s
    measure = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}[loss]
    measure(float64_forward(1, weights, x, s).gather(1, one.actions), wanted).backward()
    for name, before in weights.items():
        expected = before.detach() - 1e-2 * before.grad
        torch.testing.assert_close(names[name].detach(), expected, rtol=0, atol=1e-10)


def test_a_prior_is_given_for_the_update_alone():
    model = rndqn("ln+sn(prior=td)").learn(40)
    memory, norms = model.replay_buffer, named_priors(model.q_net)
    [given] = norms.values()
    seen = []
    with replay_priors(model):
        assert model.replay_buffer is not memory and model.replay_buffer.size() == 40
        model.replay_buffer.sample(16)
        seen += [norm.given_prior for norm in given]
    assert model.replay_buffer is memory
    assert len(seen) == 2 and all(s.shape == (16,) for s in seen)
    assert all(norm.given_prior is None for norm in given)
    assert all(
        n.given_prior is None for ns in named_priors(model.q_net_target).values() for n in ns
    )


@pytest.mark.parametrize("build", [rndqn, rnppo])
def test_acting_is_that_of_rn(build):
    model, plain = build("sn(prior=action)").learn(64), build("rn")
    plain.policy.load_state_dict(model.policy.state_dict())
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    model.policy.set_training_mode(False)  # commits
    plain.policy.set_training_mode(False)
    plain.policy.load_state_dict(model.policy.state_dict())
    seen = torch.from_numpy(x)
    with torch.no_grad():
        outputs = [
            m.q_net(seen) if build is rndqn else m.policy.predict_values(seen)
            for m in (model, plain)
        ]
    assert torch.equal(*outputs)
    actions, _ = model.predict(x, deterministic=True)
    assert np.array_equal(actions, plain.predict(x, deterministic=True)[0])


def test_training_on_constant_rewards_is_that_of_rn_bit_for_bit():
    trained = [rndqn(norm).learn(120) for norm in ("sn(prior=reward)", "rn", "sn(prior=td)")]
    found = [bits(model.q_net) for model in trained]
    assert found[0] == found[1] != found[2]


def test_a_shuffled_prior_has_the_same_numbers():
    model = rndqn("sn(prior=td)+sn(prior=td,shuffled=true)").learn(40)
    sorted_as, shuffled = named_priors(model.q_net).values()
    with replay_priors(model):
        model.replay_buffer.sample(16)
        one, other = sorted_as[0].given_prior, shuffled[0].given_prior
        assert all(norm.given_prior is other for norm in shuffled)
    assert one.sort().values.equal(other.sort().values)
    assert not one.equal(other)


# PPO


class Ratios(RNPPO):
    """Keeps the ratios of the first minibatch of each training, and the values' differences."""

    def train(self):
        self.found = []
        evaluate = self.policy.evaluate_actions
        sample = self.rollout_buffer._get_samples

        def keep_rows(*args, **kwargs):
            self.rows = sample(*args, **kwargs)
            return self.rows

        def keep(*args, **kwargs):
            values, log_probs, entropy = evaluate(*args, **kwargs)
            if self.policy.training:
                apart = values.detach().flatten() - self.rows.old_values
                ratio = (log_probs.detach() - self.rows.old_log_prob).exp()
                self.found.append((ratio, apart))
            return values, log_probs, entropy

        self.policy.evaluate_actions, self.rollout_buffer._get_samples = keep, keep_rows
        super().train()
        del self.policy.evaluate_actions, self.rollout_buffer._get_samples
        self.first = self.found[0]


@pytest.mark.parametrize("spec", [f"ln+{spec}" for spec in SPECS])
def test_the_ratio_of_ppo_is_1_at_the_first_minibatch(spec):
    few = {"n_steps": 32, "batch_size": 16, "n_epochs": 1, "device": "cpu"}
    model = Ratios("MlpPolicy", "CartPole-v1", spec, seed=0, **few)
    for timesteps in (32, 64):
        model.learn(timesteps, reset_num_timesteps=timesteps == 32)
        ratio, apart = model.first
        torch.testing.assert_close(ratio, torch.ones(16), rtol=0, atol=1e-6)
        torch.testing.assert_close(apart, torch.zeros(16), rtol=0, atol=1e-5)
        assert (model.found[1][0] - 1).abs().max() > 1e-4  # the policy has moved since


def test_priors_of_ppo_are_those_of_the_rows_of_a_minibatch():
    """In a rollout of two environments, whose rows SB3 numbers environment by environment."""
    model = rnppo("sn(prior=action)", make_vec_env("CartPole-v1", 2, seed=0), n_epochs=1)
    model.learn(64)
    buffer = model.rollout_buffer
    seen = []
    [[first, *_]] = named_priors(model.policy).values()
    apply = first.apply_state

    def watch(x):
        if first.training:
            rows = buffer.last_rows
            seen.append((first.given_prior(), buffer.actions[rows, 0]))
        return apply(x)

    first.apply_state = watch
    actions = None
    train_now = model.train

    def keep_actions():
        nonlocal actions
        actions = buffer.actions.copy().ravel()
        train_now()

    model.train = keep_actions
    model.learn(64, reset_num_timesteps=False)
    assert len(seen) == 4
    for s, chosen in seen:
        expected = [(actions == a).mean() for a in chosen]
        np.testing.assert_allclose(s.numpy(), expected, rtol=1e-6)


def test_dict_observations_have_priors():
    spec = {"policy_kwargs": {"net_arch": [8]}, "n_steps": 16, "n_epochs": 1, "seed": 0}
    model = RNPPO("MultiInputPolicy", Goal(), "sn(prior=td)", device="cpu", batch_size=8, **spec)
    model.learn(32)
    assert type(model.rollout_buffer).__name__ == "TellingDictRolloutBuffer"
    agent = RNDQN("MultiInputPolicy", Goal(), "sn(prior=td)", learning_starts=8, batch_size=8)
    agent.learn(32)
    assert agent._n_updates > 0


def test_saved_agents_are_loaded(tmp_path):
    for model in (rndqn("sn(prior=td)"), rnppo("sn(prior=td)")):
        model.learn(64)
        model.save(tmp_path / "agent")
        loaded = type(model).load(tmp_path / "agent", env=model.get_env())
        assert bits(loaded.policy) == bits(model.policy)
        loaded.learn(64, reset_num_timesteps=False)


# who refuses


@pytest.mark.parametrize("algorithm", [DQN, PPO, TRPO])
def test_a_stock_agent_does_not_train_without_its_prior(algorithm):
    kwargs = policy_kwargs("sn(prior=td)", net_arch=[8])
    few = {"learning_starts": 8} if algorithm is DQN else {"n_steps": 16, "batch_size": 16}
    model = algorithm("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu", **few)
    with pytest.raises(UserError, match=r"sn\(prior=td\): no prior is given .* expected RNDQN or"):
        model.learn(64)


def test_a_prior_that_is_named_may_also_be_given():
    norm = SaliencyNorm(4, prior="td").train()
    with pytest.raises(UserError, match="no prior is given"):
        norm(torch.ones(4, 4))
    with saliency_prior(norm, class_shares(torch.tensor([0, 0, 0, 1]))):
        y = norm(torch.ones(4, 4))
    assert y[3, 0].item() == pytest.approx(1 + math.log(4))
    assert torch.equal(norm.eval()(torch.ones(4, 4)), torch.ones(4, 4) * norm.gain.float())
    norm.freeze().train()(torch.ones(4, 4))  # as in a target network


def test_continuous_actions_have_no_share():
    with pytest.raises(UserError, match=r"sn\(prior=action\): the actions are Box.* prior=td or"):
        rnppo("ln+sn(prior=action)", "Pendulum-v1")
    rnppo("ln+sn(prior=reward)", "Pendulum-v1").learn(32)


def test_a_rollout_buffer_that_does_not_tell_its_rows_is_refused():
    with pytest.raises(
        UserError, match=r"rollout_buffer_class RolloutBuffer: sn\(prior=td\) needs"
    ):
        rnppo("sn(prior=td)", rollout_buffer_class=RolloutBuffer)
    assert type(rnppo("rn").rollout_buffer) is RolloutBuffer


REFUSED = {
    "--algo qrdqn --norm sn(prior=td)": r"sn(prior=td) with qrdqn: its transitions have no prior",
    "--algo a2c --norm ln+sn(prior=reward)": "expected dqn, ppo, rndqn, rnppo (or a class of",
    "--algo pqn --norm sn(prior=td)": "sn(prior=td) with pqn",
    "--algo dqn --norm sn(prior=tdd)": "unknown prior of sn 'tdd'. Did you mean 'td'? (known: td, ",
    "--algo dqn --norm sn(shuffled=true)": "shuffled=True: expected a named prior beside it",
    "--algo dqn --norm sn(prior=td,shuffled=2)": "shuffled=2: expected true or false",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_on_the_command_line(words, tmp_path, capsys):
    line = ["train", "--env", "CartPole-v1", *words.split(), "--out", str(tmp_path)]
    assert main([*line, "--timesteps", "64", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert REFUSED[words] in told and len(told.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


# runs


@pytest.mark.parametrize("algo", ["dqn", "rndqn", "ppo", "rnppo"])
def test_a_training_from_the_command_line(algo, tmp_path):
    line = f"train --algo {algo} --env CartPole-v1 --norm sn(prior=td) --timesteps 300 --quiet"
    few = ["n_steps=32", "batch_size=16"] if "ppo" in algo else ["learning_starts=100"]
    few += [] if "ppo" in algo else ["train_freq=8", "gradient_steps=2"]
    threads = ["--n-envs", "1", "--eval-freq", "150", "--eval-episodes", "1"]
    assert main([*line.split(), *threads, "--out", str(tmp_path), "--set", *few]) == 0
    [folder] = tmp_path.glob("sn(prior=td)/*/CartPole-v1_1")
    run = Run(folder)
    assert run.read_spec().norm == "sn(prior=td)" and run.read_spec().algo == algo
    assert main(["evaluate", str(folder), "--episodes", "1", "--json"]) == 0


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_a_shuffled_prior_resumes_exactly(algo, tmp_path):
    given = {"norm": "ln+sn(prior=td,shuffled=true)", "eval_freq": 50, "eval_episodes": 1}
    few = [] if algo == "ppo" else ["policy_kwargs.net_arch=[8, 8]"]
    whole = train(options("CartPole-v1", algo, tmp_path / "whole", *few, **given))
    with pytest.raises(TrainingStopped):
        train(options("CartPole-v1", algo, tmp_path / "parts", *few, **given), watch=StopAt(70))
    [folder] = (tmp_path / "parts").glob("*/*/*")
    train(TrainConfig(resume=folder, quiet=True))
    check_equal(contents(folder), contents(whole.folder))
