"""Whose activity is observed, and what is made of it: features, scales, numbers that are none."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.normalization import make_normalizers


class Own(nn.Module):
    """A layer with weights of its own and a child."""

    def __init__(self):
        super().__init__()
        self.weight, self.dropout = nn.Parameter(torch.randn(4, 4)), nn.Dropout(0.1)

    def forward(self, x):
        return nn.functional.linear(self.dropout(x), self.weight)


class Shifted(nn.Module):
    """A layer that returns what its child returned."""

    def __init__(self):
        super().__init__()
        self.shift, self.fc = nn.Parameter(torch.randn(4)), nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x + self.shift)


class Named(nn.Module):
    """Layers whose own names are those of the columns of other layers."""

    def __init__(self):
        super().__init__()
        self.fc, self.out, self.f = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.f(self.out(self.fc(x))))


def values(probe, measure):
    found = probe.readings()
    return dict(zip(found.names, found.values[measure][0], strict=True))


def test_a_batch_with_a_nan_is_left_out_of_dead_units_as_of_the_code():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        net[0].bias[0] = -100.0
    good, bad = torch.randn(16, 3), torch.randn(16, 3)
    bad[3, 1] = float("nan")
    with CodeLengthProbe(net) as probe:
        for batches in ((good,), (good, bad), (bad,), (good,)):
            for x in batches:
                net(x)
            probe.commit()
            found = [values(probe, name)["0"] for name in ("code", "dead", "dormant")]
            if batches[-1] is bad and len(batches) == 1:
                assert np.isnan(found).all()
            else:
                assert found[1] == 0.25 and np.isfinite(found).all()


@pytest.mark.parametrize("features", [1, 300])  # the sums of few are made in NumPy, later
@pytest.mark.parametrize("scale", [1e-3, 1e-6])
def test_activity_has_the_same_code_at_any_scale(scale, features):
    found = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, features, bias=False))
        with CodeLengthProbe(net, measures=("code", "moments", "neurons")) as probe:
            for t in range(20):
                net(factor * torch.randn(64, 4) * (1 if t < 15 else 3))
                probe.commit()
            found.append({name: probe.readings().values[name] for name in ("residual", "ratio")})
            found[-1]["neurons"] = probe.readings().values["neuron_median"]
    for name, one in found[0].items():
        np.testing.assert_allclose(found[1][name], one, rtol=1e-4, err_msg=name)
    assert found[0]["ratio"][0, 0] > 1.5


def test_constant_activity_has_no_scale():
    """With a constant output the variance is rounding, so a small step of the bias is no large shift."""
    net = nn.Sequential(nn.Linear(4, 8))
    nn.init.zeros_(net[0].weight)
    nn.init.constant_(net[0].bias, 100.0)
    with CodeLengthProbe(net) as probe, torch.no_grad():
        for _ in range(6):
            net(torch.randn(64, 4))
            probe.commit()
            net[0].bias += 1e-5
    assert abs(values(probe, "residual")["0"]) < 0.01
    assert values(probe, "ratio")["0"] < 1e-3


class RootMeanSquare(nn.Module):
    """A normalizer of one's own, over the last axis."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x):
        return self.weight * x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt()


@pytest.mark.parametrize(
    ("layer", "x", "column", "features"),
    [
        (nn.Embedding(10, 6), torch.randint(0, 10, (5, 7, 8)), "0", 6),
        (nn.RMSNorm(6), torch.randn(5, 7, 8, 6), "0.out", 6),
        (RootMeanSquare(6), torch.randn(5, 7, 8, 6), "0", 6),
        (nn.Linear(3, 6), torch.randn(5, 7, 8, 3), "0", 6),
        (nn.Conv2d(3, 6, 1), torch.randn(5, 3, 7, 8), "0", 6),
        (nn.GroupNorm(2, 6), torch.randn(5, 6, 7, 8), "0.out", 6),
        (make_normalizers("rn", 6)[0], torch.randn(5, 6, 7, 8), "0.out", 6),
    ],
    ids=["embedding", "rms", "own", "linear", "conv", "group", "phase"],
)
def test_features_of_images_are_on_the_axis_that_the_layer_has_them_on(layer, x, column, features):
    net = nn.Sequential(layer, nn.GELU())
    with CodeLengthProbe(net, layers="all") as probe:
        net(x)
        probe.commit()
        slots = probe._states.slots
        assert slots[column].features == slots["1"].features == features
        assert values(probe, "dead")[column] == values(probe, "dead")["1"] == 0


