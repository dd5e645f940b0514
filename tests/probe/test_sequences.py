"""Time steps, gates and masks: what is counted on, what begins anew, and what is padding."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from rn_rl import CodeLengthProbe
from rn_rl.errors import UserError
from rn_rl.probe import ProbeLog, probed

GATES = [f"{layer}.{part}" for layer in ("a", "b") for part in "ifgoc"]


class Stacked(nn.Module):
    """A GRU and two LSTMs, called by position or by name."""

    def __init__(self, by_name=False):
        super().__init__()
        self.gru, self.a, self.b = nn.GRU(3, 4), nn.LSTM(4, 4), nn.LSTM(4, 4)
        self.by_name = by_name

    def forward(self, x):
        x = self.gru(x)[0]
        x = self.a(input=x)[0] if self.by_name else self.a(x)[0]
        return self.b(x)[0]


class Padded(nn.Module):
    """Tokens to classes, a layer for each step."""

    def __init__(self, batch_first=True):
        super().__init__()
        self.embed = nn.Embedding(10, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 6, batch_first=batch_first)
        self.norm, self.act, self.head = nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.act(self.norm(self.lstm(self.embed(x))[0])))


class Siamese(nn.Module):
    """One LSTM for two sequences."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, one, other):
        return self.lstm(one)[0] - self.lstm(other)[0]


def layers(probe):
    return {name.partition("@")[0] for name in probe.code_lengths()}


def test_time_steps_that_did_not_occur_are_neither_dead_nor_dormant():
    net = nn.LSTM(3, 4, batch_first=True)
    log = ProbeLog()
    with CodeLengthProbe(net) as probe:
        for t, steps in enumerate((9, 9, 3)):
            net(torch.randn(8, steps, 3))
            probe.end_phase()
            log.append(t, probe.readings())
    arrays = log.arrays()
    for name in ("dead", "dormant"):
        assert np.isfinite(arrays[name][:2]).all() and np.isfinite(arrays[name][2, :3]).all()
        assert np.isnan(arrays[name][2, 3:]).all(), name


@pytest.mark.parametrize("by_name", [False, True])
def test_every_lstm_has_gates_in_every_phase(by_name):
    net = Stacked(by_name)
    with CodeLengthProbe(net, recompute_gates=True, batches=1) as probe:
        for _ in range(3):
            net(torch.randn(5, 7, 3))
            net(torch.randn(5, 7, 3))  # gates are of the first batch
            probe.commit()
            assert layers(probe) == {"gru", "a", "b", *GATES}
            codes = dict(
                zip(probe.readings().names, probe.readings().values["code"][0], strict=True)
            )
            assert all(np.isfinite(codes[f"{name}@4"]) for name in GATES)
        slot = probe._states.slots["b.c"]
        assert probe._states.state[2, slot.first] == 3 * 7 * 4


def test_gates_of_a_layer_called_by_name_are_those_of_its_cells():
    lstm, state = nn.LSTM(3, 4), (torch.randn(1, 7, 4), torch.randn(1, 7, 4))
    x = torch.randn(5, 7, 3)
    found = []
    for call in (lambda: lstm(x, state), lambda: lstm(hx=state, input=x)):
        with CodeLengthProbe(lstm, recompute_gates=True) as probe:
            call()
            probe.commit()
            found.append(probe.readings().values["mean"])
    assert found[0].shape == (1, 30)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("time_first", [False, True])
@pytest.mark.parametrize("batch", [8, 12])
def test_padding_is_left_out_of_all_layers(time_first, batch):
    net = Padded(batch_first=not time_first)
    lengths = torch.arange(batch) % 4 + 1
    mask = torch.arange(12)[None] < lengths[:, None]
    x = torch.randint(1, 10, (batch, 12)) * mask
    with CodeLengthProbe(net, measures=("code", "moments", "dead", "rank")) as probe:
        with probe.sequences(mask):
            net(x.T if time_first else x)
        probe.commit()
    found = dict(zip(probe.readings().names, probe.readings().values["mean"][0], strict=True))
    embedded = net.embed(x)
    hidden = net.lstm(embedded.transpose(0, 1) if time_first else embedded)[0]
    hidden = hidden.transpose(0, 1) if time_first else hidden
    head = net.head(net.act(net.norm(hidden)))
    for name, output in (("embed", embedded), ("norm.out", net.norm(hidden)), ("head", head)):
        expected = output.detach()[mask].mean().item()
        assert found[name] == pytest.approx(expected, rel=1e-5, abs=1e-7), name
    assert [n for n in found if n.startswith("lstm")] == [f"lstm@{t}" for t in range(4)]


def test_a_mask_that_fits_no_recurrent_layer_is_named():
    net = nn.LSTM(3, 4, batch_first=True)
    mask = torch.ones(6, 9, dtype=torch.bool)
    with CodeLengthProbe(net) as probe:
        for wrong in (mask.T, mask[:, :5]):
            with (
                pytest.raises(UserError, match=r"mask of shape \(\d, \d\): expected.*\(6, 9\), or"),
                probe.sequences(wrong),
            ):
                net(torch.randn(6, 9, 3))
        with probe.sequences(mask):
            net(torch.randn(6, 9, 3))
            lengths = torch.tensor([9, 5, 3, 2, 2, 1])
            net(pack_padded_sequence(torch.randn(6, 9, 3), lengths, batch_first=True))
        probe.commit()
    assert probe._states.state[2, [0, 8]].tolist() == [(6 + 6) * 4, (6 + 1) * 4]


@pytest.mark.parametrize("masked", [False, True])
def test_each_call_of_a_recurrent_layer_begins_at_step_0(masked):
    net = Siamese()
    mask = torch.ones(6, 5, dtype=torch.bool)
    with CodeLengthProbe(net, batches=2) as probe:
        if masked:
            probe.begin_sequences(mask)
        for _ in range(2):  # of four calls, two are observed
            net(torch.randn(6, 5, 3), torch.randn(6, 5, 3))
        assert list(probe.commit()) == [f"lstm@{t}" for t in range(5)]
    assert probe._states.state[2, :5].tolist() == 5 * [2 * 6 * 4]


def test_batches_that_add_up_to_one_update_do_not_add_steps():
    """The method that a Lightning module trains by is not its call."""
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4, batch_first=True)})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with probed(net, optimizer) as record:
        for _ in range(2):
            for _ in range(4):
                net["lstm"](torch.randn(6, 5, 3))[0].sum().backward()
            optimizer.step()
    assert record.columns == [f"lstm@{t}" for t in range(5)]


def test_a_sequence_in_parts_is_counted_on_where_it_is_said_or_fed_step_by_step():
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 4)})
    with CodeLengthProbe(net) as probe:
        for _ in range(3):
            net["lstm"](torch.randn(1, 6, 3))
        assert list(probe.commit()) == [f"lstm@{t}" for t in range(3)]
        with probe.sequences():
            for _ in range(3):
                net["lstm"](torch.randn(2, 6, 3))
        assert list(probe.commit()) == [f"lstm@{t}" for t in range(6)]
        net["lstm"](torch.randn(4, 6, 3))
        net["lstm"](torch.randn(1, 6, 3))  # goes on
        probe.commit()
        assert np.isfinite(probe.readings().values["code"][0]).tolist() == 5 * [True] + [False]
