"""Policy classes with normalizers for PPO, A2C, TRPO, MaskablePPO and RecurrentPPO."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from rn_rl.normalization import (
    canonical_spec,
    make_normalizers,
    parse_spec,
    phase_norms,
)
from rn_rl.normalization.phase import set_within
from rn_rl.normalization.popart import PopArt
from rn_rl.policies.layers import Hidden
from rn_rl.policies.nets import hidden_layers, net_of, without_weights
from rn_rl.policies.norm_policy import NormPolicyMixin, observed_in_training
from rn_rl.policies.normalized_lstm import NormalizedLSTM
from rn_rl.policies.optimizers import rebuild


class NormOutputsMixin(NormPolicyMixin):
    """Replace the output layers of actor and critic where the network or ``value_norm`` has others."""

    value_net: Any
    action_net: Any
    arch_keys = ("pi", "vf")

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        head = net_of(self.net).head
        if head is not None:
            self.action_net, self.value_net = head(self.action_net), head(self.value_net)
        if self.value_norm == "popart":
            assert isinstance(self.value_net, nn.Linear)
            self.value_net = PopArt(self.value_net).to(self.device)
        if head is not None or self.value_norm != "none":
            rebuild(self)

    def heads(self, first: int = 0, between: int = 0) -> tuple[Hidden, Hidden]:
        """Build the hidden layers of actor and critic from those of SB3.

        Args:
            first: number of the first normalizer of the actor's layers, for recordings.
            between: number of normalizers between those of the actor and those of the critic.
        """
        built: Any = self.mlp_extractor
        found = []
        for layers in (built.policy_net, built.value_net):
            widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
            if net_of(self.net).body is not None or widths:
                layers = hidden_layers(layers, self.net, self.norm, widths, first)
            found.append(layers if isinstance(layers, Hidden) else Hidden(*layers))
            first += net_of(self.net).sites(len(widths)) + between
        return found[0], found[1]


class NormHeadsMixin(NormOutputsMixin):
    """Put normalizers into every hidden layer of actor and critic after the trunk."""

    mlp_extractor: MlpExtractor

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()  # type: ignore[misc]
        self.mlp_extractor.policy_net, self.mlp_extractor.value_net = self.heads()


class NormActorCriticPolicy(NormHeadsMixin, ActorCriticPolicy):
    """SB3's ``ActorCriticPolicy`` with normalizers in every hidden layer of actor and critic.

    As in SB3, actor and critic share the trunk (``share_features_extractor``) and have separate
    hidden layers (``net_arch``). For PPO, A2C and TRPO.
    """

    def get_distribution(self, obs: Any) -> Any:
        # SB3's passes by extract_features(); TRPO's line search asks for it without a gradient
        with observed_in_training(self):
            return super().get_distribution(obs)


class NormMaskableActorCriticPolicy(NormHeadsMixin, MaskableActorCriticPolicy):
    """sb3-contrib's ``MaskableActorCriticPolicy``, normalized like :class:`NormActorCriticPolicy`."""


class NormRecurrentActorCriticPolicy(NormOutputsMixin, RecurrentActorCriticPolicy):
    """sb3-contrib's ``RecurrentActorCriticPolicy`` with normalized recurrent features.

    Normalizers are placed after the LSTM of actor and critic and in every hidden layer that follows; with
    ``lstm_norm`` also inside each LSTM, before its hidden state is fed back.

    RecurrentPPO pads sequences to one length with rows of zeros. Normalizers do not observe them: rows
    at the end of a sequence whose observation, action and episode start are all zero count as padding.
    If a real sequence ends in such rows, they are missing from the statistics and from nothing else.

    Args:
        args: see SB3.
        lstm_norm: normalizer spec inside the LSTMs, such as ``"ln+rn(half_life=50)"``, see
            :class:`~rn_rl.policies.normalized_lstm.NormalizedLSTM`.
        kwargs: see :class:`~rn_rl.policies.norm_policy.NormPolicyMixin`.
    """

    lstm_norm: str

    def __init__(self, *args: Any, lstm_norm: str = "none", **kwargs: Any) -> None:
        parse_spec(lstm_norm)
        object.__setattr__(self, "lstm_norm", lstm_norm)  # before nn.Module exists
        super().__init__(*args, **kwargs)

    def add_late_layers(self) -> None:
        """Put the normalizers inside the LSTMs."""
        if canonical_spec(self.lstm_norm) == "none":
            return
        index = len(phase_norms(self))
        for name in ("lstm_actor", "lstm_critic"):
            lstm = getattr(self, name)
            if lstm is not None:
                setattr(self, name, NormalizedLSTM(lstm, self.lstm_norm, index))
                index += 1
        rebuild(self)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "lstm_norm": self.lstm_norm}

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        heads, width = self.mlp_extractor, self.lstm_output_dim
        # what changes weights applies to linear layers, so only to those that follow the LSTM
        acting = without_weights(self.norm)
        depth = sum(isinstance(layer, nn.Linear) for layer in heads.policy_net)
        numbers = (0, 1 + net_of(self.net).sites(depth))
        built = zip(numbers, ("policy_net", "value_net"), self.heads(1, between=1), strict=True)
        for first, name, layers in built:
            after_lstm = make_normalizers(acting, width, index=first)
            setattr(heads, name, Hidden(*after_lstm, *layers).to(self.device))

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: nn.LSTM
    ) -> Any:
        if not isinstance(lstm, NormalizedLSTM):
            return RecurrentActorCriticPolicy._process_sequence(
                features, lstm_states, episode_starts, lstm
            )
        n_seq = lstm_states[0].shape[1]
        x = features.reshape(n_seq, -1, lstm.input_size).swapaxes(0, 1)
        states, after = lstm(x, lstm_states, 1 - episode_starts.reshape(n_seq, -1))
        return states.swapaxes(0, 1).flatten(0, 1), after

    def evaluate_actions(  # type: ignore[override]
        self, obs: Tensor, actions: Tensor, lstm_states: RNNStates, episode_starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_seq = lstm_states.pi[0].shape[1]
        with also_weighted(self, real_rows(obs, actions, episode_starts, n_seq)):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)


@contextlib.contextmanager
def also_weighted(module: nn.Module, weights: Tensor) -> Iterator[None]:
    """Multiply the observation weights of each normalizer by others inside this context.

    Weights of another shape are left alone: the forward raises an error that says so.
    """
    with contextlib.ExitStack() as stack:
        for norm in phase_norms(module).values():
            own = norm.weights()
            if own is None:
                product = weights
            else:
                product = own * weights.to(own) if own.shape == weights.shape else own
            stack.enter_context(set_within([norm], "observation_weight", product))
        yield


def real_rows(obs: Any, actions: Tensor, episode_starts: Tensor, n_seq: int) -> Tensor:
    """Mask of real rows of padded sequences: 1 up to the last row that is not all zero, then 0.

    Args:
        obs: ``(rows, ...)``, or a dict of such; ``rows = n_seq * length``, sequence by sequence.
        actions: ``(rows, ...)``.
        episode_starts: ``(rows,)``.
        n_seq: number of sequences.

    Returns:
        ``(rows,)``, float64.
    """
    parts = [*(obs.values() if isinstance(obs, dict) else [obs]), actions, episode_starts]
    rows = len(episode_starts)
    nonzero = torch.stack([(part.reshape(rows, -1) != 0).any(1) for part in parts]).any(0)
    from_here_on = nonzero.reshape(n_seq, -1).flip(1).cummax(1).values.flip(1)
    from_here_on[:, 0] = True  # a sequence has at least one row
    return from_here_on.reshape(-1).to(torch.float64)
