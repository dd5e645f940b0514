"""With a half-life, the gain returns to its steady value after a jump of the input."""

import math

import pytest
import torch

from rn_rl.normalization import make_normalizers

FEATURES = 8


@pytest.mark.parametrize("half_life", [20, 50])
@pytest.mark.parametrize("name", ["rn", "rln", "rsn", "sn"])
def test_the_gain_is_steady_5_half_lives_after_a_jump(name, half_life):
    [norm] = make_normalizers(f"{name}({half_life})", FEATURES)
    steady = -math.log(1 - 2 ** (-1 / half_life))
    for scale in (1, 10, 1):  # of mean and deviation alike
        errors = []
        for _ in range(5 * half_life):
            norm.train()(scale * (torch.randn(64, FEATURES) + 1))
            errors.append((norm.eval().gain / steady - 1).abs())
        assert (errors[-1] < 0.15).all()
        if scale == 10:
            assert (errors[0] > 0.15).all()  # else there was nothing to come back from
