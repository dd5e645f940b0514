"""Properties that hold for any input: Hypothesis sends each example through the whole registry."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from rn_rl.normalization import REGISTRY, phase_norms

EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(500, marks=pytest.mark.slow)])
"""Number of examples: each goes through the whole registry."""


def holds(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


FEATURES = 3
LARGEST = 2.0**100
# what torch squares in float32, and what is kept as published
FINITE_UP_TO = dict.fromkeys(("ln", "gn"), 2.0**60) | dict.fromkeys(("rn-paper", "rln-paper"), 64)
PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
SPECS = [*REGISTRY, "rn(half_life=2)", "bn(half_life=None)"]


@pytest.fixture(scope="module")
def modules(build):
    return {spec: build(spec, FEATURES) for spec in SPECS if spec != "none"}


@pytest.fixture(scope="module")
def halves(build):
    return {spec: build(spec, FEATURES).half() for spec in PHASE_RULE if spec != "none"}


@pytest.fixture(scope="module")
def doubles(build):
    return {spec: build(spec, FEATURES).double() for spec in PHASE_RULE}


def after(module, history):
    """Reset the module, train it on this history, and return the outputs."""
    for norm in phase_norms(module).values():
        norm.reset_running_state()
    outputs = []
    for x in history:
        outputs.append(module.train()(x))
        module.eval()
    return outputs


def batches(largest, rows=4):
    numbers = st.floats(-largest, largest, width=32)
    return st.integers(1, rows).flatmap(
        lambda n: arrays(np.float32, (n, FEATURES), elements=numbers)
    )


def joined(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


@EXAMPLES
def test_finite_in_finite_out_and_a_row_is_the_same_as_a_batch_of_one(examples, modules):
    @holds(examples)
    @given(history=st.lists(batches(LARGEST), min_size=1, max_size=2), probe=batches(LARGEST))
    def law(history, probe):
        found, alone, together, products = {}, [], [], []
        for spec, module in modules.items():
            shrink = FINITE_UP_TO.get(spec, LARGEST) / LARGEST
            outputs = after(module, [torch.from_numpy(x * shrink) for x in history])
            x = torch.from_numpy(probe * shrink)
            y = module(x)
            state = [norm.running_state for norm in phase_norms(module).values()]
            found[spec] = joined([*outputs, y, *state])
            if isinstance(layer := module[0], nn.Linear):
                # a product of one row is added up in another order: it differs by the size of its terms
                terms = nn.functional.linear(x[0].abs(), layer.weight.abs(), layer.bias.abs())
                products.append((y[0] - module(x[:1])[0]) / terms)
            elif not spec.endswith("-paper"):
                together.append(y[0])
                alone.append(module(x[:1])[0])
        if not torch.cat([*found.values()]).isfinite().all():
            note(
                str({spec: values for spec, values in found.items() if not values.isfinite().all()})
            )
            raise AssertionError
        torch.testing.assert_close(joined(alone), joined(together), rtol=1e-5, atol=1e-30)
        assert joined(products).abs().max() < 4 * torch.finfo(torch.float32).eps

    law()


@EXAMPLES
def test_finite_in_finite_out_in_half_precision(examples, halves):
    @holds(examples)
    @given(history=batches(50), probe=batches(50))
    def law(history, probe):
        found = {}
        for spec, module in halves.items():
            outputs = after(module, [torch.from_numpy(history).half()])
            outputs.append(module(torch.from_numpy(probe).half()))
            assert all(y.dtype == torch.float16 for y in outputs), spec
            found[spec] = joined(outputs)
        if not torch.cat([*found.values()]).isfinite().all():
            note(
                str({spec: values for spec, values in found.items() if not values.isfinite().all()})
            )
            raise AssertionError

    law()


HOMOGENEOUS = ["none", "logt", "ramp", "gain", "yoked", "hs"]
"""f(a x) = a f(x) at a frozen state."""
IGNORE_SCALE = ["ln", "rms", "gn"]
"""f(a x) = f(x)."""
IGNORE_SHIFT = ["ln", "gn"]
"""f(x + b) = f(x)."""
STANDARDIZE = ["bn", "brn", "rsnorm"]
"""After training on a x + b, f(a x + b) equals f(x) after training on x."""
SAME_GAIN = ["rn", "rln", "rsn", "sn"]
"""After training on a x + b, f(a x + b) / (a x + b) equals f(x) / x after training on x."""
OWN_SCALE = ["uan", "wn", "spectral", "dyt", "nap"]
"""No such law: the mixture and dyt have a learned scale; the others change weights, see their tests."""


def test_every_normalizer_has_a_law():
    laws = HOMOGENEOUS + IGNORE_SCALE + STANDARDIZE + SAME_GAIN + OWN_SCALE
    assert sorted(laws) == sorted(PHASE_RULE)


def four_rows():
    numbers = st.integers(-64, 64).map(lambda n: n / 8)
    return arrays(np.float64, (4, FEATURES), elements=numbers)


@EXAMPLES
def test_scale_and_shift_do_what_is_documented(examples, doubles):
    @holds(examples)
    @given(x=four_rows(), past=four_rows(), scale=st.integers(0, 10), shift=st.integers(-100, 100))
    def law(x, past, scale, shift):
        # there eps is small beside every variance, and no number is 0
        assume(min(past.var(0).min(), past.var(), x.var(1).min()) > 0.05)
        x, past = torch.from_numpy(x + 1 / 16), torch.from_numpy(past)
        a, b = 2.0**scale, shift + 1 / 32
        history = [past, past.flip(0) * 0.5 + 1, past + 2]
        now, then = [], []

        def compare(spec, found, expected):
            now.append(found)
            then.append(expected)

        for spec, module in doubles.items():
            after(module, history)
            y = module(x)
            if spec in HOMOGENEOUS:
                compare(spec, module(a * x) / a, y)
            if spec in IGNORE_SCALE:
                compare(spec, module(a * x), y)
            if spec in IGNORE_SHIFT:
                compare(spec, module(x + b), y)
            if spec in STANDARDIZE + SAME_GAIN:
                after(module, [a * h + b for h in history])
                moved = module(a * x + b)
                rescaled = moved if spec in STANDARDIZE else moved / (a * x + b) * x
                compare(spec, rescaled, y)
        torch.testing.assert_close(joined(now), joined(then), rtol=1e-3, atol=1e-3)

    law()
