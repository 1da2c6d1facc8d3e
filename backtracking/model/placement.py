"""Models that do not fit as they are: spread over several GPUs, or with fewer bits per weight.

transformers and accelerate place the layers, bitsandbytes quantizes them; the bridge takes what they made.
"""

import importlib.util
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from backtracking.core.errors import InputError
from backtracking.core.settings import DeviceMap, Quantization

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")


def placement(
    name: str,
    *,
    gguf: bool,
    device: str | torch.device | None,
    device_map: DeviceMap | None,
    quantization: Quantization | None,
) -> dict[str, Any]:
    """What `from_pretrained` is told of placement and quantization; empty where neither is asked for.

    Raises:
        InputError: It contradicts itself, or this machine lacks what it needs.
    """
    if device_map is None and quantization is None:
        return {}
    if device is not None and device_map is not None:
        raise InputError(f"device {device} and device_map {device_map!r} both say where {name} goes; give one of them")
    if isinstance(device_map, str) and device_map not in STRATEGIES:
        device_map = {"": device_map}
    if isinstance(device_map, dict):
        device_map = {part: _known(place) for part, place in device_map.items()}
    if importlib.util.find_spec("accelerate") is None:
        raise InputError("device_map and quantization need accelerate; run: pip install accelerate")
    if quantization is None:
        return {"device_map": device_map}
    return {
        "device_map": device_map or {"": str(device or "cuda")},
        "quantization_config": _bits(name, quantization, gguf=gguf),
    }


def require_no_offload(module: Any, name: str) -> None:
    """Refuse a model of which a part was put on the disk, or beside GPUs into the main memory.

    Raises:
        InputError: accelerate found no other place for it.
    """
    given: dict[str, Any] = getattr(module, "hf_device_map", None) or {}
    places = {str(place) for place in given.values()}
    away = [part for part, place in given.items() if str(place) == "disk" or (str(place) == "cpu" and len(places) > 1)]
    if away:
        raise InputError(
            f"{name} does not fit on the GPUs: {away[0] or 'all of it'} was put on the {given[away[0]]}, where hooks "
            "cannot follow it; use more GPUs, torch_dtype: bfloat16, or quantization: 4bit"
        )


def _known(device: int | str) -> str:
    try:
        chosen = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device_map {device!r}; use {', '.join(STRATEGIES)}, or module: device") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device_map {device} was asked for, but torch sees no GPU here; use cpu")
    return str(chosen)


def _bits(name: str, quantization: Quantization, *, gguf: bool) -> BitsAndBytesConfig:
    if gguf:
        raise InputError(f"{name} is a .gguf file, which is quantized in its own way; leave quantization out")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"quantization {quantization} needs bitsandbytes; run: pip install bitsandbytes")
    if not torch.cuda.is_available():
        raise InputError(f"quantization {quantization} needs a GPU, and torch sees none here; leave quantization out")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
