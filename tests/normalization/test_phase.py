"""The phase rule, for every normalizer in the registry that keeps it."""

import copy
import pickle

import pytest
import torch
from torch import nn

from rn_rl.normalization import (
    REGISTRY,
    make_normalizers,
    observation_weights,
    phase_norms,
    state_before_commit,
)

FEATURES = 8
STATEFUL = [row.name for row in REGISTRY.values() if row.stateful and row.phase_rule]
PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
FORGETFUL = ["rn(half_life=3)", "rln(half_life=3)"]


def build(spec):
    return nn.Sequential(*make_normalizers(spec, FEATURES))


def batch(t=0.0, rows=40):
    return torch.randn(rows, FEATURES) * (1 + t) + t


def used(spec, phases=4):
    """A normalizer with a few phases behind it, in evaluation mode."""
    module = build(spec)
    for t in range(phases):
        module.train()(batch(t))
        module.eval()
    return module


def bits(module, part=""):
    return {k: v.numpy().tobytes() for k, v in module.state_dict().items() if part in k}


@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL)
def test_training_forwards_change_what_is_pending_and_nothing_else(spec):
    module = used(spec).train()
    running, pending = bits(module, "running_"), bits(module, "pending_")
    for t in range(3):
        module(batch(t))
    assert bits(module, "running_") == running
    assert bits(module, "pending_") != pending
    assert {*running, *pending} == {*bits(module)}


@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL)
def test_the_state_moves_at_the_commit_and_pending_is_cleared(spec):
    module = used(spec).train()
    before = bits(module)
    module(batch(9))
    module.eval()
    assert bits(module, "running_") != {k: v for k, v in before.items() if "running_" in k}
    assert bits(module, "pending_") == {k: v for k, v in before.items() if "pending_" in k}


@pytest.mark.parametrize("spec", PHASE_RULE)
def test_evaluation_forwards_change_no_bit(spec):
    module = used(spec)
    before = bits(module)
    for t in range(3):
        module(batch(t))
    module.eval()
    assert bits(module) == before


@pytest.mark.parametrize("phases", [0, 1, 2, 4])
@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL + ["rn-paper", "rln-paper"])
def test_a_commit_with_nothing_pending_changes_no_bit(spec, phases):
    module = used(spec, phases)
    before = bits(module)
    module.train().eval()
    assert bits(module) == before
    for norm in phase_norms(module).values():
        norm.commit()
    assert bits(module) == before
    loaded = build(spec)
    loaded.load_state_dict(module.state_dict())
    assert bits(loaded.eval()) == before


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("spec", PHASE_RULE)
def test_a_sample_gives_the_same_output_alone_and_in_a_batch(spec, training):
    module = used(spec).train(training)
    x = batch(2, rows=64)
    together = module(x)
    alone = torch.cat([module(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", PHASE_RULE)
def test_acting_and_learning_apply_the_same_function(spec):
    module = used(spec)
    x = batch(2)
    acting = module(x)
    assert torch.equal(module.train()(x), acting)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
@pytest.mark.parametrize("spec", STATEFUL)
def test_casts_leave_precision_and_value_of_the_state(spec, cast):
    module = used(spec).train()
    module(batch())
    before = bits(module)
    getattr(module, cast)()
    buffers = dict(module.named_buffers())
    assert buffers and {buffer.dtype for buffer in buffers.values()} == {torch.float64}
    assert bits(module) == before


@pytest.mark.parametrize("spec", STATEFUL)
def test_to_dtype_leaves_precision_and_value_of_the_state(spec):
    module = used(spec)
    before = bits(module)
    assert bits(module.to(torch.float32).to(torch.float64).to("cpu", torch.float16)) == before


@pytest.mark.parametrize("spec", STATEFUL)
def test_a_cast_normalizer_goes_on_as_before(spec):
    cast, plain = used(spec).half(), used(spec)
    cast.load_state_dict(plain.state_dict())
    x = batch(3)
    cast.train()(x)
    plain.train()(x)
    assert bits(cast.eval()) == bits(plain.eval())


def through_state_dict(module):
    copied = build_like(module)
    copied.load_state_dict(copy.deepcopy(module.state_dict()))
    return copied.train()


def build_like(module):
    fresh = copy.deepcopy(module)
    for norm in phase_norms(fresh).values():
        norm.reset_running_state()
    assert bits(fresh) != bits(module)
    return fresh


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_state_dict])
@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL)
def test_a_copy_in_the_middle_of_a_phase_is_exact(spec, duplicate):
    module = used(spec).train()
    module(batch(1))
    copied = duplicate(module)
    assert bits(copied) == bits(module)
    rest = batch(2)
    module(rest)
    assert bits(copied) != bits(module)  # no shared memory
    copied(rest)
    assert bits(copied.eval()) == bits(module.eval())


@pytest.mark.parametrize("spec", STATEFUL)
def test_weights_of_0_and_1_observe_the_subset(spec):
    weighted, subset = used(spec).train(), used(spec).train()
    subset.load_state_dict(weighted.state_dict())
    x, weight = batch(3), (torch.arange(40) % 3 == 0).float()
    with observation_weights(weighted, weight):
        y = weighted(x)
    assert torch.equal(y, subset(x[weight == 1].repeat(1, 1)).new_tensor(y))
    weighted.eval(), subset.eval()
    for key, value in subset.state_dict().items():
        torch.testing.assert_close(weighted.state_dict()[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", STATEFUL)
def test_weights_leave_output_and_gradient_alone(spec):
    module, x = used(spec).train(), batch(3).requires_grad_()
    plain = module(x)
    [plain_gradient] = torch.autograd.grad(plain.square().sum(), x)
    with observation_weights(module, torch.rand(40)):
        weighted = module(x)
    [gradient] = torch.autograd.grad(weighted.square().sum(), x)
    assert torch.equal(weighted, plain)
    assert torch.equal(gradient, plain_gradient)
