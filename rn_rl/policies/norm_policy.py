"""Base class of the Norm policies: SB3 policy classes that take ``norm=``.

They have the networks of SB3's policies, with the same initial weights for the same seed; only images
have other ones, whose hidden layers follow the convolutions directly. All arguments
are plain values, so a YAML file can give them: ``policy: rn_rl.policies.NormDQNPolicy``,
``policy_kwargs: {norm: rn}``.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import parse_spec, phase_norms, project_after_steps, unobserved
from rn_rl.normalization.controls import replay_by_name
from rn_rl.normalization.popart import PopArt, popart_layers
from rn_rl.policies.arch import resolve_arch
from rn_rl.policies.extractors import extractor_class, images_of_floats
from rn_rl.policies.layers import Hidden, activation
from rn_rl.policies.nets import check_norm, hidden_layers, net_of
from rn_rl.policies.observations import normalize_observations
from rn_rl.policies.optimizers import (
    ADAMW,
    attach_projections,
    check_weight_decay,
    decay_matrices,
    decay_nothing,
)

VALUE_NORMS = ("none", "popart")
"""Normalizers of values: none, or :class:`~rn_rl.normalization.popart.PopArt`."""


def observed_in_training(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context for a forward, in which nothing is observed if it trains without a gradient."""
    trains = not module.training or torch.is_grad_enabled()
    return contextlib.nullcontext() if trains else unobserved(module)


