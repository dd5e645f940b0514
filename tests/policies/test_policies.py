"""Norm policies and policy_kwargs: SB3's networks and initial weights, normalizers in their place."""

import doctest
import functools
import itertools

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from minigrid.wrappers import ImgObsWrapper
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from torch import nn
from torch.nn.utils import parametrize

import rn_rl.policies.kwargs
from rn_rl.errors import UserError
from rn_rl.normalization import REGISTRY, PhaseNorm, RegularityNorm, phase_norms
from rn_rl.normalization.established import LayerNorm
from rn_rl.policies import (
    MlpExtractor,
    NormActorCriticPolicy,
    NormDQNPolicy,
    NormSACPolicy,
    policy_kwargs,
)
from tests.factories import slow_unless

PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
SPECS = [*REGISTRY, "ln+rn", "rn(half_life=5)", "ramp(5, 10)"]
IN_EXTRACTOR = [
    spec for spec in SPECS if spec != "nap"
]  # which needs the optimizer of a Norm policy
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (4,), np.float32)
ACTIONS = spaces.Discrete(2)

FEW = {
    DQN: {"learning_starts": 20, "train_freq": 8, "batch_size": 16, "buffer_size": 500},
    QRDQN: {"learning_starts": 20, "train_freq": 8, "batch_size": 16, "buffer_size": 500},
    PPO: {"n_steps": 32, "batch_size": 16, "n_epochs": 1},
    A2C: {"n_steps": 16},
    TRPO: {"n_steps": 32, "batch_size": 32, "n_critic_updates": 1},
}


def build(policy, **kwargs):
    """A policy as its algorithm would build it, from the same seed every time."""
    torch.manual_seed(1)
    return policy(OBSERVATIONS, ACTIONS, lambda _: 1e-3, **kwargs)


def linear_weights(module):
    """Weights and biases; for ``wn`` and ``spectral``, the weight before the parametrization."""
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            made = parametrize.is_parametrized(layer)
            weight = list(layer.parametrizations.weight.parameters())[-1] if made else layer.weight
            found.extend([weight, layer.bias])
    return found


def assert_same_weights(one, other):
    assert len(linear_weights(one)) >= 6
    for a, b in zip(linear_weights(one), linear_weights(other), strict=True):
        assert torch.equal(a, b)


def output(policy, x):
    """All outputs of a policy for observations."""
    if hasattr(policy, "q_net"):
        return policy.q_net(x)
    distribution = policy.get_distribution(x).distribution
    return torch.cat([distribution.logits, policy.predict_values(x)], dim=1)


PAIRS = [(NormDQNPolicy, DQNPolicy), (NormActorCriticPolicy, ActorCriticPolicy)]


@pytest.mark.parametrize("options", [{}, {"net_arch": [16, 8], "activation_fn": nn.ELU}])
@pytest.mark.parametrize(("ours", "stock"), PAIRS)
def test_norm_none_is_the_stock_policy(ours, stock, options):
    policy, reference = build(ours, norm="none", **options), build(stock, **options)
    assert policy.state_dict().keys() == reference.state_dict().keys()
    for key, value in reference.state_dict().items():
        assert torch.equal(policy.state_dict()[key], value), key
    x = torch.randn(8, 4)
    assert torch.equal(output(policy, x), output(reference, x))


@pytest.mark.parametrize("spec", SPECS, indirect=True)
@pytest.mark.parametrize(("ours", "stock"), PAIRS)
def test_initial_weights_are_those_of_the_stock_policy_whatever_the_norm(ours, stock, spec):
    assert_same_weights(build(ours, norm=spec), build(stock))


@pytest.mark.parametrize("spec", IN_EXTRACTOR, indirect=True)
@pytest.mark.parametrize("stock", [DQNPolicy, ActorCriticPolicy])
def test_initial_weights_with_policy_kwargs_are_the_same_whatever_the_norm(stock, spec):
    assert_same_weights(build(stock, **policy_kwargs(spec)), build(stock, **policy_kwargs("none")))


