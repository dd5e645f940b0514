"""Checks that a normalizer of your own keeps the rules of this library, for your tests.

>>> from rn_rl.normalization import RunningNorm
>>> check_normalizer(RunningNorm)
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rn_rl.engine.ensemble import ModuleStack
from rn_rl.errors import UserError, first_line
from rn_rl.normalization import phase_norms
from rn_rl.normalization.plugins import Factory, row_of

FEATURES = 8
BATCH = 40
PHASES = 3

Build = Callable[[], nn.Module]


class BrokenRule(AssertionError):
    """A normalizer breaks a rule; the message says which, and what usually mends it."""


def check_normalizer(
    factory: Factory, *, images: bool = False, pickles: bool = True, **arguments: object
) -> None:
    """Check a normalizer by the rules that Stable-Baselines3, seed batches and checkpoints rely on.

    - It is called with the number of features, and keeps the shape and dtype of its input.
    - An evaluation forward changes no tensor; a training forward changes pending sums alone; state moves
      at commits alone, and a commit with nothing pending changes no bit.
    - Acting and learning apply the same function within a phase, and a sample has the same output alone
      and in a batch.
    - Copies by ``state_dict``, ``deepcopy`` and pickle go on alike and share no memory.
    - Networks of several seeds, stacked under ``torch.func.vmap``, compute what single ones do.
    - Half precision stays half, and finite inputs give finite outputs, gradients and state: zeros,
      constant features, batches of one, large numbers; a NaN never enters the state.

    Args:
        factory: class of a Module, or a function that returns one.
        images: also check inputs ``(batch, features, height, width)``, as for ``trunk_norm``.
        pickles: whether it is expected to be pickled: a class inside a function cannot.
        arguments: arguments of the factory beside the number of features.

    Raises:
        BrokenRule: the first rule that it breaks.
        UserError: it is no class of Modules, or cannot be called with a number of features alone.
    """
    row_of(getattr(factory, "__name__", "normalizer"), factory)

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                made = factory(FEATURES, **arguments)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"it cannot be built for {FEATURES} features with {arguments or 'no arguments'} "
                    f"({type(error).__name__}: {first_line(error)})"
                ) from error
            kind = type(made).__name__
            require(isinstance(made, nn.Module), f"it returns {kind}, not a torch.nn.Module")
            return made

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            check_state(build)
            check_shapes(build, images)
            check_same_function(build)
            check_copies(build, pickles)
            check_stack(build)
            check_half(build)
            check_finite(build)
        except (BrokenRule, UserError):
            raise
        except Exception as error:
            raise BrokenRule(
                f"it raises {type(error).__name__} ({first_line(error)}); the traceback above says where"
            ) from error


def require(holds: bool, rule: str) -> None:
    """Raise :class:`BrokenRule` unless it holds."""
    if not holds:
        raise BrokenRule(rule)


def batch(phase: int = 0, rows: int = BATCH) -> Tensor:
    """Activations of one phase; mean and spread drift, differently for each feature."""
    return torch.randn(rows, FEATURES) * (1 + 0.3 * phase) + phase * torch.linspace(-1, 1, FEATURES)


def used(build: Build, phases: int = PHASES) -> nn.Module:
    """Return a normalizer after some phases, in evaluation mode."""
    module = build()
    for phase in range(phases):
        module.train()(batch(phase))
        module.eval()
    return module.eval()


def bits(module: nn.Module) -> dict[str, bytes]:
    """Return all tensors of a module as bytes, by name."""
    return {
        name: value.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)  # not what get_extra_state() adds
    }


def memory(module: nn.Module) -> dict[int, str]:
    """Return the names of the parameters and buffers by the address of their numbers."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {tensor.data_ptr(): name for name, tensor in tensors if tensor.numel()}


def is_state(name: str) -> bool:
    """Return True for the name of a buffer that moves."""
    return "running_" in name or "pending_" in name


def moved(module: nn.Module, before: dict[str, bytes]) -> set[str]:
    """Return the names of the tensors that changed."""
    return {name for name, value in bits(module).items() if value != before[name]}


def check_shapes(build: Build, images: bool) -> None:
    """The output has the shape and dtype of the input."""
    shapes = [(BATCH, FEATURES), (1, FEATURES), *([(4, FEATURES, 3, 2)] if images else [])]
    for shape in shapes:
        module, x = build(), torch.randn(shape)
        for training in (True, False):
            y = module.train(training)(x)
            require(isinstance(y, Tensor), f"its output is {type(y).__name__}, not a tensor")
            require(
                y.shape == x.shape and y.dtype == x.dtype,
                f"input {tuple(x.shape)} {x.dtype} gives {tuple(y.shape)} {y.dtype}: expected the same",
            )


def check_state(build: Build) -> None:
    """State moves at commits alone, and what is not observed changes no bit."""
    for phases in (0, PHASES):
        module = used(build, phases)
        stateful = bool(phase_norms(module))
        before = bits(module)
        module(batch(1))
        changed = moved(module, before)
        require(not changed, f"an evaluation forward changes {sorted(changed)}")
        module.train().eval()
        changed = moved(module, before)
        require(not changed, f"a commit with nothing pending changes {sorted(changed)}")
        module.train()(batch(2))
        changed = moved(module, before)
        inside = [n for n in changed if not stateful or "pending_" not in n]
        require(
            not inside,
            f"a training forward changes {sorted(inside)}: SB3 would act and learn with different "
            "networks; inherit from rn_rl.normalization.PhaseNorm, which moves state between phases",
        )
        module.eval()
        changed = moved(module, before)
        require(not stateful or bool(changed), "a PhaseNorm whose state never moves")
        spare = [n for n in changed if not is_state(n)]
        require(
            not spare,
            f"a commit changes {sorted(spare)}: SB3 copies only tensors named running_* to targets",
        )