class TrainingExtractorMixin(BaseModel):
    """Normalizers in a features extractor of the user's own observe only forwards that train.

    As in :class:`~rn_rl.policies.layers.Hidden`: not SAC's next observations, nor TRPO's line search.
    """

    def extract_features(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        with observed_in_training(self):
            return super().extract_features(obs, *args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "optimizer" in vars(self):  # a copy of an optimizer has no hooks
            project_after_steps(self, vars(self)["optimizer"])


class NormPolicyMixin(TrainingExtractorMixin, BasePolicy):
    """Arguments of every Norm policy: normalizers, networks, observations, values, weight decay.

    Args:
        observation_space: see SB3.
        action_space: see SB3.
        lr_schedule: see SB3.
        args: further positional arguments of SB3's policy.
        norm: normalizer spec for every hidden layer, see :func:`rn_rl.make_normalizers`; default:
            that of the network, so ``"none"`` for ``"mlp"`` and ``"ln"`` for ``"simba"`` and
            ``"bronet"``.
        net: hidden layers: ``"mlp"`` (SB3's), ``"simba"``, ``"simbav2"`` or ``"bronet"``, see
            :mod:`rn_rl.policies.nets`.
        net_arch: as in SB3; ``{"actor": sizes, "critic": sizes}`` means the same in every algorithm.
            For networks other than ``"mlp"``, one width for each block, or ``"paper"`` (the default) or
            ``"small"``.
        obs_norm: normalizer spec for observations, such as ``"rsnorm"``, in place of ``VecNormalize``,
            see :class:`rn_rl.policies.observations.NormalizedObservations`; default: that of the network,
            ``"rsnorm"`` for ``"simba"`` and ``"simbav2"``.
        value_norm: ``"popart"``: output layers of values are scaled by the statistics of their targets,
            which the callback :class:`rn_rl.agents.ValueTargets` gives them. For DQN, QR-DQN, on-policy
            algorithms and SAC.
        weight_decay: decay of the matrices alone, by AdamW, which takes the place of Adam; another
            ``optimizer_class``, such as the RMSprop of A2C, adds the decay to the gradients. Default:
            that of the network, 1e-2 for ``"simba"`` and 1e-4 for ``"bronet"``; 0: none, whatever the
            default of the optimizer is. A 0 in ``optimizer_kwargs``, which A2C of SB3 puts there, changes
            nothing.
        features: the trunk before the hidden layers: ``"auto"`` (by the observation space),
            ``"mlp"``, ``"minigrid"``, ``"nature"`` or ``"dict"``.
        trunk_norm: normalizer spec for the convolutions of the trunk. Hidden layers that
            ``features_extractor_kwargs`` give the trunk by ``net_arch`` have no normalizer, unless
            ``norm`` is there too: ``{"net_arch": [32], "norm": "ln"}``.
        activation_fn: class or name of the activation; None: SB3's default, or ReLU for networks other
            than ``"mlp"``.
        kwargs: further arguments of SB3's policy.

    Raises:
        UserError: a name is unknown, or two arguments do not fit together.
    """

    norm: str
    net: str
    obs_norm: str
    value_norm: str
    weight_decay: float | None
    arch_keys: tuple[str, str] | None = None
    """SB3's keys of actor and critic in ``net_arch``; None if there is a critic alone."""
    takes_popart: bool = True

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        norm: str | None = None,
        net: str = "mlp",
        obs_norm: str | None = None,
        value_norm: str = "none",
        weight_decay: float | None = None,
        features: str = "auto",
        trunk_norm: str = "none",
        activation_fn: str | type[nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        network = net_of(net)
        norm = network.norm if norm is None else norm
        obs_norm = network.obs_norm if obs_norm is None else obs_norm
        parse_spec(norm)
        check_obs_norm(obs_norm)
        check_norm(net, norm)
        check_value_norm(value_norm, net, self)
        check_weight_decay(weight_decay)
        if "features_extractor_class" in kwargs:
            for option, choice, usual in (
                ("features", features, "auto"),
                ("trunk_norm", trunk_norm, "none"),
            ):
                if choice != usual:
                    raise UserError(
                        f"{option}={choice!r} beside features_extractor_class: that class is the trunk; "
                        "expected one of the two"
                    )
        else:
            divided = kwargs.get("normalize_images", True)
            trunk = extractor_class(features, observation_space, divided)
            kwargs["features_extractor_class"] = trunk
            given = kwargs.get("features_extractor_kwargs") or {}
            kwargs["features_extractor_kwargs"] = {
                "net_arch": [],
                "trunk_norm": trunk_norm,
                **({"norm": norm} if "features_dim" in given else {}),  # a hidden layer
                **images_of_floats(trunk, divided),
                **given,
            }
        kwargs["net_arch"] = resolve_arch(net, kwargs.get("net_arch"), self.arch_keys)
        if kwargs["net_arch"] is None:
            del kwargs["net_arch"]
        if activation_fn is None and network.body is not None:
            activation_fn = nn.ReLU
        if activation_fn is not None:
            kwargs["activation_fn"] = activation(activation_fn)
        if features == "minigrid":
            kwargs.setdefault("normalize_images", False)
        decay = network.weight_decay if weight_decay is None else weight_decay
        given = kwargs.get("optimizer_kwargs")
        other = (given or {}).get("weight_decay")
        # a 0 there is not the user's: SB3's A2C puts it in
        if other and (decay or weight_decay == 0):
            raise UserError(
                f"optimizer_kwargs weight_decay={other} where weight_decay is {decay}: expected "
                f"policy_kwargs weight_decay={other} alone"
            )
        # QR-DQN gives Adam by itself, in which a decay would be added to the gradients
        if decay and kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs["optimizer_class"] = ADAMW
            if given is None and isinstance(self, ActorCriticPolicy):
                kwargs["optimizer_kwargs"] = {"eps": 1e-5}  # as SB3 gives it to Adam alone
        # before nn.Module exists, and before _build needs them
        own = {"norm": norm, "net": net, "obs_norm": obs_norm, "value_norm": value_norm}
        for name, value in {**own, "weight_decay": weight_decay}.items():
            object.__setattr__(self, name, value)
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        self.add_late_layers()
        self.match_recordings()
        if decay:
            decay_matrices(self, decay)
        elif weight_decay == 0:
            decay_nothing(self)
        attach_projections(self)

    def make_features_extractor(self) -> Any:
        extractor = super().make_features_extractor()
        return normalize_observations(self.observation_space, extractor, self.obs_norm)

    def _build(self, lr_schedule: Schedule) -> None:
        # what SB3 passes to the constructors of its networks
        for name in ("net_args", "actor_kwargs", "critic_kwargs"):
            if self.net != "mlp" and hasattr(self, name):
                getattr(self, name)["net"] = self.net
        own: Any = self
        if self.value_norm != "none" and hasattr(own, "net_args"):
            of_values = own.critic_kwargs if hasattr(own, "critic_kwargs") else own.net_args
            of_values["value_norm"] = self.value_norm
        super()._build(lr_schedule)  # type: ignore[misc]

    def add_late_layers(self) -> None:
        """Add what needs layers that SB3 makes after :meth:`_build`; here nothing."""

    def match_recordings(self) -> None:
        """Let ``yoked(RUN)`` replay, in each place, the layer of the same name in the recorded policy."""
        online = [item for item in phase_norms(self).items() if "_target." not in item[0]]
        # recordings of DQN and QR-DQN have names within the Q-network
        names = [re.sub(r"^(q_net|quantile_net)\.", "", name) for name, _ in online]
        if replay_by_name(zip(names, (norm for _, norm in online), strict=True)):
            for network, target in self.target_pairs():
                copy_state(network, target)

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs of an online network and its target."""
        names = ("q_net", "quantile_net", "actor", "critic")
        found = [name for name in names if hasattr(self, f"{name}_target")]
        return [(getattr(self, name), getattr(self, f"{name}_target")) for name in found]

    def set_training_mode(self, mode: bool) -> None:
        commits = self.training and not mode
        super().set_training_mode(mode)
        if commits:
            self.give_state_to_targets()

    def train(self, mode: bool = True) -> Any:
        """Set the mode, also for those who call ``policy.eval()`` in place of ``set_training_mode``."""
        commits = self.training and not mode
        super().train(mode)
        if commits:
            self.give_state_to_targets()
        return self

    def give_state_to_targets(self) -> None:
        """Let target networks follow a commit of the online ones: PopArt, whose outputs stay the same."""
        for online, target in self.target_pairs():
            for layer, copy in zip(popart_layers(online), popart_layers(target), strict=True):
                copy.adopt(layer.running_state)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        own = ("norm", "net", "obs_norm", "value_norm", "weight_decay")
        return {**parameters, **{name: getattr(self, name) for name in own}}


def check_obs_norm(obs_norm: str) -> None:
    """Raise :class:`UserError` for a spec that has no place before observations."""
    for term in parse_spec(obs_norm):
        if term.row.reparametrize is not None:
            raise UserError(
                f"obs_norm={obs_norm!r}: {term.row.name} changes the weights of a layer; expected a "
                "normalizer of activations, such as rsnorm"
            )


def check_value_norm(value_norm: str, net: str, policy: NormPolicyMixin) -> None:
    """Raise :class:`UserError` unless the policy can normalize its values so."""
    if value_norm not in VALUE_NORMS:
        raise unknown("value_norm", str(value_norm), VALUE_NORMS)
    if value_norm == "popart" and not type(policy).takes_popart:
        raise UserError(
            f"value_norm='popart' in {type(policy).__name__}: expected DQN, QR-DQN, SAC or an on-policy "
            "algorithm, whose targets are known"
        )
    if value_norm == "popart" and net_of(net).head is not None:
        raise UserError(
            f"value_norm='popart' with net {net!r}: PopArt rescales an output layer whose rows have "
            "length 1 here; expected mlp, simba or bronet"
        )


class NormNetworkMixin(TrainingExtractorMixin):
    """Network of a policy with normalizers in its hidden layers; its own ``save`` and ``load`` know them.

    Args:
        args: see the network of SB3 or sb3-contrib.
        norm: normalizer spec for every hidden layer.
        net: name of the hidden layers, see :mod:`rn_rl.policies.nets`.
        value_norm: normalizer of the output layer.
        kwargs: see the network of SB3 or sb3-contrib.
    """

    norm: str
    hidden: str
    """Name of the attribute with the layers, set by each class."""
    net_arch: list[int]

    def __init__(
        self,
        *args: Any,
        norm: str = "none",
        net: str = "mlp",
        value_norm: str = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.norm, self.net, self.value_norm = norm, net, value_norm
        layers = hidden_layers(getattr(self, self.hidden), net, norm, self.net_arch)
        setattr(self, self.hidden, with_value_norm(layers, value_norm))
        head = net_of(net).head
        for name in ("mu", "log_std"):  # output layers of an actor
            if head is not None and name != self.hidden and hasattr(self, name):
                setattr(self, name, head(getattr(self, name)))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        own = ("norm", "net", "value_norm")
        return {**parameters, **{name: getattr(self, name) for name in own}}


def with_value_norm(layers: nn.Sequential, value_norm: str) -> Hidden:
    """Put the normalizer of values on the last layer of a network."""
    if value_norm == "none":  # also without any layer
        return layers  # type: ignore[return-value]
    *before, last = layers
    if not isinstance(last, nn.Linear):
        return layers  # type: ignore[return-value]
    return Hidden(*before, PopArt(last).to(last.weight.device))


def freeze_normalizers(target: nn.Module) -> None:
    """Freeze the normalizers of a target network: their state is only ever copied from the online one."""
    for norm in phase_norms(target).values():
        norm.freeze()


@torch.no_grad()
def copy_state(online: nn.Module, target: nn.Module) -> None:
    """Copy the normalizer state of an online network to its target, in place."""
    for source, copy in zip(
        phase_norms(online).values(), phase_norms(target).values(), strict=True
    ):
        copy.adopt(source.running_state)
