"""SimBa, SimbaV2 and BroNet in every Norm policy: formulas, projections, copies, and refusals."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rn_rl import policies
from rn_rl.agents import RNDQN, ValueTargets
from rn_rl.errors import UserError
from rn_rl.normalization import PopArt, constraints, phase_norms
from rn_rl.normalization.established import LayerNorm
from rn_rl.policies.nets import NETS, BroNet, Simba, SimbaV2, hidden_layers
from rn_rl.policies.optimizers import holders
from tests.factories import slow_unless

MODERN = [name for name in NETS if name != "mlp"]
REPLAY = {"learning_starts": 16, "train_freq": 8, "batch_size": 8, "buffer_size": 200}
CONTINUOUS = {**REPLAY, "gradient_steps": 2}
ROLLOUT = {"n_steps": 32, "batch_size": 16}
CASES: dict[str, tuple[Any, Any, Any, dict[str, Any], dict[str, Any]]] = {
    "dqn": (
        DQN,
        policies.NormDQNPolicy,
        "CartPole-v1",
        {**REPLAY, "target_update_interval": 1},
        {},
    ),
    "qrdqn": (QRDQN, policies.NormQRDQNPolicy, "CartPole-v1", REPLAY, {"n_quantiles": 5}),
    "ppo": (PPO, policies.NormActorCriticPolicy, "CartPole-v1", {**ROLLOUT, "n_epochs": 2}, {}),
    "ppo_box": (PPO, policies.NormActorCriticPolicy, "Pendulum-v1", {**ROLLOUT, "n_epochs": 1}, {}),
    "a2c": (A2C, policies.NormActorCriticPolicy, "CartPole-v1", {"n_steps": 16}, {}),
    "trpo": (TRPO, policies.NormActorCriticPolicy, "CartPole-v1", ROLLOUT, {}),
    "ppo_mask": (
        MaskablePPO,
        policies.NormMaskableActorCriticPolicy,
        lambda: InvalidActionEnvDiscrete(dim=5, n_invalid_actions=2),
        {**ROLLOUT, "n_epochs": 1},
        {},
    ),
    "ppo_lstm": (
        RecurrentPPO,
        policies.NormRecurrentActorCriticPolicy,
        "CartPole-v1",
        {**ROLLOUT, "n_epochs": 1},
        {"lstm_hidden_size": 4},
    ),
    "sac": (SAC, policies.NormSACPolicy, "Pendulum-v1", CONTINUOUS, {}),
    "td3": (TD3, policies.NormTD3Policy, "Pendulum-v1", CONTINUOUS, {}),
    "ddpg": (DDPG, policies.NormTD3Policy, "Pendulum-v1", CONTINUOUS, {}),
    "tqc": (TQC, policies.NormTQCPolicy, "Pendulum-v1", CONTINUOUS, {}),
    "crossq": (CrossQ, policies.NormCrossQPolicy, "Pendulum-v1", CONTINUOUS, {}),
    "ars": (ARS, policies.NormARSPolicy, "CartPole-v1", {"n_delta": 1}, {}),
}
TINY = {"actor": [8], "critic": [8, 8]}


def build(algo: str, net: str, **more: Any) -> Any:
    cls, policy, env, kwargs, own = CASES[algo]
    given = {"net": net, "net_arch": TINY, **own, **more}
    made = env() if callable(env) else env
    return cls(policy, made, policy_kwargs=given, seed=1, device="cpu", **kwargs)


def observations(model: Any, count: int = 8) -> np.ndarray:
    model.observation_space.seed(0)
    return np.clip(np.array([model.observation_space.sample() for _ in range(count)]), -2, 2)


def outputs(policy: Any, x: np.ndarray) -> np.ndarray:
    return np.asarray(policy.predict(x, deterministic=True)[0])


def assert_unit_rows(policy: nn.Module) -> None:
    parameters = dict(policy.named_parameters())
    names = [c.names[0] for c in constraints(policy) if c.rows and "_target" not in c.names[0]]
    assert len(names) >= 4
    for name in names:
        norms = parameters[name].norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6, msg=name)


def is_quick(net: str, algo: str) -> bool:
    return algo in ("dqn", "sac", "ppo") or (net == "simbav2" and algo in ("ppo_box", "td3"))


PAIRS = [(net, algo) for net in MODERN for algo in CASES if (net, algo) != ("simbav2", "ars")]


@pytest.mark.parametrize(("net", "algo"), slow_unless(is_quick, PAIRS))
def test_an_agent_trains_and_comes_back(net: str, algo: str, tmp_path: Any) -> None:
    """Targets agree, acting is pure, and a loaded agent goes on with projected weights."""
    model = build(algo, net)
    masking = {"use_masking": True} if algo == "ppo_mask" else {}
    model.learn(96, **masking)
    policy, x = model.policy, observations(model)
    assert all(torch.isfinite(p).all() for p in policy.state_dict().values())
    for name in ("q_net", "quantile_net", "actor", "critic"):
        if not hasattr(policy, f"{name}_target"):
            continue
        online = phase_norms(getattr(policy, name))
        target = phase_norms(getattr(policy, f"{name}_target"))
        assert online.keys() == target.keys()
        assert all(norm.frozen for norm in target.values())
        if algo in ("dqn", "sac", "td3", "ddpg", "tqc"):
            for key in online if algo != "dqn" else ():
                assert torch.equal(online[key].running_state, target[key].running_state), key
    expected = outputs(policy, x)
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    alone = np.concatenate([outputs(policy, row[None]) for row in x])
    np.testing.assert_allclose(expected, alone, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in policy.state_dict().items())
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", env=model.get_env(), device="cpu")
    np.testing.assert_array_equal(outputs(loaded.policy, x), expected)
    loaded.learn(64, **masking)
    if net == "simbav2":
        assert_unit_rows(policy)
        assert_unit_rows(loaded.policy)
        outputs(loaded.policy, x)
        duplicate = copy.deepcopy(loaded.policy)
        assert all(h.optimizer._optimizer_step_post_hooks for h in holders(duplicate))


def test_simba_is_its_formula():
    torch.manual_seed(0)
    body = Simba(5, [4, 4], "ln", nn.ReLU).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    h = F.linear(x, body.embed.weight)
    for block in body.blocks:
        _, wide, _, narrow = block.branch
        assert wide.weight.shape == (16, 4)
        h = h + F.linear(F.relu(F.linear(F.layer_norm(h, (4,)), wide.weight)), narrow.weight)
    torch.testing.assert_close(body(x), F.layer_norm(h, (4,)), rtol=1e-12, atol=1e-12)
    gram = body.embed.weight @ body.embed.weight.T
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)


def test_bronet_is_its_formula():
    torch.manual_seed(0)
    body = BroNet(5, [4], "ln", nn.ReLU).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    first, up, down = body.embed[0], body.blocks[0].branch[0], body.blocks[0].branch[3]
    h = F.relu(F.layer_norm(F.linear(x, first.weight), (4,)))
    inner = F.relu(F.layer_norm(F.linear(h, up.weight), (4,)))
    expected = h + F.layer_norm(F.linear(inner, down.weight), (4,))
    torch.testing.assert_close(body(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        up.weight @ up.weight.T, 2 * torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_simbav2_is_its_formula():
    torch.manual_seed(0)
    body = SimbaV2(5, [4, 4], "none", nn.ReLU).double()
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if "scaler" in name:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    x = torch.randn(7, 5, dtype=torch.float64)

    def unit(v):
        return v / v.norm(dim=1, keepdim=True)

    shifted = torch.cat([x, torch.full((7, 1), 3.0, dtype=torch.float64)], 1)
    h = unit(body.scale.scaler * F.linear(unit(shifted), body.embed.weight))
    for block in body.blocks:
        inner = F.relu(block.scale.scaler * F.linear(h, block.up.weight)) + 1e-8
        alpha = block.alpha.scaler * (1 / 3) * 4**0.5  # 1 / (blocks + 1), scale 1 / sqrt(4)
        h = unit(h + alpha * (unit(F.linear(inner, block.down.weight)) - h))
    torch.testing.assert_close(body(x), h, rtol=1e-12, atol=1e-12)
    fresh = SimbaV2(5, [4, 4], "none", nn.ReLU)
    assert fresh.scale.scaler[0].item() == pytest.approx((2 / 4) ** 0.5)
    assert fresh.blocks[0].scale.scaler[0].item() == pytest.approx((2 / 4) ** 0.5 / 2)
    assert fresh.blocks[0].alpha.scaler[0].item() == pytest.approx(0.5)


@pytest.mark.parametrize("net", MODERN)
def test_any_normalizer_stands_in_for_theirs(net: str):
    def norms(norm):
        policy = build("dqn", net, norm=norm, net_arch=[8, 8]).policy
        body = policy.q_net.q_net[0]
        return [type(m).__name__ for m in body.modules() if "Norm" in type(m).__name__]

    count = NETS[net].sites(2)
    assert norms("ln+rn(half_life=50)") == ["LayerNorm", "RegularityNorm"] * count
    assert norms(None) == (["LayerNorm"] * count if net != "simbav2" else [])
    assert norms("none") == []


def test_networks_have_the_widths_of_their_papers_and_their_optimizer():
    env = gym.make("Pendulum-v1")
    model = SAC(policies.NormSACPolicy, env, policy_kwargs={"net": "simba"}, buffer_size=10)
    assert model.actor.net_arch == [128]
    widths = [block.branch[1].out_features for block in model.critic.qf0[0].blocks]
    assert widths == [2048, 2048] and model.actor.latent_pi[0].embed.out_features == 128
    for holder in (model.actor, model.critic):
        decayed, rest = holder.optimizer.param_groups
        assert isinstance(holder.optimizer, torch.optim.AdamW)
        assert decayed["weight_decay"] == 1e-2 and rest["weight_decay"] == 0
        assert {p.dim() for p in decayed["params"]} == {2} and {
            p.dim() for p in rest["params"]
        } == {1}
        held = {id(p) for group in (decayed, rest) for p in group["params"]}
        assert held == {id(p) for p in holder.parameters()}
    small = build("sac", "simba", net_arch="small", weight_decay=0)
    assert small.actor.net_arch == [64] and small.critic.qf0[0].embed.out_features == 64
    assert type(small.actor.optimizer) is torch.optim.Adam


@pytest.mark.parametrize(("algo", "network"), [("dqn", "q_net"), ("qrdqn", "quantile_net")])
def test_decay_is_that_of_adamw_on_matrices_alone(algo: str, network: str):
    torch.manual_seed(0)
    policy = build(algo, "mlp", norm="ln", weight_decay=0.5, net_arch=[8]).policy
    learned = getattr(policy, network)
    before = {name: p.detach().clone() for name, p in learned.named_parameters()}
    for parameter in learned.parameters():
        parameter.grad = torch.zeros_like(parameter)
    policy.optimizer.step()
    rate = policy.optimizer.param_groups[0]["lr"]
    for name, parameter in learned.named_parameters():
        shrunk = 1 - rate * 0.5 if parameter.dim() == 2 else 1
        torch.testing.assert_close(parameter, before[name] * shrunk, msg=name)


@pytest.mark.parametrize(
    ("net", "kwargs"),
    [
        ("mlp", {"weight_decay": 0, "optimizer_class": torch.optim.AdamW}),
        ("simba", {"weight_decay": 0, "optimizer_class": torch.optim.AdamW}),
        ("simba", {"weight_decay": 0}),
        ("bronet", {"weight_decay": 0.0, "optimizer_kwargs": {"weight_decay": 0}}),
    ],
)
@pytest.mark.parametrize("algo", ["dqn", "ppo", "sac"])
def test_a_decay_of_0_is_none(algo: str, net: str, kwargs: dict[str, Any]):
    policy = build(algo, net, norm="ln", **copy.deepcopy(kwargs)).policy
    for holder in holders(policy):
        assert [group["weight_decay"] for group in holder.optimizer.param_groups] == [0]
        before = [p.detach().clone() for p in holder.parameters()]
        for parameter in holder.parameters():
            parameter.grad = torch.zeros_like(parameter)
        holder.optimizer.step()
        assert all(map(torch.equal, holder.parameters(), before))


def test_decay_spares_normalizers_inside_an_lstm():
    """``uan`` has matrices of its own: the means of its mixture."""
    kwargs = {"norm": "ln", "lstm_norm": "uan", "weight_decay": 0.1}
    policy = build("ppo_lstm", "mlp", **kwargs).policy
    decayed = {id(p) for p in policy.optimizer.param_groups[0]["params"]}
    names = {name for name, p in policy.lstm_actor.named_parameters() if id(p) in decayed}
    assert names == {"weight_ih_l0", "weight_hh_l0"}
    assert any(p.dim() >= 2 for p in policy.lstm_actor.norm.parameters())


@pytest.mark.parametrize("norm", ["wn", "spectral", "ln+nap"])
def test_decay_spares_what_a_reparametrization_adds(norm: str):
    """Decayed are the weights alone; the magnitudes of ``wn``, one for each row, are no matrix."""
    given = {"norm": norm, "features": "minigrid", "trunk_norm": norm, "net_arch": [8]}
    policy = policies.NormDQNPolicy(
        spaces.Box(0, 255, (3, 7, 7), np.uint8),
        spaces.Discrete(2),
        lambda _: 1e-3,
        weight_decay=0.5,
        **given,
    )
    names = {id(p): name for name, p in policy.named_parameters()}
    decayed = [names[id(p)] for p in policy.optimizer.param_groups[0]["params"]]
    weights = [
        (n, m) for n, m in policy.q_net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    ]
    assert len(decayed) == len(weights) == 5  # three convolutions, a hidden and an output layer
    last = {"wn": "original1"}.get(norm, "original")
    assert sum(name.endswith(f"parametrizations.weight.{last}") for name in decayed) == 4
    before = [m.weight.detach().norm() for _, m in weights[:-1]]
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    policy.optimizer.step()
    after = [m.weight.detach().norm() for _, m in weights[:-1]]
    # the norm of a weight is then that of its magnitudes, 1, or the fixed one
    if norm != "spectral":  # whose state changes at commits
        torch.testing.assert_close(after, before, rtol=1e-5, atol=0)


@pytest.mark.parametrize("algo", ["dqn", "ppo", "sac"])
def test_actor_and_critic_have_their_own_sizes(algo: str):
    arch = {"actor": [4, 6], "critic": [10]}
    model = build(algo, "mlp", net_arch=arch)
    if algo == "dqn":
        assert model.q_net.net_arch == [10]
    elif algo == "ppo":
        heads = model.policy.mlp_extractor
        assert heads.policy_net[2].out_features == 6 and heads.value_net[0].out_features == 10
    else:
        assert model.actor.net_arch == [4, 6] and model.critic.qf0[0].out_features == 10
    own = {"ppo": ("pi", "vf"), "sac": ("pi", "qf")}.get(algo)
    if own:
        other = build(algo, "mlp", net_arch=dict(zip(own, arch.values(), strict=True)))
        for a, b in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("net", MODERN)
def test_the_ratio_of_ppo_begins_at_1(net: str):
    ratios = []

    class Watched(PPO):
        def train(self):
            batch = next(self.rollout_buffer.get(self.batch_size))
            self.policy.set_training_mode(True)
            with torch.no_grad():
                actions = batch.actions.long().flatten()
                _, log_prob, _ = self.policy.evaluate_actions(batch.observations, actions)
            ratios.append((log_prob - batch.old_log_prob).exp())
            super().train()

    kwargs = {"net": net, "net_arch": TINY, "norm": "ln+rn" if net != "simbav2" else "rn"}
    model = Watched(
        policies.NormActorCriticPolicy, "CartPole-v1", policy_kwargs=kwargs, seed=0, **ROLLOUT
    )
    model.learn(128)
    assert len(ratios) == 4 and (torch.cat(ratios) - 1).abs().max() < 1e-5
    moved = [n.running_state for n in phase_norms(model.policy).values()]
    assert len(moved) >= 3


DICT = spaces.Dict(
    {
        "vector": spaces.Box(-100, 100, (3,), np.float32),
        "image": spaces.Box(0, 255, (3, 36, 36), np.uint8),
        "room": spaces.Discrete(4),
    }
)


def test_observations_are_normalized_but_images_and_discrete_parts(noise: Any):
    kwargs = {"obs_norm": "rsnorm", "norm": "none", "net_arch": [8], "trunk_norm": "gn"}
    model = DQN(
        policies.NormDQNPolicy,
        noise(DICT, spaces.Discrete(2)),
        seed=0,
        policy_kwargs=kwargs,
        **REPLAY,
    )
    model.learn(64)
    extractor = model.q_net.features_extractor
    [norm] = phase_norms(extractor.norms).values()
    assert extractor.keys == ["vector"] and norm.num_features == 3
    assert norm.running_state[2].min() > 0  # observed
    convolutions = extractor.extractor.trunk.extractors["image"].cnn
    assert [type(m).__name__ for m in convolutions[:3]] == ["Conv2d", "GroupNorm", "ReLU"]
    for space in (spaces.Discrete(5), spaces.Box(0, 255, (3, 36, 36), np.uint8)):
        policy = policies.NormDQNPolicy(
            space, spaces.Discrete(2), lambda _: 1e-3, obs_norm="rsnorm"
        )
        assert not phase_norms(policy)


class WithBatchNorm(FlattenExtractor):
    """A user's extractor, with a part that their code asks for by name."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space)
        self.batch_norm = nn.BatchNorm1d(self.features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.batch_norm(super().forward(observations))


def test_the_extractor_of_a_user_is_found_behind_the_normalizer_of_observations():
    model = build("dqn", "simba", net_arch="small", features_extractor_class=WithBatchNorm)
    extractor = copy.deepcopy(pickle.loads(pickle.dumps(model.q_net.features_extractor)))
    assert extractor.batch_norm is extractor.extractor.batch_norm
    assert isinstance(extractor.batch_norm, nn.BatchNorm1d)
    with pytest.raises(AttributeError, match="batch_norms"):
        _ = extractor.batch_norms


def test_replayed_observations_are_normalized_by_the_present_state(tmp_path: Any):
    model = build("dqn", "mlp", norm="none", obs_norm="rsnorm", net_arch=[8])
    model.learn(200)
    [norm] = phase_norms(model.q_net).values()
    stored = torch.as_tensor(model.replay_buffer.observations[:50, 0])
    mean, var, _ = norm.running_state
    seen = []
    hook = model.q_net.q_net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.q_net(stored)
    hook.remove()
    expected = (stored.double() - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "agent")
    again = DQN.load(tmp_path / "agent")
    [loaded] = phase_norms(again.q_net).values()
    assert torch.equal(loaded.running_state, norm.running_state)


@pytest.mark.parametrize("algo", ["dqn", "qrdqn", "ppo", "a2c", "sac"])
def test_popart_follows_the_targets_and_moves_no_output(algo: str):
    model = build(algo, "mlp", norm="none", value_norm="popart", net_arch=[8, 8])
    layers = [m for m in model.policy.modules() if isinstance(m, PopArt)]
    online = [layer for layer in layers if not layer.frozen]
    assert len(online) == (2 if algo == "sac" else 1)
    model.learn(160, callback=ValueTargets())
    assert all(layer.running_state[2].item() > 0 for layer in layers)  # in targets too
    for layer in online:
        mean, var, _ = layer.running_state[:, 0]
        reward = -5 if algo == "sac" else 1
        assert np.sign(mean.item()) == np.sign(reward) and var > 0
    with pytest.raises(UserError, match=r"no targets were observed .*ValueTargets"):
        build(algo, "mlp", value_norm="popart", net_arch=[8]).learn(160)


def test_our_agents_give_popart_its_targets():
    kwargs = {"value_norm": "popart", "net_arch": [8]}
    model = RNDQN(
        "MlpPolicy", "CartPole-v1", norm="ln", loss="mse", policy_kwargs=kwargs, seed=0, **REPLAY
    )
    model.learn(96)
    [layer] = [m for m in model.q_net.modules() if isinstance(m, PopArt)]
    assert layer.running_state[2].item() > 0


@pytest.mark.parametrize("net", MODERN)
def test_networks_are_exported(net: str):
    """The module that torch.export returns has the outputs of the policy."""
    policy = build("dqn", net).policy.q_net.eval()
    x = torch.randn(6, 4)
    exported = torch.export.export(policy.q_net, (x,))
    torch.testing.assert_close(exported.module()(x), policy.q_net(x))


@pytest.mark.parametrize(
    ("algo", "kwargs", "message"),
    [
        ("dqn", {"net": "simbar"}, "unknown net 'simbar'. Did you mean 'simba'"),
        (
            "dqn",
            {"net": "simba", "net_arch": [8, 4]},
            r"net_arch \[8, 4\] with net 'simba': it has blocks",
        ),
        ("dqn", {"net": "simba", "net_arch": []}, "it has blocks of one width"),
        (
            "dqn",
            {"net": "simba", "net_arch": "big"},
            "'big' with net 'simba': expected a list or one of",
        ),
        ("dqn", {"net": "mlp", "net_arch": "small"}, "net_arch 'small' with net 'mlp'"),
        ("dqn", {"net": "simba", "net_arch": [8.5]}, "expected whole numbers above 0"),
        ("dqn", {"net": "simba", "net_arch": {"actor": [8]}}, "this policy has one network"),
        ("sac", {"net": "simba", "net_arch": {"actor": [8]}}, "no 'critic'; expected both"),
        ("sac", {"net": "simba", "net_arch": {"pi": [8], "vf": [8]}}, r"expected {'actor': sizes"),
        (
            "dqn",
            {"net": "simba", "norm": "ln+nap"},
            "no nap there, since its normalizers follow a sum",
        ),
        (
            "dqn",
            {"net": "simbav2", "norm": "wn"},
            "no wn there, since its weights have rows of length 1",
        ),
        ("dqn", {"net": "mlp", "obs_norm": "wn"}, "wn changes the weights of a layer"),
        ("dqn", {"net": "mlp", "obs_norm": "rsnorm+rsnorm"}, "rsnorm twice"),
        (
            "dqn",
            {"net": "mlp", "value_norm": "popar"},
            "unknown value_norm 'popar'. Did you mean 'popart'",
        ),
        (
            "td3",
            {"net": "mlp", "value_norm": "popart", "net_arch": [8]},
            "in NormTD3Policy: expected DQN",
        ),
        ("dqn", {"net": "simbav2", "value_norm": "popart"}, "rows have length 1 here"),
        (
            "dqn",
            {"net": "mlp", "weight_decay": -1},
            "weight_decay=-1: expected a number of at least 0",
        ),
        (
            "dqn",
            {"net": "mlp", "weight_decay": 0, "optimizer_kwargs": {"weight_decay": 0.1}},
            "optimizer_kwargs weight_decay=0.1 where weight_decay is 0: expected",
        ),
        (
            "ars",
            {"net": "mlp", "norm": "ln+nap"},
            "norm 'ln\\+nap' with ARS: nap scales weights back",
        ),
        ("ars", {"net": "simbav2"}, "projected after gradient steps, and ARS has none"),
        ("ars", {"net": "mlp", "obs_norm": "rsnorm", "net_arch": [8]}, "no gradient steps"),
    ],
)
def test_what_does_not_fit_is_one_line(algo: str, kwargs: dict[str, Any], message: str):
    kwargs = dict(kwargs)
    with pytest.raises(UserError, match=message) as error:
        build(algo, kwargs.pop("net"), **{"net_arch": [8], **kwargs})
    assert "\n" not in str(error.value)


def test_the_layers_after_the_blocks_stay():
    layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())
    found = hidden_layers(layers, "bronet", "ln", [8])
    assert [type(m).__name__ for m in found] == ["BroNet", "Linear", "Tanh"]
    assert found[1] is layers[2]
    assert sum(isinstance(m, LayerNorm) for m in found.modules()) == 3