@pytest.mark.parametrize("norm", ["none", "rn"])
def test_norm_none_trains_as_the_stock_agent_and_another_norm_does_not(norm):
    def trained(policy, **kwargs):
        model = DQN(policy, "CartPole-v1", seed=3, policy_kwargs=kwargs, **FEW[DQN])
        return linear_weights(model.learn(200).policy)

    ours, stock = trained(NormDQNPolicy, norm=norm), trained("MlpPolicy")
    same = all(torch.equal(a, b) for a, b in zip(ours, stock, strict=True))
    assert same == (norm == "none")


def kinds(sequential):
    return [type(m).__name__ for m in sequential]


HIDDEN = ["Linear", "LayerNorm", "RegularityNorm", "Tanh"]


def test_every_hidden_layer_of_the_q_network_is_normalized_and_the_output_is_not():
    policy = build(NormDQNPolicy, norm="ln+rn", net_arch=[16, 8, 8], activation_fn="tanh")
    for net in (policy.q_net, policy.q_net_target):
        assert kinds(net.q_net) == [*(3 * HIDDEN), "Linear"]
        assert [m.num_features for m in phase_norms(net).values()] == [16, 8, 8]


def test_every_hidden_layer_of_actor_and_critic_is_normalized_and_the_output_is_not():
    arch = {"pi": [16, 8], "vf": [32]}
    policy = build(NormActorCriticPolicy, norm="ln+rn", net_arch=arch)
    assert kinds(policy.mlp_extractor.policy_net) == 2 * HIDDEN
    assert kinds(policy.mlp_extractor.value_net) == HIDDEN
    assert type(policy.action_net) is type(policy.value_net) is nn.Linear
    assert [m.num_features for m in phase_norms(policy).values()] == [16, 8, 32]


def test_every_hidden_layer_of_the_extractor_is_normalized_and_the_output_is_not():
    kwargs = policy_kwargs("ln+rn", net_arch=[16, 8, 8], activation_fn="tanh")
    q_net = build(DQNPolicy, **kwargs).q_net
    assert kinds(q_net.features_extractor.head) == 3 * HIDDEN
    assert kinds(q_net.q_net) == ["Linear"]
    actor_critic = build(ActorCriticPolicy, **kwargs)
    assert kinds(actor_critic.features_extractor.head) == 3 * HIDDEN
    assert type(actor_critic.action_net) is type(actor_critic.value_net) is nn.Linear


@pytest.mark.parametrize(("share", "count"), [(None, 2), (True, 2), (False, 4)])
def test_actor_and_critic_share_the_trunk_or_have_one_each(share, count):
    model = PPO(
        "MlpPolicy",
        "CartPole-v1",
        seed=0,
        policy_kwargs=policy_kwargs("rn", share_trunk=share),
        **FEW[PPO],
    ).learn(128)
    norms = phase_norms(model.policy)
    assert len(norms) == count
    model.policy.set_training_mode(False)
    assert all(norm.running_state.abs().sum() > 2 for norm in norms.values())  # all have observed
    assert (model.policy.pi_features_extractor is model.policy.vf_features_extractor) == (
        count == 2
    )


def test_policy_kwargs_are_new_each_time():
    one, other = policy_kwargs("rn"), policy_kwargs("rn")
    assert one == other
    one["features_extractor_kwargs"]["net_arch"].append(1)
    one["features_extractor_kwargs"]["norm"] = "ln"
    one["net_arch"]["pi"] = [1]
    one["use_sde"] = False
    assert other == policy_kwargs("rn") != one


def test_policy_kwargs_leave_the_architecture_they_are_given_alone():
    arch = [8, 8]
    policy_kwargs("rn", net_arch=arch)["features_extractor_kwargs"]["net_arch"].append(1)
    assert arch == [8, 8]


