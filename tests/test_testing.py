"""The importable checks pass what keeps the rules, and name the rule that another breaks."""

import pytest
import torch
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import REGISTRY, PhaseNorm, RegularityNorm, make_normalizers
from rn_rl.normalization.batch import BatchNorm
from rn_rl.normalization.running import RunningNorm
from rn_rl.testing import BrokenRule, check_normalizer


def of_row(name):
    def make(num_features):
        return make_normalizers(name, num_features)[0]

    return make


ROWS = [
    row.name
    for row in REGISTRY.values()
    if row.factory and row.phase_rule and row.recording is None and row.name not in ("brn", "uan")
]


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_table_pass(name):
    check_normalizer(of_row(name), images=True, pickles=True)


class StatisticsInForward(nn.BatchNorm1d):
    """torch's own, whose statistics move in every forward."""


class LostState(RegularityNorm):
    """A buffer that no target network gets."""

    def __init__(self, num_features):
        super().__init__(num_features)
        self.register_buffer("seen", torch.zeros(1, dtype=torch.float64))

    def commit(self):
        if self.pending_sums.any():
            self.seen += 1
        super().commit()


class Explodes(nn.Module):
    """Not finite for a constant sample."""

    def __init__(self, num_features):
        super().__init__()

    def forward(self, x):
        return x / (x - x.mean(1, keepdim=True)).norm(dim=1, keepdim=True)


class Branches(BatchNorm):
    """A Python branch on a tensor."""

    def apply_state(self, x):
        return x if self.running_state[2].sum() == 0 else super().apply_state(x)


class Transposes(nn.Module):
    def __init__(self, num_features):
        super().__init__()

    def forward(self, x):
        return x[:, :1]


class Stuck(BatchNorm):
    def next_state(self):
        return self.running_state


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (StatisticsInForward, "inherit from rn_rl.normalization.PhaseNorm"),
        (LostState, r"SB3 copies only tensors named running_\*"),
        (Explodes, "not finite"),
        (Branches, "cannot be stacked under torch.func.vmap"),
        (Transposes, "expected the same"),
        (Stuck, "whose state never moves"),
    ],
)
def test_a_broken_rule_is_named(factory, message):
    with pytest.raises(BrokenRule, match=message):
        check_normalizer(factory, pickles=False)


def test_a_class_that_is_no_module_is_one_line():
    with pytest.raises(UserError, match=r"dict is not a torch\.nn\.Module"):
        check_normalizer(dict)
    assert issubclass(BatchNorm, PhaseNorm)


class AppliesPending(RunningNorm):
    """In training, the second minibatch of a phase passes another function than the first."""

    def forward(self, x):
        if self.training:
            x = x + self.pending_sums[1].to(x.dtype) * 1e-3
        return super().forward(x)


SHARED = torch.ones(8)


class SharesItsWeight(nn.Module):
    """All layers have one weight."""

    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(SHARED)

    def forward(self, x):
        return x * self.weight


class CopiesNothing(SharesItsWeight):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.weight = nn.Parameter(torch.ones(num_features))

    def __deepcopy__(self, memo):
        return self


class Detaches(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))

    def forward(self, x):
        return x.detach() * self.weight


class Nothing(nn.Module):
    def __init__(self, num_features):
        super().__init__()

    def forward(self, x):
        return x.detach() * 1

    def get_extra_state(self):
        return {"anything": 1}

    def set_extra_state(self, state): ...


class RefusesOne(nn.Module):
    def __init__(self, num_features, limit=1):
        super().__init__()
        if limit > 3:
            raise ValueError("too many")

    def forward(self, x):
        if len(x) == 1:
            raise ValueError("one row")
        return x * 1


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (AppliesPending, "training mode and evaluation mode give different outputs"),
        (SharesItsWeight, r"a copy by state_dict shares the memory of \['weight'\]"),
        (CopiesNothing, r"a copy by deepcopy shares the memory of \['weight'\]"),
        (Detaches, "no gradient reaches its input"),
        (Nothing, "no gradient reaches its input"),
        (RefusesOne, r"it raises ValueError \(one row\)"),
    ],
)
def test_faults_within_a_phase_in_memory_and_in_the_gradient_are_named(factory, message):
    with pytest.raises(BrokenRule, match=message):
        check_normalizer(factory, pickles=False)


@pytest.mark.parametrize(("key", "said"), [("limit", "too many"), ("other", "unexpected")])
def test_what_cannot_be_built_is_one_line(key, said):
    with pytest.raises(UserError, match=f"it cannot be built for 8 features.*{said}"):
        check_normalizer(RefusesOne, **{key: 5})