@pytest.mark.parametrize(
    ("algo", "kwargs", "message"),
    [
        (
            "dqn",
            {"net_arch": 3},
            r"net_arch 3 of the network: expected whole numbers above 0, as in",
        ),
        ("dqn", {"net_arch": [[8]]}, r"net_arch \[\[8\]\] of the network: expected whole"),
        ("dqn", {"net_arch": [8, 0]}, r"net_arch \[8, 0\] of the network: expected whole"),
        ("dqn", {"net_arch": [True]}, r"net_arch \[True\] of the network: expected whole"),
        ("dqn", {"net_arch": [{"pi": [8]}]}, "of the network: expected whole"),
        (
            "dqn",
            {"net_arch": {"critic": "paper"}},
            "'paper' with net 'mlp': expected a list, as in",
        ),
        ("dqn", {"net_arch": {"critic": 8}}, "net_arch 8 of the critic: expected whole"),
        (
            "ppo",
            {"net_arch": {"actor": 8, "critic": [8]}},
            "net_arch 8 of the actor: expected whole",
        ),
        ("sac", {"net_arch": {"actor": [8]}}, "no 'critic'; expected both"),
        ("td3", {"net_arch": {"qf": [8]}}, "no 'actor'; expected both"),
        ("ars", {"net_arch": "small"}, "'small' with net 'mlp': expected a list"),
        ("dqn", {"net": ["simba"]}, r"unknown net \"\['simba'\]\""),
        ("dqn", {"net": None}, "unknown net 'None'"),
        ("ppo", {"features": ["mlp"]}, "unknown features"),
        ("ppo", {"activation_fn": ["relu"]}, "unknown activation"),
        ("ppo", {"activation_fn": 3}, "unknown activation '3'"),
        ("ars", {"value_norm": "popart"}, "value_norm='popart' with ARS: it has neither"),
        ("ars", {"weight_decay": 0.1}, "weight_decay=0.1 with ARS"),
        ("ars", {"features": "mlp"}, "features='mlp' with ARS"),
    ],
)
def test_a_value_of_another_kind_is_one_line(algo: str, kwargs: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as error:
        build(algo, **{"net": "mlp", "net_arch": [8], **kwargs})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"net_arch": 8}, "net_arch 8 of the network: expected whole numbers above 0"),
        ({"net_arch": "small"}, "net_arch 'small' with net 'mlp': expected a list"),
        ({"net_arch": [[8]]}, "of the network: expected whole"),
        ({"net_arch": {"pi": 8, "vf": 8}}, "net_arch 8 of the actor: expected whole"),
        (
            {"net": "simba"},
            r"policy_kwargs\(net='simba'\): a stock policy does not take it; use a Norm",
        ),
        ({"obs_norm": "rsnorm"}, r"policy_kwargs\(obs_norm='rsnorm'\): a stock policy"),
        ({"value_norm": "popart"}, r"policy_kwargs\(value_norm='popart'\): a stock policy"),
        ({"lstm_norm": "ln"}, r"policy_kwargs\(lstm_norm='ln'\): a stock policy"),
        ({"weight_decay": 0.1}, r"policy_kwargs\(weight_decay=0.1\): a stock policy"),
        (
            {"net_arch": {"pi": [8], "vf": [8]}, "share_trunk": True},
            r"share_trunk=True\): actor and critic have hidden layers of their own; expected",
        ),
    ],
)
def test_what_policy_kwargs_cannot_take_is_one_line(kwargs: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as error:
        policies.policy_kwargs("ln", **kwargs)
    assert "\n" not in str(error.value)


def test_sizes_that_sb3_takes_are_taken():
    assert build("ppo", "mlp", net_arch={"pi": [8]}).policy.net_arch == {"pi": [8]}
    assert build("ppo", "mlp", net_arch=(8,)).policy.net_arch == [8]
    with pytest.warns(UserWarning, match="shared layers in the mlp_extractor are removed"):
        assert build("ppo", "mlp", net_arch=[{"pi": [8], "vf": [4]}]).policy.net_arch["vf"] == [4]
    assert build("dqn", "mlp", net_arch=np.array([8, 4]).tolist()).policy.net_arch == [8, 4]
    assert build("dqn", "mlp", net_arch=[np.int64(8)]).policy.net_arch == [8]
    assert build("dqn", "mlp", net_arch=[]).policy.net_arch == []


@pytest.mark.parametrize(
    ("norm", "message"),
    [("rn+nap", "nap fixes the norm"), ("rn+ln", "the gain of rn cancels")],
)
@pytest.mark.parametrize("net", ["mlp", "bronet"])
def test_a_warning_about_the_spec_is_shown_once(net: str, norm: str, message: str):
    space = spaces.Box(-1, 1, (3,), np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        policies.NormSACPolicy(space, space, lambda _: 1e-3, net=net, norm=norm, net_arch=[8, 8])
    assert [message in str(warning.message) for warning in caught] == [True]
