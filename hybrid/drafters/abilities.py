"""What each part asks of its network, checked once, before anything is trained."""

from hybrid.drafters.diffusion import Diffusion
from hybrid.drafters.drafter import Drafter
from hybrid.nets.family import shift_of
from hybrid.nets.network import Network
from hybrid.nets.pairing import Pairing


def check_abilities(drafter: Drafter, networks: Pairing) -> None:
    """Refuse networks that cannot do what their part needs.

    Raises:
        ValueError: naming the model's class, and what it can be instead.
    """
    decoder, own = networks.decoder, networks.drafter
    if not decoder.can_write:
        raise ValueError(
            f"backbone: {_name(decoder)} reads both ways, so it cannot write an answer token by token; it can be the "
            "drafter_backbone of pairing: separate"
        )
    if own is None:
        return
    if drafter.steps_matter and not own.can_denoise:
        raise ValueError(
            f"{_name(own)} carries a state from left to right, so it cannot denoise a canvas in both directions; it "
            "can be the backbone of pairing: separate, with another drafter_backbone, or of drafter: none"
        )
    if not drafter.steps_matter and not own.can_write:
        raise ValueError(f"drafter_backbone: {_name(own)} reads both ways, so it cannot write a sketch token by token")
    if networks.is_shared and not own.can_denoise:
        raise ValueError(f"{_name(own)} carries a state, which rows that end early would spoil; take pairing: separate")
    if isinstance(drafter, Diffusion):
        taught = shift_of(own)
        if taught is not None and taught != drafter.shift:
            where = "the position before it" if taught else "its own position"
            raise ValueError(
                f"shift={drafter.shift}: {_name(own)} was trained to predict a token at {where}; "
                f"set model.drafter.shift={str(taught).lower()}"
            )
        if drafter.anneal and not own.can_write:
            raise ValueError(f"anneal={drafter.anneal}: {_name(own)} looks both ways already; set it to 0")
        if drafter.self_condition and not own.reads_vectors:
            raise ValueError(f"self_condition={drafter.self_condition:g}: {_name(own)} reads tokens alone; set it to 0")
        if drafter.next_token and not own.can_write:
            raise ValueError(f"next_token={drafter.next_token:g}: {_name(own)} reads both ways; set it to 0")


def _name(network: Network) -> str:
    return type(network.model).__name__
