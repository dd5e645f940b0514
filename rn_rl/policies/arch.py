"""``net_arch`` of the Norm policies: one spelling for all algorithms, and the widths of the networks."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from rn_rl.errors import UserError
from rn_rl.policies.nets import PRESETS, net_of

ROLES = ("actor", "critic")


def resolve_arch(net: str, net_arch: Any, keys: tuple[str, str] | None) -> Any:
    """Return ``net_arch`` as SB3 takes it.

    Args:
        net: name of the network.
        net_arch: sizes for all networks of the policy; ``{"actor": sizes, "critic": sizes}``, or SB3's
            own keys; ``"paper"`` or ``"small"``; None: SB3's default, or ``"paper"`` for a network
            other than ``"mlp"``. Each of the two may be a name too.
        keys: SB3's keys for actor and critic; None if the policy has one network, a critic.

    Raises:
        UserError: the sizes do not fit the network, or a key is unknown.
    """
    if isinstance(net_arch, dict):
        net_arch = by_role(net_arch, keys)
    if net_of(net).body is None:
        return stock_arch(net, net_arch, keys)
    given = "paper" if net_arch is None else net_arch
    sizes = given if isinstance(given, dict) else dict.fromkeys(ROLES, given)
    if keys is None:
        return widths(net, sizes["critic"], "critic")
    missing = [role for role in ROLES if role not in sizes]
    if missing:
        raise UserError(f"net_arch {net_arch} with net {net!r}: no {missing[0]!r}; expected both")
    return {key: widths(net, sizes[role], role) for key, role in zip(keys, ROLES, strict=True)}


def stock_arch(net: str, net_arch: Any, keys: tuple[str, str] | None) -> Any:
    """Return ``net_arch`` of SB3's own layers; see :func:`resolve_arch`."""
    old = isinstance(net_arch, list) and len(net_arch) == 1 and isinstance(net_arch[0], dict)
    if net_arch is None or (
        old and keys == ("pi", "vf")
    ):  # the old form of SB3's on-policy policies
        return net_arch
    if not isinstance(net_arch, dict):
        return widths(net, net_arch, "network")
    if keys is None:
        return widths(net, net_arch["critic"], "critic")
    missing = [role for role in ROLES if role not in net_arch]
    if missing and keys != ("pi", "vf"):  # there SB3 takes it for no layers
        raise UserError(f"net_arch {net_arch}: no {missing[0]!r}; expected both")
    return {
        key: widths(net, net_arch[role], role)
        for key, role in zip(keys, ROLES, strict=True)
        if role in net_arch
    }


def by_role(net_arch: dict[str, Any], keys: tuple[str, str] | None) -> dict[str, Any]:
    """Rename SB3's keys of a ``net_arch`` to ``"actor"`` and ``"critic"``.

    Raises:
        UserError: there is another key, or no sizes for the only network of the policy.
    """
    names = dict(zip(keys or (), ROLES, strict=False))
    found = {names.get(key, key): value for key, value in net_arch.items()}
    spare = sorted(set(found) - set(ROLES), key=str)
    if spare or (keys is None and "critic" not in found):
        expected = "sizes, or {'critic': sizes}, since this policy has one network"
        if keys is not None:
            pairs = [f"{{{a!r}: sizes, {b!r}: sizes}}" for a, b in (ROLES, keys)]
            expected = " or ".join(pairs)
        raise UserError(f"net_arch {net_arch}: expected {expected}")
    return found


def widths(net: str, sizes: Any, role: str) -> list[int]:
    """Return the sizes of the actor's or the critic's layers or blocks as a list.

    Raises:
        UserError: they are no whole numbers above 0, or do not fit the network.
    """
    found = net_of(net)
    if isinstance(sizes, str):
        if sizes not in PRESETS or found.body is None:
            hint = (
                f"a list or one of {', '.join(PRESETS)}" if found.body else "a list, as in [64, 64]"
            )
            raise UserError(f"net_arch {sizes!r} with net {net!r}: expected {hint}")
        papers = found.actor if role == "actor" else found.critic
        return list(papers if sizes == "paper" else found.small)
    if not (isinstance(sizes, Sequence) and all(map(is_size, sizes))):
        raise UserError(
            f"net_arch {sizes!r} of the {role}: expected whole numbers above 0, as in [64, 64]"
        )
    if found.body is not None and len(set(sizes)) != 1:
        raise UserError(
            f"net_arch {list(sizes)} with net {net!r}: it has blocks of one width; expected that width "
            "for each block, as in [128] or [512, 512]"
        )
    return list(map(int, sizes))


def is_size(value: Any) -> bool:
    """Return True for a whole number above 0, also one of NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0
