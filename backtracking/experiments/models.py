"""From the `model` section of a config to the loaded model: the same way for a run, its plan and its workers."""

from backtracking.experiments.config_sections import ModelSection
from backtracking.model.loading import load_model
from backtracking.model.reasoner import HookedReasoner


def open_model(section: ModelSection, *, dtype: str | None = None) -> HookedReasoner:
    """Load the model of a config.

    Args:
        section: Which model, and how it is loaded.
        dtype: Number format, where it is decided already; else the section's.

    Raises:
        InputError: It cannot be loaded.
    """
    return load_model(
        section.hf_id,
        device=section.device,
        dtype=dtype or section.torch_dtype,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
        device_map=section.device_map,
        quantization=section.quantization,
    )