def check_same_function(build: Build) -> None:
    """Acting and learning apply one function, to each sample by itself."""
    module, x = used(build), batch(1)
    acting = module(x)
    learner = copy.deepcopy(module).train()
    for _ in range(2):  # the second minibatch of a phase passes the function of the first
        torch_close(learner(x), acting, "training mode and evaluation mode give different outputs")
    rows = torch.cat([module(row[None]) for row in x])
    torch_close(rows, acting, "a sample has another output alone than in a batch")


def check_copies(build: Build, pickles: bool) -> None:
    """Copies in the middle of a phase go on alike and share no memory."""
    module = used(build).train()
    module(batch(1))
    fresh = build()
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    copies = {"state_dict": fresh.train(), "deepcopy": copy.deepcopy(module)}
    if pickles:
        stream = io.BytesIO()
        torch.save(module, stream)
        stream.seek(0)
        copies["pickle"] = torch.load(stream, weights_only=False)
    own = memory(module)
    for how, duplicate in copies.items():
        shared = sorted(own[at] for at in own.keys() & memory(duplicate).keys())
        require(not shared, f"a copy by {how} shares the memory of {shared} with the original")
    x = batch(2)
    before = {how: bits(duplicate) for how, duplicate in copies.items()}
    module(x)
    for how, duplicate in copies.items():
        require(bits(duplicate) == before[how], f"a copy by {how} shares memory with the original")
        duplicate(x)
    expected = module.eval()(x)
    for how, duplicate in copies.items():
        torch_close(duplicate.eval()(x), expected, f"a copy by {how} goes on differently")


def check_stack(build: Build) -> None:
    """Stacked under vmap, networks observe, commit and predict as they do alone."""
    singles = [nn.Sequential(nn.Linear(FEATURES, FEATURES), build()).double() for _ in range(3)]
    with torch.no_grad():
        for single in singles:
            for parameter in single.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    stack = ModuleStack(copy.deepcopy(singles))
    try:
        for phase in range(PHASES):
            x = torch.stack([batch(phase) for _ in singles]).double()
            stack.set_training_mode(True)
            together = stack.vmap_modules(lambda m, row: m(row), stack.tensors, x, training=True)
            alone = torch.stack([m.train()(row) for m, row in zip(singles, x, strict=True)])
            torch_close(together, alone, "networks stacked for a seed batch learn differently")
            stack.set_training_mode(False)
            for single in singles:
                single.eval()
            together = stack.vmap_modules(lambda m, row: m(row), stack.tensors, x)
            alone = torch.stack([m(row) for m, row in zip(singles, x, strict=True)])
            torch_close(together, alone, "networks stacked for a seed batch act differently")
    except (RuntimeError, TypeError, IndexError) as error:
        raise BrokenRule(
            "it cannot be stacked under torch.func.vmap for a seed batch "
            f"({str(error).splitlines()[0]}); use no Python branch on tensors, no .item(), and a state "
            "of shape (rows, codes)"
        ) from error


def check_half(build: Build) -> None:
    """Half precision gives finite halves, and the state keeps its own precision."""
    for dtype in (torch.float16, torch.bfloat16):
        module = used(build)
        precision = {name: b.dtype for name, b in module.named_buffers() if "running_" in name}
        module.to(dtype)
        for training in (True, False):
            y = module.train(training)(batch(1).to(dtype))
            require(y.dtype == dtype, f"an input of {dtype} gives {y.dtype}")
            require(
                bool(y.isfinite().all()), f"an input of {dtype} gives numbers that are not finite"
            )
        for name, buffer in module.named_buffers():
            require(
                precision.get(name, buffer.dtype) == buffer.dtype, f"{name} becomes {buffer.dtype}"
            )


def check_finite(build: Build) -> None:
    """Finite inputs give finite outputs, gradients and state; a NaN never enters the state."""
    inputs = {
        "zeros": torch.zeros(BATCH, FEATURES),
        "constant features": torch.ones(BATCH, FEATURES) * torch.arange(FEATURES),
        "a batch of one": batch(1, rows=1),
        "large numbers": 1e6 * batch(1),
        "small numbers": 1e-6 * batch(1),
    }
    for name, x in inputs.items():
        module = used(build, 1)
        for _ in range(2):
            rows = x.clone().requires_grad_()
            y = module.train()(rows)
            if y.requires_grad:
                y.square().mean().backward()
            require(rows.grad is not None, "no gradient reaches its input")
            finite = bool(y.isfinite().all()) and bool(rows.grad.isfinite().all())  # type: ignore[union-attr]
            require(finite, f"{name}: outputs or gradients are not finite")
            module.eval()
        tensors = [module(batch(1)), *module.state_dict().values()]
        require(
            all(bool(t.isfinite().all()) for t in tensors if isinstance(t, Tensor)),
            f"{name}: later outputs or state are not",
        )
    module = used(build)
    for bad in (float("nan"), float("inf")):
        x = batch(1)
        x[0, 0] = bad
        module.train()(x)
        module.eval()
    state = [norm.running_state for norm in phase_norms(module).values()]
    require(all(bool(s.isfinite().all()) for s in state), "a NaN or an infinity enters the state")
    require(
        bool(module(batch(1)).isfinite().all()), "after a batch with a NaN outputs are not finite"
    )


def torch_close(found: Tensor, expected: Tensor, rule: str) -> None:
    """Raise :class:`BrokenRule` unless two tensors are equal up to rounding."""
    try:
        torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-4, atol=1e-5)
    except AssertionError as error:
        raise BrokenRule(f"{rule} ({' '.join(str(error).split())[:200]})") from None
