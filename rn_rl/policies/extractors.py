"""Feature extractors: a trunk for the kind of observation, then hidden layers with normalizers.

With an empty ``net_arch`` an extractor is its trunk alone; the Norm policies use it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import (
    get_flattened_obs_dim,
    is_image_space,
    is_image_space_channels_first,
)
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    NatureCNN,
    create_mlp,
)
from torch import Tensor, nn

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import canonical_spec
from rn_rl.normalization.controls import replay_by_name
from rn_rl.policies.layers import activation, flat_size, normalized

MIN_SIDE = 36
"""Smallest height and width in pixels that the convolutions of the Nature DQN take."""


class NormExtractor(BaseFeaturesExtractor):
    """Trunk, then the ``net_arch`` hidden layers (the head), with normalizers before each activation.

    Extractors of images also take ``trunk_norm``, a normalizer spec for their convolutions.

    Args:
        observation_space: space of the observations.
        trunk: maps observations to ``(batch, trunk_dim)``.
        trunk_dim: number of features of the trunk.
        norm: normalizer spec for the head, see :func:`rn_rl.make_normalizers`.
        net_arch: sizes of the head's layers.
        activation_fn: class or name of the activation.

    Raises:
        UserError: a spec, name or space does not fit.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        trunk: nn.Module,
        trunk_dim: int,
        norm: str,
        net_arch: Sequence[int],
        activation_fn: str | type[nn.Module],
    ) -> None:
        super().__init__(observation_space, net_arch[-1] if net_arch else trunk_dim)
        self.trunk = trunk
        head = create_mlp(trunk_dim, 0, list(net_arch), activation(activation_fn))
        self.head = normalized(nn.Sequential(*head), norm, len(net_arch))
        # of a policy, the name of this extractor is known there alone
        replay_by_name((f"*extractor.{name}", part) for name, part in self.named_modules())

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(self.trunk(observations))


class MlpExtractor(NormExtractor):
    """Extractor for flat observations: ``net_arch`` hidden layers with normalizers."""

    def __init__(
        self,
        observation_space: spaces.Space,
        norm: str = "none",
        net_arch: Sequence[int] = (64, 64),
        activation_fn: str | type[nn.Module] = nn.ReLU,
        trunk_norm: str = "none",
        features_dim: int | None = None,
    ) -> None:
        without_convolutions("mlp", trunk_norm)
        if isinstance(observation_space, spaces.Dict):
            raise UserError(
                f"features='mlp' on observations {observation_space}: expected features='dict' or 'auto'"
            )
        if features_dim is not None:
            raise UserError(
                f"features_dim={features_dim} on observations {observation_space}: it is for images of "
                "bytes, or of floats with normalize_images=False; use net_arch for hidden layers"
            )
        size = int(get_flattened_obs_dim(observation_space))
        super().__init__(observation_space, nn.Flatten(), size, norm, net_arch, activation_fn)


class MinigridExtractor(NormExtractor):
    """Extractor for MiniGrid's 7x7x3 codes (``ImgObsWrapper``): 2x2 convolutions 16-32-64, then the head.

    ``features_dim`` puts a hidden layer of this size before those of ``net_arch``.

    The codes are 0 to 10 and must not be divided by 255: use ``normalize_images=False``, as
    :func:`rn_rl.policies.policy_kwargs` and the Norm policies do.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        norm: str = "none",
        net_arch: Sequence[int] = (64, 64),
        activation_fn: str | type[nn.Module] = nn.ReLU,
        trunk_norm: str = "none",
        features_dim: int | None = None,
    ) -> None:
        net_arch = [*([] if features_dim is None else [features_dim]), *net_arch]
        channels, height, width = image_shape(observation_space, "minigrid")
        if min(height, width) < 4:
            raise UserError(
                f"features='minigrid' on {height}x{width} images: three 2x2 convolutions need at "
                "least 4x4; use features='mlp'"
            )
        trunk = nn.Sequential(
            nn.Conv2d(channels, 16, 2), nn.ReLU(),
            nn.Conv2d(16, 32, 2), nn.ReLU(),
            nn.Conv2d(32, 64, 2), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        trunk = normalized(trunk, trunk_norm)
        size = flat_size(trunk, (channels, height, width))
        super().__init__(observation_space, trunk, size, norm, net_arch, activation_fn)


class NatureExtractor(NormExtractor):
    """Extractor for images: the convolutions of the Nature DQN (SB3's ``NatureCNN``), then the head.

    ``features_dim``, an argument of SB3's ``NatureCNN``, puts a hidden layer of this size before those
    of ``net_arch``.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        norm: str = "none",
        net_arch: Sequence[int] = (512,),
        activation_fn: str | type[nn.Module] = nn.ReLU,
        trunk_norm: str = "none",
        features_dim: int | None = None,
    ) -> None:
        net_arch = [*([] if features_dim is None else [features_dim]), *net_arch]
        shape = image_shape(observation_space, "nature")
        if min(shape[1:]) < MIN_SIDE:
            raise UserError(
                f"features='nature' on images of {shape[1]}x{shape[2]}: its convolutions need at "
                f"least {MIN_SIDE}x{MIN_SIDE}; use features='minigrid' or 'mlp'"
            )
        cnn = NatureCNN(observation_space, normalized_image=True).cnn
        trunk = normalized(cnn, trunk_norm)
        size = flat_size(trunk, shape)
        super().__init__(observation_space, trunk, size, norm, net_arch, activation_fn)


