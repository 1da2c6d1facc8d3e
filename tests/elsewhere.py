"""A device that is not the CPU, for machines that have no other.

Its tensors lie in the CPU's memory, but PyTorch takes them for those of a device of their own: an operation on such a
tensor and one of the CPU fails as it would on a GPU, NumPy does not see them, and loops compiled for the CPU do not
take them. What is counted besides: the bytes that are held at once, and where the program waits for the device.

PyTorch holds one such device per process for good, so it is for a process of its own:
`pytest -p tests.elsewhere FILES` puts every model that the tests make on it, see `test_another_device`.
"""

import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "elsewhere"
CPU = torch.device("cpu")
aten: Any = torch.ops.aten
_MOVES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""Operations that, as on a GPU, take positions from the CPU too."""
_WAITS = {
    *(aten.is_nonzero.default, aten.item.default, aten._local_scalar_dense.default, aten.equal.default),
    *(aten.nonzero.default, aten.nonzero_numpy.default, aten.masked_select.default, aten.bincount.default),
    *(aten._unique2.default, aten.unique_dim.default, aten.repeat_interleave.Tensor),
}
"""What gives Python a number of the device, or has a size that depends on its numbers."""
_BY_HAND = ("empty_strided", "empty.memory_format", "_copy_from", "_to_copy", "copy_", "fill_.Scalar", "index.Tensor")
"""What PyTorch calls past the modes below, as for `x[[0, 1]]`."""


_OURS = str(Path(__file__).parents[1] / "backtracking") + os.sep


class MixedError(RuntimeError):
    """Tensors of two devices met."""


class There(torch.Tensor):
    """A tensor of the device: `inner` holds its numbers."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "There":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        with torch.inference_mode(False):
            return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=torch.device(NAME, 0), **layout)

    def __init__(self, inner: torch.Tensor) -> None:
        assert not isinstance(inner, There)
        self.inner = inner
        memory.hold(self, inner)

    def __repr__(self) -> str:
        return f"There({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        waits.count()
        return self.inner.tolist()

    def numpy(self, **_options: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; use Tensor.cpu() first")

    def __array__(self, *_given: Any) -> Any:
        return self.numpy()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()


class Memory:
    """Bytes that the device's tensors hold, each memory once however many views there are."""

    def __init__(self) -> None:
        self.held, self.most, self._holders = 0, 0, Counter[int]()

    def hold(self, tensor: There, inner: torch.Tensor) -> None:
        storage = inner.untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        if not self._holders[at]:
            self.held += size
            self.most = max(self.most, self.held)
        self._holders[at] += 1
        weakref.finalize(tensor, self._drop, at, size)

    def _drop(self, at: int, size: int) -> None:
        self._holders[at] -= 1
        if not self._holders[at]:
            self.held -= size
            del self._holders[at]

    @contextmanager
    def peak(self) -> Iterator[Callable[[], int]]:
        """Give a function that says how much more than now was held at once since."""
        before, self.most = self.held, self.held
        yield lambda: self.most - before


class Waits:
    """Functions of this project in which Python waits for the device, with how often it does."""

    def __init__(self) -> None:
        self.at = Counter[str]()

    def count(self) -> None:
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename.startswith(_OURS):
                self.at[f"{Path(frame.f_code.co_filename).name}: {frame.f_code.co_name}"] += 1
                return
            frame = frame.f_back


memory, waits = Memory(), Waits()


def is_there(device: Any) -> bool:
    """Whether something asks for that device."""
    return device is not None and torch.device(device).type == NAME


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Do one operation; what comes of tensors of the device is on the device."""
    there = [each for each in _tensors((args, kwargs)) if isinstance(each, There)]
    if func is aten._has_compatible_shallow_copy_type.default:
        return isinstance(args[0], There) == isinstance(args[1], There)
    if there and func not in _MOVES:
        _require_alike(func, args, kwargs)
    asked = kwargs.get("device")
    found_there = bool(there) if asked is None else is_there(asked)
    if func is aten.copy_.default:
        found_there = isinstance(args[0], There)
    by_mask = func in _INDEXED and any(each.dtype is torch.bool for each in _tensors(args[1]))
    if there and (func in _WAITS or by_mask or (func in _MOVES and not found_there)):
        waits.count()
    if is_there(asked):
        kwargs = kwargs | {"device": CPU}
    given, named = _each(_taken, args), _each(_taken, kwargs)
    if func is aten._copy_from.default:
        given[1].copy_(given[0])
        return args[1]
    if func is aten.histc.default:  # which a GPU has for integers too
        found = func(given[0].double(), *given[1:], **named).to(given[0].dtype)
    else:
        found = func(*given, **named)
    if func is aten._to_copy.default and found.data_ptr() == given[0].data_ptr() and found_there != bool(there):
        found = found.clone()
    if not found_there:
        return found
    own = {id(each.inner): each for each in there}  # of operations that give what they were given
    return _each(lambda each: own[id(each)] if id(each) in own else _put(each), found)


def _put(tensor: torch.Tensor) -> There:
    return tensor if isinstance(tensor, There) else There(tensor)


def _taken(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.inner if isinstance(tensor, There) else tensor


def _each(change: Callable[[torch.Tensor], torch.Tensor], given: Any) -> Any:
    """What an operation takes or gives, with every tensor in it changed."""
    if isinstance(given, torch.Tensor):
        return change(given)
    if isinstance(given, dict):
        return {name: _each(change, part) for name, part in given.items()}
    return type(given)(_each(change, part) for part in given) if type(given) in (tuple, list) else given


def _tensors(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, (tuple, list, dict)):
        for part in given.values() if isinstance(given, dict) else given:
            yield from _tensors(part)


def _require_alike(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    indices = args[1] if func in _INDEXED and isinstance(args[0], There) else ()
    for each in _tensors((args, kwargs)):
        other = not isinstance(each, There) and each.ndim > 0
        if other and not any(each is index for index in indices):
            raise MixedError(f"{func}: a tensor of the CPU, {tuple(each.shape)}, among those of another device")


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Makes tensors of Python's numbers, which PyTorch does past the mode above."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and is_there(kwargs.get("device")):
            return func(*args, **(kwargs | {"device": CPU})).to(torch.device(NAME, 0))
        if func is torch.Tensor.new_tensor and isinstance(args[0], There):
            return args[0].inner.new_tensor(*args[1:], **kwargs).to(args[0].device)
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Let this thread use the device inside the block."""
    with _Functions(), _Operations():
        yield torch.device(NAME, 0)


def _register() -> torch.library.Library:
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL")
    for name in _BY_HAND:
        operation, _, overload = name.partition(".")
        kernel = getattr(getattr(aten, operation), overload or "default")
        library.impl(name, lambda *args, kernel=kernel, **kwargs: run(kernel, args, kwargs), "PrivateUse1")
    return library


@pytest.fixture(scope="session", autouse=True)
def everything_elsewhere() -> Iterator[None]:
    """Every model is moved to the device before it is wrapped."""
    from backtracking.model.reasoner import HookedReasoner  # not before its types are checked

    library, own = _register(), HookedReasoner.__dict__["from_hf"].__func__
    with elsewhere() as device, pytest.MonkeyPatch.context() as patch:

        def from_hf(cls, module, tokenizer, **options):
            return own(cls, module.to(device), tokenizer, **options)

        patch.setattr(HookedReasoner, "from_hf", classmethod(from_hf))
        yield
    library._destroy()
