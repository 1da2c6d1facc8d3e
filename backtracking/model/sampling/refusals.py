"""What the packed engine cannot run, and what to do instead."""

from collections.abc import Mapping

from backtracking.core.errors import InputError
from backtracking.model.reasoner import HookedReasoner

SLOWER = 'sample with engine="bridge", which is slower'


def check_one_device(model: HookedReasoner) -> None:
    """Refuse a model that is spread over several devices."""
    if len(model.devices) > 1:
        raise InputError(
            f"{model.name} is spread over {', '.join(map(str, model.devices))}, and the packed engine needs one "
            f"device; {SLOWER}, or load a smaller or quantized model on one GPU"
        )


def check_kept(model: HookedReasoner, layers: int) -> None:
    """Refuse an architecture that keeps keys and values in some layers only."""
    if layers != model.cfg.n_layers:
        raise InputError(
            f"{model.name} keeps keys and values in {layers} of its {model.cfg.n_layers} layers, so the packed engine "
            f"cannot run it; {SLOWER}"
        )


def steady_length(model: HookedReasoner) -> int | None:
    """Tokens up to which a key is the same in every longer text; none if it is in all."""
    config = model.plain.module.config
    limits: list[int] = []
    for name in ("rope_parameters", "rope_scaling"):
        given = getattr(config, name, None)
        if not isinstance(given, Mapping):
            continue
        for each in (given, *(part for part in given.values() if isinstance(part, Mapping))):
            kind = each.get("rope_type", each.get("type"))
            if kind == "longrope":
                original = each.get("original_max_position_embeddings")
                limits.append(int(original or config.original_max_position_embeddings))
            elif kind == "dynamic":
                limits.append(int(config.max_position_embeddings))
    return min(limits, default=None)


def check_length(model: HookedReasoner, tokens: int, what: str, remedy: str) -> None:
    """Refuse a text in which keys would depend on its length.

    Args:
        model: The reasoner.
        tokens: Of the longest text.
        what: It is, for the message.
        remedy: What to do instead, likewise.

    Raises:
        InputError: It is too long.
    """
    limit = steady_length(model)
    if limit is not None and tokens > limit:
        raise InputError(
            f"{what} has up to {tokens} tokens; beyond {limit} the rotary embeddings of {model.name} depend on how "
            f"long the text is, and rows of a batch would change one another; {remedy}"
        )
