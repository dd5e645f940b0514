"""Rollout buffers that tell which rows they sampled last."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.vec_env import VecNormalize


class TellsRows(RolloutBuffer):
    """Mixin for SB3's rollout buffers that keeps the row numbers of the last minibatch."""

    last_rows: np.ndarray
    """Rows of the minibatch sampled last, ``(batch,)``; row ``env * steps + step``."""

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        self.last_rows = batch_inds
        return super()._get_samples(batch_inds, env)


class TellingRolloutBuffer(TellsRows):
    """SB3's ``RolloutBuffer``; see :class:`TellsRows`."""


class TellingDictRolloutBuffer(TellsRows, DictRolloutBuffer):
    """SB3's ``DictRolloutBuffer``; see :class:`TellsRows`."""
