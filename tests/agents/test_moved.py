"""Module names of version 0.1.0 forward to the present ones with a DeprecationWarning."""

import importlib

import pytest

import rn_rl.agents

OLD = {
    "agents": ("RNDQN", "RNPPO"),
    "logging": ("NormalizerLogger",),
    "seed_batch": ("SeedBatch",),
    "seed_batch_dqn": ("SeedBatchDQN",),
    "seed_batch_ppo": ("SeedBatchPPO",),
    "seed_batch_recurrent": ("SeedBatchRecurrentPPO",),
    "seed_envs": ("EnvpoolSeedEnvs", "VecSeedEnvs"),
}
OTHERS = {
    "logging": ("q_network", "behaviour", "mean_kl", "kl", "evenly_spaced", "online_norms"),
    "seed_batch": ("without_subnormals", "keep_freed_memory", "clip_gradients", "ELEMENTWISE"),
    "seed_batch_dqn": ("SeedReplay",),
    "seed_batch_ppo": ("LOSSES",),
    "seed_batch_recurrent": ("inputs_of", "latents", "sequences"),
    "seed_envs": ("Step", "Episode", "SeedEnvs"),
}
"""Public names of version 0.1.0 that ``rn_rl.agents`` does not export."""


@pytest.mark.parametrize("module", [name for name in OLD if name != "seed_batch"])
def test_an_old_module_forwards_with_a_warning(module):
    old = importlib.import_module(f"rn_rl.agents.{module}")
    for name in OLD[module]:
        with pytest.warns(
            DeprecationWarning, match=rf"rn_rl\.agents\.{module}\.{name} was renamed"
        ):
            assert getattr(old, name) is getattr(rn_rl.agents, name)
    with pytest.raises(AttributeError, match="nothing_there"):
        old.nothing_there  # noqa: B018


@pytest.mark.parametrize("module", OTHERS)
def test_other_names_of_an_old_module_forward_too(module):
    old = importlib.import_module(f"rn_rl.agents.{module}")
    for name in OTHERS[module]:
        with pytest.warns(DeprecationWarning, match=rf"{module}\.{name} was renamed rn_rl"):
            assert getattr(old, name) is not None


def test_seed_batch_is_importable_from_its_old_module_name():
    assert importlib.import_module("rn_rl.agents.seed_batch").SeedBatch is rn_rl.agents.SeedBatch


def test_exports_equal_all_and_unknown_names_raise():
    assert all(getattr(rn_rl.agents, name).__name__ == name for name in rn_rl.agents.__all__)
    assert set(dir(rn_rl.agents)) == set(rn_rl.agents.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        rn_rl.agents.Nobody  # noqa: B018
