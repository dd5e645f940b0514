"""Parameters whose norm is fixed: they are scaled back to it after each step of an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SMALLEST = 1e-12
"""Smallest norm to divide by: parameters that are all 0 stay 0."""


class FixedNorm(nn.Module):
    r"""Parametrization that leaves a weight as it is and remembers its norm, for projections.

    After each optimizer step, :func:`project` scales the weight back to the norm it was initialized with:

    .. math:: W \leftarrow W \, |W_0| / |W|,

    with Frobenius norms. Under a scale-invariant normalizer this changes no output; it keeps the
    *effective* learning rate, ``lr / |W|^2``, from falling as the weight grows.

    Args:
        weight: the weight. Assigning another one, as an initialization does, sets a new norm.

    State:
        ``fixed_norm``: a persistent scalar buffer, which no training changes.

    Source: Normalize-and-Project (NaP), Lyle et al., arXiv 2407.01800, 2024. The idea was checked against
    the paper's abstract and against two public implementations, not against the authors' code, which is
    not public. They differ in how they treat the gains of LayerNorm; see :func:`nap`.
    """

    fixed_norm: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed_norm", torch.linalg.vector_norm(weight.detach()))

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Keep an assigned weight as it is and take its norm; torch calls this on assignment."""
        self.fixed_norm.copy_(torch.linalg.vector_norm(weight))
        return weight


def nap(layer: nn.Module) -> nn.Module:
    """Put a :class:`FixedNorm` on ``layer.weight``, in place; biases are left alone.

    :func:`~rn_rl.normalization.make_normalizers` also fixes the gains of the scale-invariant normalizers
    of the same spec: ``weight`` and ``bias`` of LayerNorm are scaled jointly to their initial norm
    ``sqrt(num_features)``. Before a homogeneous activation such as ReLU that is one scale factor.
    """
    # unsafe leaves out a trial forward, which has nothing to find in an identity
    norm = FixedNorm(layer.weight)  # type: ignore[arg-type]
    parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return layer


def fix_gains(norm: nn.Module) -> None:
    """Let projections scale the learned gains of a normalizer jointly to ``sqrt(num_features)``."""
    if isinstance(getattr(norm, "weight", None), nn.Parameter):
        norm.fixed_gains = True  # type: ignore[assignment]


class UnitRows(nn.Linear):
    """Linear layer each row of whose weight has length 1, initially and after each optimizer step.

    The rows start orthogonal where there are at most as many as inputs; a bias starts at 0 and is free.

    Source: ``HyperDense`` of SimbaV2 (arXiv 2502.15280), whose kernels are the transpose: their columns
    have length 1.
    """

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.orthogonal_(self.weight)
        self.weight.div_(torch.linalg.vector_norm(self.weight, dim=1, keepdim=True))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@dataclass(frozen=True)
class Constraint:
    """Parameters with a fixed norm.

    Attributes:
        names: names of the parameters, whose norm is taken jointly.
        norm: the norm, or the name of the buffer that has it.
        rows: True if each row of the (one) parameter has that norm.
    """

    names: tuple[str, ...]
    norm: float | str
    rows: bool = False


def constraints(module: nn.Module) -> list[Constraint]:
    """Find all parameters of a module whose norm is fixed."""
    found = []
    for path, part in module.named_modules():
        if isinstance(part, FixedNorm):
            chain = path.rpartition(".")[0]
            found.append(Constraint((f"{chain}.original",), f"{path}.fixed_norm"))
        elif isinstance(part, UnitRows):
            found.append(Constraint((f"{path}.weight".lstrip("."),), 1.0, rows=True))
        elif getattr(part, "fixed_gains", False):
            names = [n for n in ("weight", "bias") if getattr(part, n, None) is not None]
            norm = math.sqrt(part.weight.numel())
            found.append(Constraint(tuple(f"{path}.{n}".lstrip(".") for n in names), norm))
    return found


@torch.no_grad()
def project(
    fixed: Sequence[Constraint], tensor: Callable[[str], Tensor], stacked: bool = False
) -> None:
    """Scale parameters to their fixed norms, in place.

    Args:
        fixed: what :func:`constraints` found.
        tensor: returns the parameter or buffer of a name.
        stacked: tensors have a leading axis of networks, each of which is scaled by itself.
    """
    for each in fixed:
        parts = [tensor(name) for name in each.names]
        squares = [part.flatten(stacked + each.rows).square().sum(-1) for part in parts]
        norm = torch.stack(squares).sum(0).sqrt().clamp(min=SMALLEST)
        target = tensor(each.norm) if isinstance(each.norm, str) else each.norm
        scale = target / norm
        for part in parts:
            part.mul_(scale.reshape(scale.shape + (1,) * (part.dim() - scale.dim())))


class ProjectAfterStep:
    """Hook of an optimizer: scale the parameters that it has stepped to their fixed norms.

    Args:
        module: holds the parameters.
        optimizer: only parameters that it updates are scaled, so not those of target networks.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parameters = dict(module.named_parameters())
        self.module = module
        self.fixed = [
            each
            for each in constraints(module)
            if all(name in parameters and id(parameters[name]) in updated for name in each.names)
        ]
        self.parameters = {n: parameters[n] for each in self.fixed for n in each.names}

    def tensor(self, name: str) -> Tensor:
        """Return a parameter, or a buffer, which ``module.to`` may have replaced."""
        found = self.parameters.get(name)
        return self.module.get_buffer(name) if found is None else found

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        project(self.fixed, self.tensor)


def project_after_steps(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Register a :class:`ProjectAfterStep`, if the optimizer updates a parameter with a fixed norm."""
    hook = ProjectAfterStep(module, optimizer)
    if hook.fixed:
        optimizer.register_step_post_hook(hook)