class DictExtractor(NormExtractor):
    """Extractor for dict observations: SB3's ``CombinedExtractor``, then the head.

    ``cnn_output_dim`` and ``normalized_image`` are arguments of ``CombinedExtractor``: with the second,
    parts with three axes are images whatever their numbers. It is True where the policy has
    ``normalize_images=False``, as in SB3. ``trunk_norm`` is for the convolutions of the images.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        norm: str = "none",
        net_arch: Sequence[int] = (64, 64),
        activation_fn: str | type[nn.Module] = nn.ReLU,
        trunk_norm: str = "none",
        cnn_output_dim: int = 256,
        normalized_image: bool = False,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict):
            raise UserError(
                f"features='dict' on observations {observation_space}: expected features='mlp', 'nature' "
                "or 'auto'"
            )
        for key, space in observation_space.spaces.items():
            if is_image_space(space, normalized_image=normalized_image):
                large_enough(f"the image {key!r} of a dict", space)
                if np.issubdtype(space.dtype, np.floating):
                    channels_first(f"the image {key!r} of a dict", space)
        trunk = CombinedExtractor(observation_space, cnn_output_dim, normalized_image)
        images = [part for part in trunk.extractors.values() if isinstance(part, NatureCNN)]
        if not images:
            without_convolutions("dict without images", trunk_norm)
        for image in images:
            image.cnn = normalized(image.cnn, trunk_norm)
        size = trunk.features_dim
        super().__init__(observation_space, trunk, size, norm, net_arch, activation_fn)


EXTRACTORS: dict[str, type[NormExtractor]] = {
    "mlp": MlpExtractor,
    "minigrid": MinigridExtractor,
    "nature": NatureExtractor,
    "dict": DictExtractor,
}


def extractor_class(
    features: str, observation_space: spaces.Space | None = None, normalize_images: bool = True
) -> type:
    """Look up an extractor class by name; ``"auto"`` chooses by the observation space.

    Args:
        features: the name.
        observation_space: for ``"auto"``.
        normalize_images: False says of floats in any range that they are images, as in SB3.

    Raises:
        UserError: the name is unknown, or ``"auto"`` gets float images whose channels come last.
    """
    if features == "auto":
        assert observation_space is not None
        if isinstance(observation_space, spaces.Dict):
            return DictExtractor
        images = is_image_space(observation_space) or is_float_image(
            observation_space, any_range=not normalize_images
        )
        return NatureExtractor if images else MlpExtractor
    if not isinstance(features, str) or features not in EXTRACTORS:
        raise unknown("features", str(features), [*EXTRACTORS, "auto"])
    return EXTRACTORS[features]


def images_of_floats(extractor: type, normalize_images: bool) -> dict[str, Any]:
    """Return the argument by which an extractor of dicts takes floats as images, as SB3's policies do."""
    return {"normalized_image": True} if extractor is DictExtractor and not normalize_images else {}


class AutoExtractor(NormExtractor):
    """The extractor for the observation space: Nature for images, Dict for dictionaries, else MLP.

    Calling the class returns an instance of one of these, with the same arguments.
    ``normalize_images`` is that of the policy, see :func:`extractor_class`.
    """

    def __new__(  # type: ignore[misc]
        cls, observation_space: spaces.Space, normalize_images: bool = True, **kwargs: Any
    ) -> NormExtractor:
        kind = extractor_class("auto", observation_space, normalize_images)
        kwargs = {**images_of_floats(kind, normalize_images), **kwargs}
        found: NormExtractor = kind(observation_space, **kwargs)
        return found


def is_float_image(space: spaces.Space, *, any_range: bool = False) -> bool:
    """Return True for large enough images of floats in [0, 1], which SB3 does not divide by 255.

    Args:
        space: observation space.
        any_range: also take other ranges, such as those of ``VecNormalize``.

    Raises:
        UserError: their channels come last. SB3 moves the channels of images of bytes alone.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return False
    if not np.issubdtype(space.dtype, np.floating) or sorted(space.shape)[1] < MIN_SIDE:
        return False
    if not any_range and not ((space.low == 0).all() and (space.high == 1).all()):
        return False
    channels_first("observations", space)
    return True


def channels_first(what: str, space: spaces.Space) -> None:
    """Raise a :class:`UserError` for an image of floats whose channels come last."""
    assert isinstance(space, spaces.Box)
    if not is_image_space_channels_first(space):
        raise UserError(
            f"{what} {space}: images of floats need their channels first, as in (3, 84, 84); move "
            "them with a wrapper, or use images of bytes, or features='mlp'"
        )


def large_enough(what: str, space: spaces.Space) -> None:
    """Raise a :class:`UserError` for an image that the Nature convolutions cannot take."""
    sides = sorted(space.shape or ())[1:]  # the smallest is that of the channels
    if min(sides) < MIN_SIDE:
        raise UserError(
            f"{what} has {sides[0]}x{sides[1]} pixels: the convolutions need at least "
            f"{MIN_SIDE}x{MIN_SIDE}; enlarge it, or flatten it with a wrapper"
        )


def without_convolutions(features: str, trunk_norm: str) -> None:
    """Raise a :class:`UserError` for a ``trunk_norm`` where the trunk has no convolutions."""
    if canonical_spec(trunk_norm) != "none":
        raise UserError(
            f"trunk_norm={trunk_norm!r}: features={features!r} has no convolutions; it is for "
            "'minigrid', 'nature', and images in 'dict'"
        )


def image_shape(space: spaces.Space, features: str) -> tuple[int, int, int]:
    """Return ``(channels, height, width)`` of an image space; raise a :class:`UserError` for others."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        raise UserError(
            f"features={features!r} on observations {space}: expected images of shape (channels, "
            "height, width); use features='mlp', or wrap MiniGrid in ImgObsWrapper"
        )
    channels, height, width = space.shape
    return channels, height, width
