"""Normalization of observations inside a policy, in place of ``VecNormalize``."""

from __future__ import annotations

import math
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rn_rl.normalization import make_normalizers
from rn_rl.policies.layers import Hidden


def is_normalized(space: spaces.Space) -> bool:
    """Return True for vectors and tables of numbers: not images (three axes), nor discrete parts."""
    return isinstance(space, spaces.Box) and len(space.shape) < 3 and not is_image_space(space)


class NormalizedObservations(BaseFeaturesExtractor):
    """Features extractor that normalizes observations first.

    The state of the normalizer is part of the policy: it is saved with it, obeys the phase rule, and is
    copied to target networks. Replay buffers store observations as the environment gives them, so a
    replayed one is normalized by the present state. Of a dict, each part of numbers has a normalizer of
    its own. Images, and discrete parts, which SB3 makes one-hot, are left alone.

    Args:
        observation_space: space of the observations.
        extractor: what follows.
        norm: normalizer spec, such as ``"rsnorm"``.
    """

    def __init__(
        self, observation_space: spaces.Space, extractor: BaseFeaturesExtractor, norm: str
    ) -> None:
        super().__init__(observation_space, extractor.features_dim)
        parts: dict[str, Any] = {"": observation_space}
        if isinstance(observation_space, spaces.Dict):
            parts = dict(observation_space.spaces)
        self.keys = [key for key, space in parts.items() if is_normalized(space)]
        sizes = [math.prod(parts[key].shape) for key in self.keys]
        self.norms = nn.ModuleList(Hidden(*make_normalizers(norm, size)) for size in sizes)
        self.extractor = extractor

    def __getattr__(self, name: str) -> Any:
        """Return an attribute that only the extractor has, for code that knows the extractor."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            extractor = self.__dict__.get("_modules", {}).get(
                "extractor"
            )  # not yet, while unpickled
            if extractor is None:
                raise
            return getattr(extractor, name)

    def forward(self, observations: Any) -> Tensor:
        found = observations
        for key, norm in zip(self.keys, self.norms, strict=True):
            x = observations[key] if key else observations
            y = norm(x.flatten(1)).reshape(x.shape)
            found = {**found, key: y} if key else y
        features: Tensor = self.extractor(found)
        return features


def normalize_observations(
    observation_space: spaces.Space, extractor: BaseFeaturesExtractor, norm: str
) -> BaseFeaturesExtractor:
    """Put a normalizer before an extractor, if there is a part of the observations to normalize."""
    if norm == "none":
        return extractor
    normalized = NormalizedObservations(observation_space, extractor, norm)
    return normalized if len(normalized.norms) else extractor