def test_pooled_channels_are_features():
    net = nn.Sequential(nn.Conv1d(3, 6, 1), nn.MaxPool1d(2))
    with CodeLengthProbe(net, layers="all") as probe:
        net(torch.randn(5, 3, 8))
        probe.commit()
        assert [slot.features for slot in probe._states.slots.values()] == [6, 6]


def test_an_expert_without_samples_has_no_column_until_it_gets_some():
    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "cell": nn.GRUCell(4, 4)})
    with CodeLengthProbe(net) as probe:
        net["a"](torch.randn(8, 4))
        net["b"](torch.randn(0, 4))
        net["cell"](torch.randn(0, 4))
        assert list(probe.commit()) == ["a"]
        net["b"](torch.randn(0, 4))
        net["b"](torch.randn(8, 4))
        assert list(probe.commit()) == ["a", "b"]
        assert probe.readings().names == ["a", "b"]
        codes = values(probe, "code")
        assert np.isnan(codes["a"]) and codes["b"] == pytest.approx(1)


def test_parts_with_weights_of_their_own_are_observed():
    net = nn.Sequential(Own(), nn.ReLU(), Shifted(), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(32, 4)
    with CodeLengthProbe(net, measures=("code", "moments", "dead", "step")) as probe:
        for _ in range(2):
            net(x)
            probe.commit()
    assert list(probe.code_lengths()) == ["0", "2", "2.fc", "4"]
    dead, mean = values(probe, "dead"), values(probe, "mean")
    assert dead["0"] == 0 and dead["2"] == dead["2.fc"] == 0 and np.isnan(dead["4"])
    assert mean["2"] == mean["2.fc"] and mean["0"] != mean["2"]
    assert values(probe, "step")["0"] == 0


def test_a_network_with_weights_of_its_own_is_none_of_its_layers():
    class Policy(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 4))
            self.log_std = nn.Parameter(torch.zeros(4))

    net = Policy()
    with CodeLengthProbe(net) as probe:
        assert [site.name for site in probe.sites] == ["0"]
    # nor are the weights of a parametrization
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with CodeLengthProbe(normed) as probe:
        assert [site.name for site in probe.sites] == ["0"]


def test_the_input_of_a_normalizer_called_by_name_is_observed():
    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(input=self.fc(x))

    net = Called()
    with CodeLengthProbe(net) as probe:
        for _ in range(3):
            x = torch.randn(32, 4)
            net(x)
            assert list(probe.commit()) == ["fc", "norm.in", "norm.out"]
    mean = values(probe, "mean")
    assert mean["norm.in"] == mean["fc"] == pytest.approx(net.fc(x).mean().item(), abs=1e-6)
    assert not any(part._forward_hooks_with_kwargs for part in net.modules())


def test_layers_named_as_columns_have_a_step_and_a_churn():
    net = nn.Sequential(Named(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(16, 4)
    with CodeLengthProbe(net, measures=("code", "step"), reference=x) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
            probe.commit()
    step, churn = values(probe, "step"), values(probe, "churn")
    assert list(step) == ["0.fc", "0.out", "0.f", "0.norm.in", "0.norm.out", "1"]
    assert all(0 < each < 1 for found in (step, churn) for each in found.values())
    assert step["0.norm.in"] == step["0.norm.out"] != step["0.out"]
