"""Tests of SB3 and sb3-contrib that fail with a normalizer, and why that is right."""

from __future__ import annotations

import re

KNOWN = (
    (
        r"test_image_like_input\[True-",
        r"UserError: features_dim=",
        "`features_dim` for observations that are no images raises a `ValueError` that says what to do; "
        "the test asks for SB3's `AssertionError`",
    ),
    (
        r"test_features?_extractor_target_net",
        r"assert not True|features_extractor\.",
        "the test asks that one small update moves every parameter by more than a relative 1e-5; gains "
        "that start at 1 and some biases move by less, and parameters of `uan` have no effect in the "
        "first phase",
    ),
    (
        r"test_identity::|test_invalid_actions::test_identity",
        r"Mean reward below threshold",
        "learns less than stock SB3 within 400 to 2,000 timesteps, so the mean reward is below the 90 of "
        "100 that the test asks for",
    ),
    (
        r"test_ppo_warnings",
        r"DID NOT WARN",
        "SB3 advises against a GPU for policies that are its own `ActorCriticPolicy`, not for subclasses",
    ),
    (
        r"test_warn_buffer\[.*-DQN\]",
        r"assert [12] == [01] ",
        "the test counts warnings; DQN warns that the gain of this normalizer has no bound",
    ),
    (
        r"test_flexible_mlp\[.*-net_arch[78]\]",
        r"DID NOT WARN",
        "SB3 warns of its old form of `net_arch`, which the network refuses",
    ),
    (
        r"",
        r"UserError: net_arch .* with net ",
        "a `net_arch` that the network cannot have, such as two widths or none: blocks have one",
    ),
    (
        r"test_custom_offpolicy|test_flexible_mlp",
        r"UserError: net_arch ",
        "a `net_arch` that the network cannot have, such as two widths or none: blocks have one",
    ),
    (
        r"",
        r"UserError: net 'simbav2' with ARS",
        "ARS takes no gradient steps, after which SimbaV2 projects its weights, so it is refused",
    ),
    (
        r"test_state_dependent_noise",
        r"assert np.False_",
        "the test asks that no stored action is beyond the bounds, without clipping; exploration by gSDE "
        "grows with the norm of the last hidden layer, which LayerNorm makes large",
    ),
    (
        r"test_save_load_no_target_params",
        r"different number of parameter groups|DID NOT WARN",
        "the test gives DQN an optimizer of SB3 before 2.4, of one group; `weight_decay` makes two",
    ),
    (
        r"test_save_load(_policy)?\[.*CrossQ\]",
        r"Parameters did not change as expected.*tensor\(\d+\), tensor\(\d+\)",
        "by chance: the test replaces SB3's own counter of steps by a random whole number, which is "
        "sometimes the same",
    ),
)
"""Patterns of a test's name and of its failure, and the reason."""


def reason_of(test: str, failure: str) -> str | None:
    """Return the reason why a test fails with a normalizer; None if there is no known one."""
    for name, message, reason in KNOWN:
        if re.search(name, test) and re.search(message, failure):
            return reason
    return None
