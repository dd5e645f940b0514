"""Which layers are observed, under which names, and that each is the layer that it says."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from rn_rl import CodeLengthProbe
from rn_rl.errors import UserError
from rn_rl.normalization import make_normalizers


def drifting(t):
    return torch.randn(6, 5, 3) * (1 + t) + t


class Unrolled(nn.Module):
    """An LSTM cell over a sequence ``(batch, steps, features)``."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
            if isinstance(state, torch.Tensor):
                continue
        return state


def same_weights(cell, layer):
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, name).data.copy_(getattr(layer, f"{name}_l0").data)
    return cell


@pytest.mark.parametrize(
    ("layer", "cell"),
    [
        (nn.LSTM(3, 4, batch_first=True), nn.LSTMCell(3, 4)),
        (nn.GRU(3, 4, batch_first=True), nn.GRUCell(3, 4)),
        (nn.RNN(3, 4, batch_first=True), nn.RNNCell(3, 4)),
    ],
    ids=["lstm", "gru", "rnn"],
)
def test_a_recurrent_layer_by_time_step_equals_its_cells_unrolled(layer, cell):
    """In float64: the two round otherwise."""
    whole = nn.ModuleDict({"net": layer.double()})["net"]
    unrolled = Unrolled(same_weights(cell.double(), layer))
    gates = isinstance(layer, nn.LSTM)
    with (
        CodeLengthProbe(whole, recompute_gates=gates, measures=("code", "moments")) as one,
        CodeLengthProbe(unrolled, measures=("code", "moments")) as other,
    ):
        for t in range(6):
            x = drifting(t).double()
            whole(x), unrolled(x)
            one.commit(), other.commit()
            mine, theirs = one.readings(), other.readings()
            pairs = [(f"{type(layer).__name__}@{s}", f"cell@{s}") for s in range(5)]
            if gates:
                pairs += [(f"LSTM.c@{s}", f"cell.c@{s}") for s in range(5)]
            for here, there in pairs:
                i, j = mine.names.index(here), theirs.names.index(there)
                for name, values in mine.values.items():
                    expected = theirs.values[name][0, j]
                    assert values[0, i] == pytest.approx(
                        expected, rel=1e-9, abs=1e-9, nan_ok=True
                    ), name
        assert len({round(x, 3) for x in other.code_lengths().values()}) > 3


def test_steps_that_come_in_separate_calls_are_counted_on_and_padding_is_left_out():
    layer = nn.LSTM(3, 4)
    net = nn.ModuleList([layer])
    padded, lengths = torch.randn(5, 4, 3), torch.tensor([5, 3, 2, 1])
    mask = torch.arange(5)[None] < lengths[:, None]
    with CodeLengthProbe(net) as whole, CodeLengthProbe(copy.deepcopy(net)) as stepped:
        for _ in range(4):
            layer(pack_padded_sequence(padded, lengths))
            other, state = stepped._sites[0].module, None
            with stepped.sequences(mask):
                for x in padded:
                    _, state = other(x[None], state)
            assert stepped.commit() == pytest.approx(whole.commit(), rel=1e-6)
            padded = padded * 1.5
    assert list(whole.code_lengths()) == [f"0@{t}" for t in range(5)]


def test_steps_beyond_the_most_share_the_last_column():
    layer = nn.GRU(3, 4)
    with CodeLengthProbe(layer, max_steps=2) as probe:
        layer(torch.randn(7, 2, 3))
        assert list(probe.commit()) == ["GRU@0", "GRU@1"]
    assert probe._states.state[2].tolist() == [8, 48]


def test_normalizers_have_an_input_and_an_output_and_attention_an_output():
    net = nn.Sequential(nn.Linear(4, 4), *make_normalizers("ln+rn", 4), nn.ReLU())
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
    with CodeLengthProbe(net) as probe, CodeLengthProbe(attention) as other:
        net(torch.randn(9, 4))
        attention(torch.randn(2, 5, 4))
        assert list(probe.commit()) == ["0", "1.in", "1.out", "2.in", "2.out"]
        rank = probe.readings().values["rank"]
        assert rank[0, 2] == pytest.approx(rank[0, 3]) and 1 < rank[0, 0] <= 4
        assert probe.readings().values["gain"][0, 4] == 1
        expected = ["self_attn", "linear1", "linear2", "norm1.in", "norm1.out"]
        assert list(other.commit()) == [*expected, "norm2.in", "norm2.out"]


