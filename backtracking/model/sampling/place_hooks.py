"""Hooks on places of the plain model: what passes there is shown, and may be replaced."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from backtracking.model.plain import Place

Act = Callable[[str, Tensor], Tensor]
"""Given a place's name and what passes there, what should pass instead."""


@contextmanager
def hooked(places: Mapping[str, Place], act: Act) -> Iterator[None]:
    """Let `act` see what passes at every place; the hooks are gone afterwards, also after an error."""
    handles = []
    try:
        for name, place in places.items():
            if place.side == "in":
                handles.append(place.module.register_forward_pre_hook(_on_input(name, act), with_kwargs=True))
            else:
                handles.append(place.module.register_forward_hook(_on_output(name, act)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(place: str, act: Act) -> Any:
    def hook(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if arguments:
            return (act(place, arguments[0]), *arguments[1:]), named
        name = next(iter(named))
        return arguments, named | {name: act(place, named[name])}

    return hook


def _on_output(place: str, act: Act) -> Any:
    def hook(_module: Any, _arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (act(place, output[0]), *output[1:])
        return act(place, output)

    return hook
