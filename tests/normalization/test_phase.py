"""The phase rule, for every normalizer in the registry that obeys it."""

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
from rn_rl.normalization.dispatch import SMALL

FEATURES = 8
STATEFUL = [row.name for row in REGISTRY.values() if row.stateful and row.phase_rule]
PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
FORGETFUL = ["rn(half_life=3)", "rln(half_life=3)", "bn(half_life=None)", "uan(half_life=None)"]


def batch(t=0.0, rows=40):
    return torch.randn(rows, FEATURES) * (1 + t) + t


def bits(module):
    return {key: value.numpy().tobytes() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL)
def test_training_forwards_change_what_is_pending_and_nothing_else(spec, used):
    module = used(spec).train()
    before = bits(module)
    for t in range(3):
        module(batch(t))
    changed = {key for key, value in bits(module).items() if value != before[key]}
    assert changed and all("pending_" in key for key in changed)


@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL)
def test_the_state_moves_at_the_commit_and_pending_is_cleared(spec, used):
    module = used(spec).train()
    before = bits(module)
    module(batch(9))
    module.eval()
    changed = {key for key, value in bits(module).items() if value != before[key]}
    assert changed and all("running_" in key for key in changed)


@pytest.mark.parametrize("spec", PHASE_RULE)
def test_evaluation_forwards_change_no_bit(spec, used):
    module = used(spec)
    before = bits(module)
    for t in range(3):
        module(batch(t))
    module.eval()
    assert bits(module) == before


