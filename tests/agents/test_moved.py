"""Module names of version 0.1.0 lead to the new ones, and say so."""

import importlib

import pytest

import rn_rl.agents

OLD = {
    "agents": ("RNDQN", "RNPPO"),
    "logging": ("NormalizerLogger",),
    "seed_batch_dqn": ("SeedBatchDQN",),
    "seed_batch_ppo": ("SeedBatchPPO",),
    "seed_batch_recurrent": ("SeedBatchRecurrentPPO",),
    "seed_envs": ("EnvpoolSeedEnvs", "VecSeedEnvs"),
}


@pytest.mark.parametrize("module", OLD)
def test_an_old_module_forwards_with_a_warning(module):
    old = importlib.import_module(f"rn_rl.agents.{module}")
    for name in OLD[module]:
        with pytest.warns(DeprecationWarning, match=rf"rn_rl\.agents\.{module} was renamed"):
            assert getattr(old, name) is getattr(rn_rl.agents, name)
    with pytest.raises(AttributeError, match="nothing_there"):
        old.nothing_there  # noqa: B018


def test_the_batch_of_seeds_is_still_in_its_old_place():
    assert importlib.import_module("rn_rl.agents.seed_batch").SeedBatch is rn_rl.agents.SeedBatch


def test_public_names_are_those_of_all_and_others_are_errors():
    assert all(getattr(rn_rl.agents, name).__name__ == name for name in rn_rl.agents.__all__)
    assert set(dir(rn_rl.agents)) == set(rn_rl.agents.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        rn_rl.agents.Nobody  # noqa: B018