def test_policy_kwargs_pass_on_whatever_else_the_policy_takes():
    kwargs = policy_kwargs("rn", optimizer_kwargs={"eps": 1e-4})
    policy = build(DQNPolicy, **kwargs)
    assert policy.optimizer.defaults["eps"] == 1e-4


@pytest.mark.parametrize("algorithm", FEW)
@pytest.mark.parametrize("spec", ["rn", "ln+rln", "rsn"])
def test_policy_kwargs_work_in_stock_algorithms(algorithm, spec):
    kwargs = policy_kwargs(spec, net_arch=[16, 16])
    model = algorithm("MlpPolicy", "CartPole-v1", seed=0, policy_kwargs=kwargs, **FEW[algorithm])
    weights = [p.clone() for p in linear_weights(model.policy)]
    model.learn(200)
    assert any(
        not torch.equal(a, b) for a, b in zip(weights, linear_weights(model.policy), strict=True)
    )
    online = getattr(model.policy, "quantile_net", getattr(model.policy, "q_net", model.policy))
    norms = phase_norms(online)
    assert len(norms) == 2
    assert all((norm.gain != 1).all() for norm in norms.values())
    assert all(p.isfinite().all() for p in model.policy.parameters())


def minigrid():
    return ImgObsWrapper(gym.make("MiniGrid-RedBlueDoors-6x6-v0"))


@pytest.mark.parametrize("algorithm", [DQN, PPO])
def test_minigrid_features_work_on_codes_that_are_not_divided_by_255(algorithm):
    kwargs = policy_kwargs("rln", net_arch=[16], features="minigrid")
    model = algorithm("CnnPolicy", minigrid(), seed=0, policy_kwargs=kwargs, **FEW[algorithm])
    assert model.policy.normalize_images is False
    seen = []
    online = getattr(model.policy, "q_net", model.policy)
    online.features_extractor.trunk.register_forward_pre_hook(lambda _, x: seen.append(x[0].max()))
    model.learn(100)
    assert max(seen) > 1
    assert len(phase_norms(online)) == 1


@pytest.mark.parametrize("policy", [NormDQNPolicy, NormActorCriticPolicy])
def test_minigrid_features_work_in_norm_policies(policy):
    algorithm = DQN if policy is NormDQNPolicy else PPO
    kwargs = {"norm": "rn", "features": "minigrid", "net_arch": [16]}
    model = algorithm(policy, minigrid(), seed=0, policy_kwargs=kwargs, **FEW[algorithm])
    model.learn(100)
    assert model.policy.normalize_images is False
    assert model.policy.features_extractor_class.__name__ == "MinigridExtractor"
    assert sum(isinstance(m, nn.Conv2d) for m in model.policy.modules()) in (3, 6)


def test_nature_features_work_and_are_those_of_sb3(noise):
    image = spaces.Box(0, 255, (36, 40, 1), np.uint8)
    kwargs = policy_kwargs("rn", net_arch=[512], features="nature")
    torch.manual_seed(1)
    model = PPO("CnnPolicy", noise(image, ACTIONS), seed=0, policy_kwargs=kwargs, **FEW[PPO])
    stock = PPO("CnnPolicy", noise(image, ACTIONS), seed=0, **FEW[PPO])
    shapes = [p.shape for p in linear_weights(model.policy)]
    assert sorted(shapes) == sorted(p.shape for p in linear_weights(stock.policy))
    model.learn(64)
    assert len(phase_norms(model.policy)) == 1