@pytest.mark.parametrize("phases", [0, 1, 2, 4])
@pytest.mark.parametrize("spec", STATEFUL + FORGETFUL + ["rn-paper", "rln-paper"])
def test_a_commit_with_nothing_pending_changes_no_bit(spec, phases, used, build):
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
def test_a_sample_gives_the_same_output_alone_and_in_a_batch(spec, training, used):
    module = used(spec).train(training)
    x = batch(2, rows=64)
    together = module(x)
    alone = torch.cat([module(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", PHASE_RULE)
def test_acting_and_learning_apply_the_same_function(spec, used):
    module = used(spec)
    x = batch(2)
    acting = module(x)
    assert torch.equal(module.train()(x), acting)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
@pytest.mark.parametrize("spec", STATEFUL)
def test_casts_leave_precision_and_value_of_the_state(spec, cast, used):
    module = used(spec).train()
    module(batch())
    before = {key: buffer.clone() for key, buffer in module.named_buffers()}
    getattr(module, cast)()
    assert before
    for key, buffer in module.named_buffers():
        assert buffer.dtype == torch.float64
        assert torch.equal(buffer, before[key])


@pytest.mark.parametrize("spec", STATEFUL)
def test_to_dtype_leaves_precision_and_value_of_the_state(spec, used):
    module = used(spec)
    before = {key: buffer.clone() for key, buffer in module.named_buffers()}
    module.to(torch.float32).to(torch.float64).to("cpu", torch.float16)
    assert all(torch.equal(buffer, before[key]) for key, buffer in module.named_buffers())


@pytest.mark.parametrize("spec", ["rn", "rln", "rsn"])
def test_a_cast_normalizer_goes_on_as_before(spec, used):
    cast, plain = used(spec).half(), used(spec)
    cast.load_state_dict(plain.state_dict())
    x = batch(3)
    cast.train()(x)
    plain.train()(x)
    assert bits(cast.eval()) == bits(plain.eval())


def through_state_dict(module, spec, build):
    fresh = build(spec)
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    return fresh


def through_pickle(module, spec, build):
    return pickle.loads(pickle.dumps(module))


def through_deepcopy(module, spec, build):
    return copy.deepcopy(module)


COPIES = [
    (spec, duplicate)
    for spec in [*REGISTRY, *FORGETFUL]
    for duplicate in (through_deepcopy, through_state_dict, through_pickle)
    # torch pickles no module whose weights are parametrized
    if not (duplicate is through_pickle and spec in ("wn", "spectral", "nap"))
]
MOVING = [*STATEFUL, *FORGETFUL, "rn-paper", "rln-paper"]


@pytest.mark.parametrize(("spec", "duplicate"), COPIES)
def test_a_copy_gives_the_same_output(spec, duplicate, used, build):
    module, x = used(spec), batch(1)
    assert torch.equal(duplicate(module, spec, build).eval()(x), module(x))


@pytest.mark.parametrize(("spec", "duplicate"), [c for c in COPIES if c[0] in MOVING])
def test_a_copy_in_the_middle_of_a_phase_is_exact(spec, duplicate, used, build):
    module = used(spec).train()
    module(batch(1))
    copied = duplicate(module, spec, build)
    assert bits(copied) == bits(module)
    rest = batch(2)
    module(rest)
    assert bits(copied) != bits(module)  # no shared memory
    copied(rest)
    assert bits(copied.eval()) == bits(module.eval())


@pytest.mark.parametrize("spec", ["rn", "rln", "bn", "uan"])
def test_a_target_takes_over_the_state_of_now_or_that_after_the_commit(spec, used, build):
    """As docs/concepts/phase-rule.md says: by ``adopt``, or by loading a ``state_dict``."""
    net, loaded, adopted = used(spec).train(), build(spec).eval(), build(spec).eval()
    for _ in range(2):
        net(batch(2))
    loaded.load_state_dict(net.state_dict())
    x = batch(1)
    adopted.load_state_dict({**adopted.state_dict(), **dict(net.named_parameters())})
    pairs = zip(phase_norms(net).values(), phase_norms(adopted).values(), strict=True)
    for source, copied in pairs:
        copied.adopt(source.running_state)
    assert torch.equal(adopted(x), net(x)) and not torch.equal(loaded(x), net(x))
    again = build(spec).train()
    again.load_state_dict(loaded.state_dict())
    assert torch.equal(loaded(x), again.eval()(x))


@pytest.mark.parametrize("spec", STATEFUL)
def test_weights_of_0_and_1_observe_the_subset(spec, used, build):
    weighted, subset = used(spec).double(), build(spec).double()
    subset.load_state_dict(weighted.state_dict())
    x, chosen = batch(3).double(), torch.arange(40) % 3 == 0
    with observation_weights(weighted, chosen.float()):
        weighted.train()(x)
    subset.train()(x[chosen])
    weighted.eval(), subset.eval()
    for key, value in subset.state_dict().items():
        torch.testing.assert_close(weighted.state_dict()[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", ["rn", "rln", "rsn"])
def test_weights_decide_what_is_observed(spec, used, build):
    weighted, plain = used(spec), build(spec)
    plain.load_state_dict(weighted.state_dict())
    x = batch(3)
    with observation_weights(weighted, torch.linspace(0, 1, 40)):
        weighted.train()(x)
    plain.train()(x)
    assert bits(weighted.eval()) != bits(plain.eval())


@pytest.mark.parametrize("size", [3, SMALL // FEATURES])
@pytest.mark.parametrize("spec", ["rn", "rln"])
def test_integer_weights_count_as_repetitions_in_images_too(spec, size, build):
    weighted, repeated = build(spec).double(), build(spec).double()
    for _ in range(3):
        x, times = torch.randn(5, FEATURES, 2, size).double(), torch.tensor([0, 1, 2, 3, 1])
        with observation_weights(weighted, times.float()):
            weighted.train()(x)
        repeated.train()(x.repeat_interleave(times, 0))
        weighted.eval(), repeated.eval()
    for key, value in repeated.state_dict().items():
        torch.testing.assert_close(weighted.state_dict()[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", STATEFUL)
def test_weights_leave_output_and_gradient_alone(spec, used):
    module, x = used(spec).train(), batch(3).requires_grad_()
    plain = module(x)
    [plain_gradient] = torch.autograd.grad(plain.square().sum(), x)
    with observation_weights(module, torch.rand(40)):
        weighted = module(x)
    [gradient] = torch.autograd.grad(weighted.square().sum(), x)
    assert torch.equal(weighted, plain)
    assert torch.equal(gradient, plain_gradient)


def test_a_function_is_asked_for_weights_at_each_forward(used, build):
    asking, given = used("rn").train(), build("rn").train()
    given.load_state_dict(asking.state_dict())
    weights = [torch.rand(40), None, torch.rand(40)]
    batches = [batch(t).double() for t in range(3)]
    queue = iter(weights)
    with observation_weights(asking, lambda: next(queue)):
        for x in batches:
            asking(x)
    assert next(queue, "empty") == "empty"
    for x, weight in zip(batches, weights, strict=True):
        with observation_weights(given, torch.ones(40) if weight is None else weight):
            given(x)
    for key, value in given.state_dict().items():
        torch.testing.assert_close(asking.state_dict()[key], value, rtol=1e-12, atol=0)


def test_weights_nest_and_are_restored(build):
    module = build("rn+rln")
    outer, inner = torch.ones(3), torch.zeros(3)

    def weights():
        return [norm.observation_weight for norm in phase_norms(module).values()]

    with observation_weights(module, outer):
        with observation_weights(module[1], inner):
            assert weights()[0] is outer and weights()[1] is inner
        assert all(weight is outer for weight in weights())
    assert weights() == [None, None]


def test_weights_are_restored_after_an_error(build):
    module = build("rn")
    with pytest.raises(KeyError), observation_weights(module, torch.ones(3)):
        raise KeyError
    assert [norm.observation_weight for norm in phase_norms(module).values()] == [None]


@pytest.mark.parametrize("spec", [*STATEFUL, "rn-paper", "rln-paper"])
def test_a_frozen_normalizer_neither_observes_nor_commits(spec, used):
    module = used(spec).train()
    module(batch(1))
    for norm in phase_norms(module).values():
        norm.freeze()
    before = bits(module)
    for t in range(3):
        module.train()(batch(t))
        module.eval()
    for norm in phase_norms(module).values():
        norm.commit()
    assert bits(module) == before
    for norm in phase_norms(module).values():
        norm.freeze(False)
    module.train()(batch(1))
    module.eval()
    assert bits(module) != before


@pytest.mark.parametrize("spec", STATEFUL)
def test_what_was_pending_when_frozen_is_committed_after_it(spec, used, build):
    module, plain = used(spec), build(spec)
    plain.load_state_dict(module.state_dict())
    x = batch(3)
    module.train()(x)
    plain.train()(x)
    for frozen in (True, False):
        for norm in phase_norms(module).values():
            norm.freeze(frozen)
        module.train()
        module.eval()
    assert bits(module) == bits(plain.eval())


@pytest.mark.parametrize("spec", [*STATEFUL, "rn-paper", "rln-paper"])
def test_reset_gives_a_new_normalizer(spec, used, build):
    module = used(spec).train()
    module(batch())
    assert bits(module) != bits(build(spec))
    for norm in phase_norms(module).values():
        norm.reset_running_state()
    assert bits(module) == bits(build(spec))


@pytest.mark.parametrize("spec", ["rn", "rln", "rsn", "logt", "ramp(5, 10)"])
def test_the_state_before_a_commit_can_be_applied_again(spec, used):
    module, x = used(spec), batch(2)
    before, before_bits = module(x), bits(module)
    module.train()(batch(3))
    module.eval()
    after, after_bits = module(x), bits(module)
    with state_before_commit(module):
        assert torch.equal(module(x), before)
        assert bits(module) == before_bits
    assert torch.equal(module(x), after)
    assert bits(module) == after_bits
    assert not torch.equal(before, after)


def test_the_state_after_the_commit_comes_back_after_an_error(used):
    module = used("rn")
    after = bits(module)
    with pytest.raises(KeyError), state_before_commit(module):
        raise KeyError
    assert bits(module) == after


@pytest.mark.parametrize("spec", STATEFUL)
def test_a_commit_writes_into_the_same_memory(spec, used):
    """SB3's lists of buffers and shared memory refer to the tensors, not to the module."""
    module = used(spec)
    before = [buffer.data_ptr() for buffer in module.buffers()]
    module.train()(batch(3))
    module.eval()
    assert [buffer.data_ptr() for buffer in module.buffers()] == before


@pytest.mark.parametrize("spec", STATEFUL)
def test_state_and_pending_are_saved(spec, build):
    module = build(spec)
    assert {key.split(".")[-1] for key, _ in module.named_buffers()} <= {
        key.split(".")[-1] for key in module.state_dict()
    }
    assert any("running_" in key for key in module.state_dict())
    assert any("pending_" in key for key in module.state_dict())


def test_each_phase_norm_is_found_once():
    shared = make_normalizers("rn", FEATURES)[0]
    net = nn.ModuleDict(
        {
            "a": shared,
            "b": shared,
            "c": nn.Sequential(nn.ReLU(), *make_normalizers("rln", FEATURES)),
        }
    )
    assert list(phase_norms(net)) == ["a", "c.1"]