def test_layers_are_chosen_by_name_by_all_or_by_a_function():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 2), nn.Dropout(0)))

    def seen(layers):
        with CodeLengthProbe(net, layers=layers) as probe:
            net(torch.randn(3, 4))
            return list(probe.commit())

    assert seen(None) == ["0", "2.0"]
    assert seen("all") == ["0", "1", "2.0", "2.1"]
    assert seen(["2", "1"]) == ["1", "2"]
    assert seen(lambda name, module: isinstance(module, nn.ReLU)) == ["1"]
    with pytest.raises(UserError, match=r"unknown layer '3'.*known: 0, 1, 2, 2\.0"):
        seen(["3"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": ("code", "entropy")}, "unknown measure 'entropy'.*known: code, moments"),
        ({"modes": ("training",)}, "unknown mode 'training'"),
        ({"every": 0}, "every=0: expected at least 1"),
        ({"every": 2.5}, r"every=2\.5: expected a whole number of at least 1"),
        ({"batches": "8"}, "batches='8': expected a whole number of at least 1"),
        ({"max_steps": 0}, "max_steps=0: expected at least 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        CodeLengthProbe(nn.Linear(2, 2), **arguments)


def test_a_network_without_layers_to_observe_is_named():
    with pytest.raises(UserError, match="Sequential has no layer to observe: expected one with"):
        CodeLengthProbe(nn.Sequential(nn.ReLU(), nn.Flatten()))


def test_gates_of_a_deep_lstm_are_refused():
    with pytest.raises(UserError, match="recompute_gates=True: LSTM has 2 layers; expected one"):
        CodeLengthProbe(nn.LSTM(2, 3, num_layers=2), recompute_gates=True)


def test_dead_and_dormant_units_and_the_rank_are_those_of_the_activity():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        net[0].weight.zero_(), net[0].bias.zero_()
        net[0].weight[0, 0] = net[0].weight[1, 1] = 1
        net[0].weight[2, 2] = 0.01
        net[0].bias[3] = -1
    x = torch.randn(64, 3)
    with CodeLengthProbe(net, layers="all") as probe:
        net(x)
        probe.commit()
    found = probe.readings().values
    assert found["dead"].tolist() == [[0.25, 0.25]]
    assert found["dormant"].tolist() == [[0.5, 0.5]]
    rows = x[:, :2] - x[:, :2].mean(0)
    spectrum = torch.linalg.svdvals(rows) ** 2
    assert found["rank"][0, 0] == pytest.approx(
        float(spectrum.sum() ** 2 / (spectrum**2).sum()), rel=1e-3
    )


def test_channels_of_images_are_units():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    with torch.no_grad():
        net[0].bias[:] = torch.tensor([-9.0, 9.0])
        net[0].weight[:] = 0.1
    with CodeLengthProbe(net, measures=("code", "dead", "neurons")) as probe:
        for _ in range(3):
            net(torch.randn(4, 1, 3, 3))
            probe.commit()
    found = probe.readings()
    assert found.values["dead"][0, 0] == 0.5
    low, high = (found.values[f"neuron_{q}"][0] for q in ("low", "high"))
    assert (low <= high).all() and np.isfinite(low).all()


def test_dead_units_are_those_of_the_activation_and_output_layers_have_none():
    net = nn.Sequential(
        nn.Linear(2, 4), *make_normalizers("ln", 4), nn.ReLU(inplace=True), nn.Linear(4, 3)
    )
    with torch.no_grad():
        net[1].bias[:2], net[1].weight[:2] = -1, 0.0  # two units are below 0 after the normalizer
    with CodeLengthProbe(net) as probe:
        for _ in range(3):  # from the second phase on rows are summed later
            active = net[:3](torch.randn(64, 2))
            net(torch.randn(64, 2))
            probe.commit()
    found = dict(zip(probe.readings().names, probe.readings().values["dead"][0], strict=True))
    assert (active[:, :2] == 0).all()
    assert found["0"] == found["1.out"] == 0.5
    assert np.isnan([found["1.in"], found["3"]]).all()


def test_forwards_are_counted_by_layer():
    """TRPO evaluates the actor ten times before the critic is fitted."""
    net = nn.ModuleDict({"actor": nn.Linear(2, 2), "critic": nn.Linear(2, 1)})
    with CodeLengthProbe(net, batches=3) as probe:
        for _ in range(10):
            net["actor"](torch.randn(5, 2))
        net["critic"](torch.randn(5, 2))
        probe.end_phase()
        assert probe._states.state[2].tolist() == [3 * 5 * 2, 5]


def test_what_is_summed_later_equals_what_is_summed_at_once():
    net = nn.Sequential(nn.Linear(3, 8), *make_normalizers("ln", 8), nn.Tanh(), nn.Linear(8, 2))
    other = copy.deepcopy(net)
    with CodeLengthProbe(net) as later, CodeLengthProbe(other) as at_once:
        kept = []
        for t in range(40):
            x = torch.randn(20, 3) * (1 + t % 3)
            net(x), other(x)
            later.end_phase(), at_once.end_phase()
            kept.append((later.readings(), at_once.readings()))
            assert at_once.readings().values["code"].shape == (1, 4)
        for mine, theirs in kept:
            for name, values in theirs.values.items():
                np.testing.assert_allclose(mine.values[name], values, rtol=1e-12, err_msg=name)
    assert len({round(float(mine.values["code"][0, 0]), 6) for mine, _ in kept}) > 30


def test_nothing_is_attached_in_phases_that_are_not_observed():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with CodeLengthProbe(net, every=3) as probe:
        attached = []
        for _ in range(7):
            attached.append(bool(net[0]._forward_hooks) and bool(net[1]._forward_hooks))
            net(torch.randn(4, 2))
            probe.end_phase()
        assert attached == [True, False, False] * 2 + [True]
        assert probe._states.state[2].tolist() == [3 * 4 * 3]