@pytest.mark.parametrize(
    ("space", "extractor"),
    [
        (OBSERVATIONS, "MlpExtractor"),
        (spaces.Box(0, 255, (3, 40, 40), np.uint8), "NatureExtractor"),
        (spaces.Dict({"a": OBSERVATIONS, "b": OBSERVATIONS}), "DictExtractor"),
        (spaces.Discrete(5), "MlpExtractor"),
    ],
)
@pytest.mark.parametrize(("policy", "count"), [(NormDQNPolicy, 1), (NormActorCriticPolicy, 2)])
def test_norm_policies_pick_the_trunk_by_the_observation_space(policy, count, space, extractor):
    built = policy(space, ACTIONS, lambda _: 1e-3, norm="rn", net_arch=[8])
    assert built.features_extractor_class.__name__ == extractor
    assert len(phase_norms(getattr(built, "q_net", built))) == count


UNIT_IMAGE = spaces.Box(0, 1, (3, 40, 40), np.float32)


@pytest.mark.parametrize(
    ("space", "extractor"),
    [
        (OBSERVATIONS, "MlpExtractor"),
        (spaces.Box(0, 255, (3, 40, 40), np.uint8), "NatureExtractor"),
        (UNIT_IMAGE, "NatureExtractor"),
        (spaces.Box(0, 1, (3, 8, 8), np.float32), "MlpExtractor"),
        (spaces.Box(-1, 1, (3, 40, 40), np.float32), "MlpExtractor"),
        (spaces.Dict({"a": OBSERVATIONS, "b": OBSERVATIONS}), "DictExtractor"),
        (spaces.Discrete(5), "MlpExtractor"),
    ],
)
def test_policy_kwargs_pick_the_trunk_by_the_observation_space(space, extractor):
    stock = {DQNPolicy: "q_net", ActorCriticPolicy: "features_extractor"}
    for policy, part in stock.items():
        built = policy(space, ACTIONS, lambda _: 1e-3, **policy_kwargs("rn", net_arch=[8]))
        network = getattr(built, part)
        found = getattr(network, "features_extractor", network)
        assert type(found).__name__ == extractor
        assert found.features_dim == 8 and len(phase_norms(found)) == 1


@pytest.mark.parametrize(
    ("shape", "extractor"), [((1, 36, 36), "NatureExtractor"), ((3, 7, 7), "MlpExtractor")]
)
def test_floats_of_any_range_are_images_where_the_user_says_so(shape, extractor):
    """As VecNormalize makes them of images."""
    space = spaces.Box(-np.inf, np.inf, shape, np.float32)
    kwargs = {"norm": "ln", "net_arch": [8], "normalize_images": False}
    if extractor == "NatureExtractor":
        kwargs["features_extractor_kwargs"] = {"features_dim": 32}
    policy = NormActorCriticPolicy(space, ACTIONS, lambda _: 1e-3, **kwargs)
    assert type(policy.features_extractor).__name__ == extractor


PARTS = spaces.Dict(
    {"image": spaces.Box(-9, 9, (3, 40, 40), np.float32), "numbers": spaces.Box(-1, 1, (2,))}
)
GIVEN = {
    "Norm policy": lambda **kwargs: {"norm": "ln", "trunk_norm": "gn", **kwargs},
    "auto": lambda **kwargs: policy_kwargs("ln", trunk_norm="gn", **kwargs),
    "dict": lambda **kwargs: policy_kwargs("ln", trunk_norm="gn", features="dict", **kwargs),
}


def built_on(space, how, **kwargs):
    policy = NormActorCriticPolicy if how == "Norm policy" else ActorCriticPolicy
    return policy(space, ACTIONS, lambda _: 1e-3, **GIVEN[how](**kwargs))


@pytest.mark.parametrize("how", GIVEN)
def test_floats_in_dicts_are_images_where_the_user_says_so(how):
    """As in SB3, whose policies then set ``normalized_image=True``."""
    trunk = built_on(PARTS, how, normalize_images=False).features_extractor.trunk
    stock = MultiInputActorCriticPolicy(PARTS, ACTIONS, lambda _: 1e-3, normalize_images=False)
    assert {key: type(part) for key, part in trunk.extractors.items()} == {
        key: type(part) for key, part in stock.features_extractor.extractors.items()
    }
    assert trunk.features_dim == stock.features_extractor.features_dim == 256 + 2
    assert sum(isinstance(part, nn.GroupNorm) for part in trunk.modules()) == 3


