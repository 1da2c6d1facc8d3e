"""Checks of types while the tests run, without the cost of shapes where there are none.

jaxtyping's hook puts every function of the library into a frame that remembers the sizes of its axes, which costs more
than the checks themselves. A function in whose annotations no shape occurs needs no such frame.
"""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping

_with_shapes = jaxtyping.jaxtyped


def names_a_shape(annotation: Any) -> bool:
    """Whether it is an array of jaxtyping or holds one; so may be what is still a string."""
    if isinstance(annotation, str) or (
        isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray)
    ):
        return True
    parts = annotation if isinstance(annotation, list | tuple) else typing.get_args(annotation)
    return any(map(names_a_shape, parts))


def _checked(given: Any, *, typechecker: Callable[[Any], Any]) -> Any:
    made = given.__init__ if inspect.isclass(given) and dataclasses.is_dataclass(given) else given
    if not inspect.isfunction(made) or any(map(names_a_shape, made.__annotations__.values())):
        return _with_shapes(given, typechecker=typechecker)
    if made is given:
        return typechecker(made)
    given.__init__ = typechecker(made)
    return given


def check_types_quickly() -> None:
    """To be called before the library is imported: from then on jaxtyping's hook frames what has shapes alone."""

    def decorator(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda given: _checked(given, typechecker=typechecker)

    jaxtyping.jaxtyped = decorator
