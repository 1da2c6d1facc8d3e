"""Dictionaries as sparsify and SAELens write them: a config and a safetensors file. Neither package is needed.

Only what the files say is computed. An option that changes the arithmetic and is not known here is refused.
"""

import json
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from backtracking.core.atomic import replacing
from backtracking.core.errors import InputError, MissingFileError
from backtracking.model.dictionaries.sparse_dictionary import SparseDictionary

Format = Literal["sparsify", "saelens"]
WEIGHTS: dict[Format, str] = {"sparsify": "sae.safetensors", "saelens": "sae_weights.safetensors"}


def load_dictionary(folder: str | Path, *, device: str = "cpu") -> SparseDictionary:
    """Read a dictionary from a folder with `cfg.json` and `sae.safetensors` or `sae_weights.safetensors`.

    Of sparsify: TopK autoencoders and transcoders, with or without a skip connection. Of SAELens: the architectures
    standard, jumprelu and topk, and transcoders of those whose decoder bias is not taken off the input.

    Raises:
        MissingFileError: One of the files is missing.
        InputError: The files are damaged, or ask for something that is not known here.
    """
    path = Path(folder)
    kinds: list[Format] = [kind for kind, name in WEIGHTS.items() if (path / name).is_file()]
    if not (path / "cfg.json").is_file() or not kinds:
        raise MissingFileError(
            f"{path} holds no dictionary: it needs cfg.json and {' or '.join(WEIGHTS.values())} "
            "(a folder of several layers holds one folder for each)"
        )
    try:
        config = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
        weights = load_file(path / WEIGHTS[kinds[0]], device=device)
    except (json.JSONDecodeError, SafetensorError) as error:
        raise InputError(f"the dictionary in {path} is damaged ({error}); fetch it again") from error
    read = _sparsify if kinds[0] == "sparsify" else _saelens
    return read(config, {name: tensor.float() for name, tensor in weights.items()}, str(path))


def save_dictionary(dictionary: SparseDictionary, folder: str | Path) -> None:
    """Write an autoencoder with TopK in sparsify's format.

    Raises:
        InputError: It is of another kind.
    """
    if dictionary.activation != "topk" or dictionary.transcoder or dictionary.skip is not None:
        raise InputError(f"{dictionary.name} is not a TopK autoencoder, the one kind that is written")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "activation": "topk", "num_latents": dictionary.features, "k": dictionary.k, "d_in": dictionary.width,
        "normalize_decoder": True, "skip_connection": False, "transcode": False, "hook_name": dictionary.hook_name,
    }  # fmt: skip
    weights = {
        "encoder.weight": dictionary.encoder, "encoder.bias": dictionary.encoder_bias,
        "W_dec": dictionary.decoder, "b_dec": dictionary.decoder_bias,
    }  # fmt: skip
    with replacing(path / WEIGHTS["sparsify"]) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, temporary)
    with replacing(path / "cfg.json") as temporary:
        temporary.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _sparsify(config: dict[str, Any], weights: dict[str, Tensor], name: str) -> SparseDictionary:
    _refuse(name, "activation", config.get("activation", "topk"), ("topk",))
    transcoder = bool(config.get("transcode", False))
    skip = weights.get("W_skip")
    if bool(config.get("skip_connection", False)) != (skip is not None):
        raise InputError(f"{name}: its config and its weights disagree on a skip connection; fetch it again")
    return SparseDictionary(
        encoder=_part(weights, "encoder.weight", name),
        encoder_bias=_part(weights, "encoder.bias", name),
        decoder=_part(weights, "W_dec", name),
        decoder_bias=_part(weights, "b_dec", name),
        activation="topk",
        k=config.get("k", 32),
        centred=not transcoder,
        skip=skip,
        transcoder=transcoder,
        hook_name=str(config.get("hook_name", "")),
        name=name,
    )


def _saelens(config: dict[str, Any], weights: dict[str, Tensor], name: str) -> SparseDictionary:
    kind = config.get("architecture", "standard")
    transcoder = kind in ("transcoder", "jumprelu_transcoder")
    _refuse(name, "architecture", kind, ("standard", "jumprelu", "topk", "transcoder", "jumprelu_transcoder"))
    _refuse(name, "normalize_activations", config.get("normalize_activations", "none"), ("none", None))
    _refuse(name, "finetuning_scaling_factor", config.get("finetuning_scaling_factor", False), (False, None))
    _refuse(name, "reshape_activations", config.get("reshape_activations", "none"), ("none", None))
    _refuse(name, "rescale_acts_by_decoder_norm", config.get("rescale_acts_by_decoder_norm", False), (False, None))
    function = config.get("activation_fn", config.get("activation_fn_str", "relu"))
    _refuse(name, "activation_fn", function, ("relu", "topk", None))
    topk = kind == "topk" or function == "topk"
    arguments = config.get("activation_fn_kwargs") or {}
    hook = config.get("hook_name") or (config.get("metadata") or {}).get("hook_name") or ""
    centred = bool(config.get("apply_b_dec_to_input", not transcoder))
    if transcoder and centred:
        raise InputError(f"{name}: a transcoder with apply_b_dec_to_input is not known here")
    return SparseDictionary(
        encoder=_part(weights, "W_enc", name).T,
        encoder_bias=_part(weights, "b_enc", name),
        decoder=_part(weights, "W_dec", name),
        decoder_bias=_part(weights, "b_dec", name),
        activation="jumprelu" if kind.startswith("jumprelu") else "topk" if topk else "relu",
        k=config.get("k", arguments.get("k")) if topk else None,
        threshold=_part(weights, "threshold", name) if kind.startswith("jumprelu") else None,
        centred=centred,
        transcoder=transcoder,
        hook_name=str(hook),
        name=name,
    )


def _part(weights: dict[str, Tensor], key: str, name: str) -> Tensor:
    if key not in weights:
        raise InputError(f"{name} lacks the tensor {key}; it has {', '.join(sorted(weights))}")
    return weights[key]


def _refuse(name: str, option: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} has {option} = {value!r}; only {', '.join(map(repr, known))} can be computed here")