@pytest.mark.parametrize("how", GIVEN)
def test_floats_in_dicts_can_still_be_flattened(how):
    given = {"features_extractor_kwargs": {"normalized_image": False, "trunk_norm": "none"}}
    policy = built_on(PARTS, how, normalize_images=False, **given)
    assert policy.features_extractor.trunk.features_dim == 3 * 40 * 40 + 2


def test_float_images_in_dicts_with_channels_last_are_refused():
    space = spaces.Dict({"image": spaces.Box(-9, 9, (40, 40, 3), np.float32)})
    with pytest.raises(UserError, match=r"the image 'image' of a dict Box.*their channels first"):
        built_on(space, "Norm policy", normalize_images=False)


def test_features_dim_without_images_is_one_line():
    kwargs = {"norm": "ln", "features_extractor_kwargs": {"features_dim": 32}}
    with pytest.raises(UserError, match=r"features_dim=32 on observations Box.*images of bytes"):
        NormActorCriticPolicy(OBSERVATIONS, ACTIONS, lambda _: 1e-3, **kwargs)


def test_an_actor_without_hidden_layers_is_built():
    spec = {
        "norm": "ln",
        "net_arch": [],
    }  # as in SB3's own tests: what was asked for, linear values too
    model = SAC(NormSACPolicy, "Pendulum-v1", policy_kwargs=spec, learning_starts=8).learn(16)
    assert len(model.actor.latent_pi) == 0


def test_float_images_with_channels_last_are_refused():
    space = spaces.Box(0, 1, (40, 40, 3), np.float32)
    with pytest.raises(UserError, match="need their channels first"):
        DQNPolicy(space, ACTIONS, lambda _: 1e-3, **policy_kwargs("rn"))


