"""Evaluations and gains of run folders, as files of strangers may hold them."""

import math

import numpy as np
import pytest

from rn_rl.experiment.runs.records import is_rising


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([0, 5, 9], True),
        ([0.0, 5.5], True),
        ([7], True),
        ([], False),
        ([5, 5], False),
        ([9, 5], False),
        ([-1, 5], False),
        ([0, 4.6e20], False),
        ([0, math.inf], False),
        ([0, -math.inf, -math.inf], False),
        ([math.inf, math.inf], False),
        ([0, math.nan, 3], False),
        ([[0, 1]], False),
    ],
)
def test_timesteps_rise_and_are_finite(steps, expected):
    assert is_rising(np.array(steps)) == expected
