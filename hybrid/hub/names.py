"""Other people's names for what a call may say, read as ours. docs/names.md is the table."""

from typing import Any

from hybrid.build import build
from hybrid.diffusion.policy import Policy
from hybrid.diffusion.stop import Stable

# LLaDA's `remasking` and Dream's `alg`, where their name for a policy is not ours.
POLICIES = {
    "low_confidence": "confidence",
    "maskgit_plus": "confidence",
    "topk_margin": "margin",
    "origin": "ancestral",
}


def one_of(**names: Any) -> Any:
    """The value of several names of one thing; None where none is given.

    Raises:
        ValueError: two that are.
    """
    given = {name: value for name, value in names.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are names of one thing: give one of them")
    return next(iter(given.values()), None)


def policy_named(
    policy: str | dict[str, Any] | None,
    *,
    threshold: float | None,
    editing_threshold: float | None,
    entropy_bound: float | None,
) -> Policy | None:
    """The policy of that name, with the fields that others give it by argument; None where nothing is said.

    A field alone says which policy is meant: threshold, edit (with editing_threshold) or entropy_bound.

    Raises:
        ValueError: an unknown policy, or a field that it does not have.
    """
    fields = {"threshold": threshold, "edit": editing_threshold, "bound": entropy_bound}
    given = {name: value for name, value in fields.items() if value is not None}
    meant = {"threshold": "threshold", "edit": "edit", "bound": "entropy_bound"}
    if policy is None and not given:
        return None
    section: dict[str, Any] = dict(policy) if isinstance(policy, dict) else {"kind": policy or meant[list(given)[-1]]}
    section["kind"] = POLICIES.get(section.get("kind", ""), section.get("kind"))
    return build(Policy, section | given, "policy")


def stop_named(stability_threshold: int | None, confidence_threshold: float | None) -> Stable | None:
    """The stopping rule of transformers' DiffusionGemma, with its defaults; None where nothing is said.

    stability_threshold: predictions before this one that were the same, where `Stable` counts this one too.
    """
    if stability_threshold is None and confidence_threshold is None:
        return None
    before = 1 if stability_threshold is None else stability_threshold
    return Stable(before + 1, 0.005 if confidence_threshold is None else confidence_threshold)