@pytest.mark.parametrize("algorithm", [SAC, TD3, DDPG, TQC, CrossQ])
def test_policy_kwargs_are_refused_where_the_critic_would_be_linear_in_the_action(algorithm):
    with pytest.raises(UserError, match=r"linear in the action; use the policy with norm="):
        algorithm("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs("ln"))


def test_policy_kwargs_merge_arguments_of_the_extractor_and_refuse_another_one():
    given = policy_kwargs("rn", features_extractor_kwargs={"net_arch": [5]})
    assert given["features_extractor_kwargs"]["net_arch"] == [5]
    assert given["features_extractor_kwargs"]["norm"] == "rn"
    with pytest.raises(UserError, match="policy_kwargs\\(\\) sets it; use a Norm policy"):
        policy_kwargs("rn", features_extractor_class=MlpExtractor)


@pytest.mark.parametrize("algorithm", [DQN, PPO])
def test_an_agent_with_policy_kwargs_comes_back_from_its_zip(algorithm, tmp_path, noise):
    env = noise(UNIT_IMAGE, ACTIONS)
    model = algorithm(
        "CnnPolicy",
        env,
        seed=0,
        policy_kwargs=policy_kwargs("rn", net_arch=[8]) | {"normalize_images": False},
        **FEW[algorithm],
    )
    model.learn(64)
    model.save(tmp_path / "agent")
    again = algorithm.load(tmp_path / "agent", env=env)
    assert_same_weights(model.policy, again.policy)


@pytest.mark.parametrize(
    ("features", "shape", "message"),
    [
        ("minigrid", (4,), r"features='minigrid' on observations Box\(.*expected images of shape"),
        ("nature", (4,), r"features='nature' on observations Box\(.*expected images of shape"),
        ("minigrid", (3, 3, 7), "features='minigrid' on 3x7 images: .* at least 4x4"),
        ("nature", (3, 36, 35), "features='nature' on images of 36x35: .* at least 36x36"),
    ],
)
def test_observations_that_do_not_fit_the_features_are_named(features, shape, message):
    space = spaces.Box(0, 255, shape, np.uint8)
    for make in (
        lambda: NormDQNPolicy(space, ACTIONS, lambda _: 1e-3, features=features),
        lambda: DQNPolicy(space, ACTIONS, lambda _: 1e-3, **policy_kwargs("rn", features=features)),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_smallest_images_that_fit_do():
    for features, shape in (("minigrid", (3, 4, 4)), ("nature", (3, 36, 36))):
        space = spaces.Box(0, 255, shape, np.uint8)
        policy = NormDQNPolicy(space, ACTIONS, lambda _: 1e-3, norm="rn", features=features)
        assert policy.q_net(torch.zeros(2, *shape)).shape == (2, 2)


YAML = """
norm: ln+rn(half_life=20)
net_arch: [16, 16]
activation_fn: elu
"""


@pytest.mark.parametrize("policy", [NormDQNPolicy, NormActorCriticPolicy])
def test_a_yaml_file_can_say_it_all(policy):
    algorithm = DQN if policy is NormDQNPolicy else PPO
    kwargs = yaml.safe_load(YAML)
    model = algorithm(policy, "CartPole-v1", seed=0, policy_kwargs=kwargs, **FEW[algorithm])
    model.learn(100)
    modules = list(model.policy.modules())
    assert {type(m) for m in modules} >= {nn.ELU, LayerNorm, RegularityNorm}
    assert not {type(m) for m in modules} & {nn.ReLU, nn.Tanh}
    assert all(n.half_life == 20 for n in phase_norms(model.policy).values())


@pytest.mark.parametrize("policy", [NormDQNPolicy, NormActorCriticPolicy])
def test_net_arch_null_is_the_default(policy):
    assert_same_weights(build(policy, norm="rn", net_arch=None), build(policy, norm="rn"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"norm": "rnl"}, "unknown normalizer 'rnl'. Did you mean 'rn'"),
        ({"norm": "rn(1, 2)"}, r"rn takes \(half_life\)"),
        ({"activation_fn": "rely"}, "unknown activation 'rely'. Did you mean 'relu'"),
        ({"features": "mini"}, "unknown features 'mini'. Did you mean 'minigrid'"),
    ],
)
@pytest.mark.parametrize("make", [NormDQNPolicy, NormActorCriticPolicy, policy_kwargs])
def test_unknown_names_are_answered_with_the_nearest(make, kwargs, message):
    with pytest.raises(UserError, match=message):
        if make is policy_kwargs:
            policy_kwargs(**{"norm": "rn", **kwargs})
        else:
            build(make, **kwargs)


@pytest.mark.parametrize("spec", SPECS, indirect=True)
@pytest.mark.parametrize("policy", [NormDQNPolicy, NormActorCriticPolicy])
def test_a_policy_saved_by_itself_comes_back(policy, spec, tmp_path):
    original = build(policy, norm=spec, net_arch=[8, 8], activation_fn="elu")
    for _ in range(3):
        original.set_training_mode(True)
        output(original, torch.randn(16, 4))
        original.set_training_mode(False)
    original.save(tmp_path / "policy")
    loaded = policy.load(tmp_path / "policy")
    loaded.set_training_mode(False)
    assert loaded.norm == spec
    x = torch.randn(8, 4)
    assert torch.equal(output(loaded, x), output(original, x))
    for key, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


@pytest.mark.parametrize("spec", ["rn", "rln", "ln+rn"])
def test_the_optimizer_has_exactly_the_learnable_parameters(spec):
    def optimized(policy):
        return [id(p) for group in policy.optimizer.param_groups for p in group["params"]]

    for policy in (
        build(NormDQNPolicy, norm=spec),
        build(DQNPolicy, **policy_kwargs(spec)),
        build(NormActorCriticPolicy, norm=spec),
        build(ActorCriticPolicy, **policy_kwargs(spec)),
    ):
        learnable = getattr(policy, "q_net", policy).parameters()
        assert optimized(policy) == [id(p) for p in learnable]
        assert not set(optimized(policy)) & {id(b) for b in policy.buffers()}
        assert not any(b.requires_grad for b in policy.buffers())


