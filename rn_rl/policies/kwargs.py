"""``policy_kwargs()``: the argument that puts normalizers into unmodified SB3 classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import parse_spec
from rn_rl.policies.arch import widths
from rn_rl.policies.extractors import AutoExtractor, extractor_class, images_of_floats
from rn_rl.policies.layers import activation


class NoHiddenLayers(dict[str, Any]):
    """``net_arch`` of a policy whose hidden layers are all in its features extractor.

    It is empty, which SB3's policies with one network and its on-policy policies take as "no further
    layers". Policies of continuous actors and critics ask whether it has sizes for them. There no
    hidden layer would see the action, so that the critic would be linear in it: this raises.
    """

    def __contains__(self, key: object) -> bool:
        raise UserError(
            "policy_kwargs() in SAC, TD3, DDPG, TQC or CrossQ: the critic would be linear in the action; "
            "use the policy with norm=, such as SAC(NormSACPolicy, env, policy_kwargs={'norm': 'ln'})"
        )


NORM_POLICIES_ALONE = ("net", "obs_norm", "value_norm", "weight_decay", "lstm_norm")
"""Arguments of the Norm policies that stock policies do not take."""


def separate_nets(net_arch: dict[str, Sequence[int]]) -> Sequence[int]:
    """Return the sizes that actor and critic have in common.

    Raises:
        UserError: the sizes differ, or are of others than ``pi`` and ``vf``.
    """
    named = {
        {"actor": "pi", "critic": "vf"}.get(key, key): sizes for key, sizes in net_arch.items()
    }
    actor = widths("mlp", named.get("pi", ()), "actor")
    critic = widths("mlp", named.get("vf", ()), "critic")
    if not set(named) <= {"pi", "vf"} or actor != critic:
        raise UserError(
            f"policy_kwargs(net_arch={net_arch}): it has one network for actor and critic, or two of the "
            "same sizes, as in {'pi': [64, 64], 'vf': [64, 64]}; a Norm policy has any, as in "
            "PPO(NormActorCriticPolicy, env, policy_kwargs={'norm': 'ln', 'net_arch': ...})"
        )
    return actor


def policy_kwargs(
    norm: str,
    net_arch: Sequence[int] | dict[str, Sequence[int]] = (64, 64),
    activation_fn: str | type[nn.Module] = nn.ReLU,
    features: str = "auto",
    share_trunk: bool | None = None,
    trunk_norm: str = "none",
    **others: Any,
) -> dict[str, Any]:
    """Build ``policy_kwargs`` that put normalizers into an SB3 agent.

    **Not for SAC, TD3, DDPG, TQC and CrossQ**: the hidden layers move into a features extractor and
    ``net_arch`` becomes empty, which would make a continuous critic linear in the action; those refuse
    it with an error, and take the Norm policies, as do RecurrentPPO and ARS. It is right for DQN, QR-DQN,
    PPO, A2C, TRPO and MaskablePPO.

    Args:
        norm: normalizer spec such as ``"rn"`` or ``"ln+rn"``, see :func:`rn_rl.make_normalizers`.
        net_arch: sizes of the hidden layers, which all get normalizers. ``{"pi": sizes, "vf": sizes}``,
            as in SB3, or with the keys ``"actor"`` and ``"critic"``, gives actor and critic hidden layers
            of their own, of the same sizes, in on-policy algorithms.
        activation_fn: class or name (``"relu"``, ``"tanh"``, ...) of the activation.
        features: ``"mlp"``, ``"minigrid"`` (with ``ImgObsWrapper``), ``"nature"``, ``"dict"``, or
            ``"auto"``: ``"nature"`` for images, ``"dict"`` for dictionaries, else ``"mlp"``.
        share_trunk: on-policy algorithms only: whether actor and critic share the extractor (SB3's
            default, True) or have one each (False). Leave None for DQN and QR-DQN.
        trunk_norm: normalizer spec for the convolutions of ``"minigrid"`` and ``"nature"``, and of images
            in ``"dict"``; by default only the hidden layers after them get normalizers.
        others: further arguments of the policy, such as ``optimizer_kwargs``;
            ``features_extractor_kwargs`` are merged with those that are built here.

    Returns:
        A new dict in every call, since SB3 modifies the one it is given.

    Raises:
        UserError: the name of a normalizer, activation or extractor is unknown, ``net_arch`` has
            different sizes for actor and critic, is not one of sizes or is a dict with
            ``share_trunk=True``, ``others`` has a
            ``features_extractor_class`` or an argument of the Norm policies alone, or a spec has ``nap``,
            which needs a Norm policy.

    Example:
        >>> from stable_baselines3 import DQN
        >>> model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs("rn"))
    """
    for spec in (norm, trunk_norm):
        if any(term.row.projects for term in parse_spec(spec)):
            raise UserError(
                f"policy_kwargs({spec!r}): the optimizer of a stock policy does not scale weights back; "
                "use a Norm policy, such as DQN(NormDQNPolicy, env, policy_kwargs={'norm': 'ln+nap'})"
            )
    if "features_extractor_class" in others:
        raise UserError(
            f"features_extractor_class={others['features_extractor_class']!r}: policy_kwargs() sets it; "
            "use a Norm policy, such as NormDQNPolicy, which puts normalizers behind your extractor"
        )
    for name in NORM_POLICIES_ALONE:
        if name in others:
            raise UserError(
                f"policy_kwargs({name}={others[name]!r}): a stock policy does not take it; use a Norm "
                f"policy, such as DQN(NormDQNPolicy, env, policy_kwargs={{'norm': {norm!r}, ...}})"
            )
    if isinstance(net_arch, dict):
        if share_trunk:
            raise UserError(
                f"policy_kwargs(net_arch={net_arch}, share_trunk=True): actor and critic have hidden "
                "layers of their own; expected share_trunk=None, or net_arch as one list of sizes"
            )
        net_arch, share_trunk = separate_nets(net_arch), False
    extractor = AutoExtractor if features == "auto" else extractor_class(features)
    divided = others.get("normalize_images", True)
    kwargs: dict[str, Any] = {
        "features_extractor_class": extractor,
        "features_extractor_kwargs": {
            "norm": norm,
            "net_arch": widths("mlp", net_arch, "network"),
            "activation_fn": activation(activation_fn),
            **({"trunk_norm": trunk_norm} if trunk_norm != "none" else {}),
            **({"normalize_images": divided} if extractor is AutoExtractor and not divided else {}),
            **images_of_floats(extractor, divided),
            **(others.pop("features_extractor_kwargs", None) or {}),
        },
        "net_arch": NoHiddenLayers(),
    }
    if features == "minigrid":
        kwargs["normalize_images"] = False
    if share_trunk is not None:
        kwargs["share_features_extractor"] = share_trunk
    return {**kwargs, **others}
