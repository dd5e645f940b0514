"""Records: the factor of a phase, and those without a row."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.probe import CodeLengthProbe, ProbeLog, probed
from rn_rl.probe.records import checked_record


def drifting(half_life, rows=200, log=None):
    torch.manual_seed(0)
    net, log = nn.Sequential(nn.Linear(4, 8)), log or ProbeLog()
    with CodeLengthProbe(net, half_life) as probe, torch.no_grad():
        for t in range(rows):
            net[0].weight.add_(0.05 * torch.randn_like(net[0].weight))
            net(torch.randn(64, 4))
            probe.end_phase()
            log.append(t, probe.readings())
    return log


@pytest.mark.parametrize("half_life", [None, 5])
def test_a_record_says_by_how_much_a_phase_is_forgotten(half_life):
    log = drifting(half_life)
    decay = 1.0 if half_life is None else 2 ** (-1 / half_life)
    assert checked_record(log.arrays()).decay == pytest.approx(decay)
    other = ProbeLog()
    other.restore(log.state())
    assert other.arrays()["decay"] == log.arrays()["decay"]


def test_records_without_a_factor_are_read_as_those_that_never_forget():
    log = drifting(5, rows=3)
    arrays, state = log.arrays(), log.state()
    del arrays["decay"], state["decay"]
    assert checked_record(arrays).decay == 1
    other = ProbeLog()
    other.restore(state)
    assert "decay" not in other.arrays()
    drifting(5, rows=2, log=other)  # goes on
    assert other.arrays()["decay"] == pytest.approx(2**-0.2)


@pytest.mark.parametrize("decay", [0.0, 1.5, np.nan])
def test_a_factor_out_of_range_is_damage(decay):
    arrays = {**drifting(None, rows=3).arrays(), "decay": np.array(decay)}
    with pytest.raises(
        ValueError, match=r"its decay is .*, expected a factor above 0 and at most 1"
    ):
        checked_record(arrays)


def test_a_record_without_rows_is_one():
    net = nn.Sequential(nn.Linear(4, 2))
    with probed(net) as record:
        arrays = record.arrays()
    assert arrays["code"].shape == arrays["residual"].shape == (0, 0)
    older = {name: arrays[name] for name in ("format", "columns", "timesteps")}
    for each in (arrays, older, ProbeLog().state()):
        assert len(checked_record(each).timesteps) == 0
    other = ProbeLog()
    other.restore(ProbeLog().state())
    assert len(drifting(None, rows=2, log=other)) == 2