@functools.cache
def trained(algorithm, how, spec):
    """An agent after 400 steps of CartPole."""
    if how == "policy_kwargs":
        policy, kwargs = "MlpPolicy", policy_kwargs(spec, net_arch=[16, 16])
    else:
        policy = NormDQNPolicy if algorithm is DQN else NormActorCriticPolicy
        kwargs = {"norm": spec, "net_arch": [16, 16]}
    model = algorithm(policy, "CartPole-v1", seed=0, policy_kwargs=kwargs, **FEW[algorithm])
    return model.learn(400)


def is_quick(algorithm, how, spec):
    kinds = ("ln", "rn", "brn", "spectral")
    if how == "norm policy" and algorithm is DQN:
        return True
    return spec in kinds and (algorithm is DQN) != (how == "norm policy")


@pytest.mark.parametrize(
    ("algorithm", "how", "spec"),
    slow_unless(
        is_quick,
        (
            case
            for case in itertools.product((DQN, PPO), ("policy_kwargs", "norm policy"), PHASE_RULE)
            if case[1:] != ("policy_kwargs", "nap")
        ),
    ),
    indirect=["spec"],
)
def test_an_observation_gives_the_same_action_alone_and_in_a_batch(algorithm, how, spec):
    model = trained(algorithm, how, spec)
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    together, _ = model.predict(observations, deterministic=True)
    alone = np.array([model.predict(row, deterministic=True)[0] for row in observations])
    assert (alone == together).all()
    x = torch.as_tensor(observations)
    with torch.no_grad():
        rows = torch.cat([output(model.policy, row[None]) for row in x])
        torch.testing.assert_close(rows, output(model.policy, x), rtol=1e-5, atol=1e-5)
    if REGISTRY[spec.partition("(")[0]].stateful:  # and it is not for want of an active normalizer
        norms = [m for m in model.policy.modules() if isinstance(m, PhaseNorm)]
        assert any((norm.gain - 1).abs().max() > 0.05 for norm in norms)


def test_the_published_normalizer_acts_differently_in_a_batch():
    model = trained(DQN, "norm policy", "rn-paper")
    x = torch.randn(64, 4)
    with torch.no_grad():
        rows = torch.cat([output(model.policy, row[None]) for row in x])
        assert ((rows - output(model.policy, x)).abs() > 0.1 * rows.abs()).float().mean() > 0.5


def test_the_published_agent_observes_its_own_acting():
    """Sampled actions change the state; greedy ones, as in an evaluation, do not."""
    kwargs = {"norm": "ln+rn-paper", "net_arch": [8], "acting_observes": True}
    model = DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs=kwargs, seed=0, learning_starts=0)
    model.exploration_rate = 0.0
    [norm] = phase_norms(model.q_net).values()
    counts = []
    for deterministic in (True, False, False):
        model.predict(np.ones(4, np.float32), deterministic=deterministic)
        counts.append(norm.running_state[2].item())
    assert counts == [0, 8, 16]
    assert type(model.policy)(**model.policy._get_constructor_parameters()).acting_observes
    model.learn(40)
    assert norm.running_state[2].item() > 16 + 20 * 8


def test_only_published_normalizers_observe_acting():
    kwargs = {"norm": "ln+rn", "net_arch": [8], "acting_observes": True}
    with pytest.raises(UserError, match="expected rn-paper or rln-paper in it"):
        DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs=kwargs)


def test_the_example_in_the_docstring_is_true():
    result = doctest.testmod(rn_rl.policies.kwargs)
    assert result.attempted == 2 and result.failed == 0
