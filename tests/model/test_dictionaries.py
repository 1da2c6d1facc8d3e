"""Dictionaries: files in both layouts give the documented arithmetic; training finds planted features."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backtracking.core.completions import Completion
from backtracking.core.errors import InputError, MissingFileError
from backtracking.model.activations import cache_activations
from backtracking.model.dictionaries import TopKSettings, load_dictionary, save_dictionary, topk_training, train_topk

D, F, K = 6, 20, 3
GENERATOR = torch.Generator().manual_seed(0)
ENC, DEC = torch.randn(F, D, generator=GENERATOR), torch.randn(F, D, generator=GENERATOR)
B_ENC, B_DEC = torch.randn(F, generator=GENERATOR), torch.randn(D, generator=GENERATOR)
ROWS = torch.randn(9, D, generator=GENERATOR)


def sparsify(folder, *, transcode=False, skip=None, **config):
    folder.mkdir()
    weights = {"encoder.weight": ENC, "encoder.bias": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
    save_file(weights | ({} if skip is None else {"W_skip": skip}), folder / "sae.safetensors")
    base = {"activation": "topk", "expansion_factor": 32, "num_latents": F, "k": K, "d_in": D,
            "transcode": transcode, "skip_connection": skip is not None}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(base | config))
    return folder


def saelens(folder, *, threshold=None, **config):
    folder.mkdir()
    weights = {"W_enc": ENC.T.contiguous(), "b_enc": B_ENC, "W_dec": DEC, "b_dec": B_DEC}
    save_file(weights | ({} if threshold is None else {"threshold": threshold}), folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": F} | config))
    return folder


def by_hand(row, *, centred, keep):
    """Feature by feature, from the formula."""
    shifted = row - B_DEC if centred else row
    before = np.array([float(ENC[f] @ shifted + B_ENC[f]) for f in range(F)])
    return np.array([max(value, 0.0) if keep(f, value, before) else 0.0 for f, value in enumerate(before)])


def top(f, value, before):
    return value >= np.sort(before)[-K]


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsifys_layout(tmp_path, transcode):
    skip = torch.randn(D, D, generator=torch.Generator().manual_seed(3)) if transcode else None
    found = load_dictionary(sparsify(tmp_path / "d", transcode=transcode, skip=skip))
    expected = np.stack([by_hand(row, centred=not transcode, keep=top) for row in ROWS])
    np.testing.assert_allclose(found.encode(ROWS), expected, atol=1e-5)
    written = expected @ DEC.numpy() + B_DEC.numpy() + (0 if skip is None else ROWS.numpy() @ skip.numpy().T)
    np.testing.assert_allclose(found.decode(found.encode(ROWS), ROWS), written, atol=1e-4)
    assert (found.features, found.width, found.transcoder) == (F, D, transcode)


def test_saelens_standard_jumprelu_and_topk(tmp_path):
    threshold = torch.rand(F, generator=torch.Generator().manual_seed(1)) * 2
    cases = {
        "standard": ({"architecture": "standard", "apply_b_dec_to_input": True}, True, lambda f, v, b: True),
        "plain": ({"apply_b_dec_to_input": False, "activation_fn_str": "relu"}, False, lambda f, v, b: True),
        "jump": ({"architecture": "jumprelu", "apply_b_dec_to_input": False}, False, lambda f, v, b: v > threshold[f]),
        "topk": ({"architecture": "topk", "k": K, "apply_b_dec_to_input": True}, True, top),
        "old topk": (
            {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": True}, True, top
        ),
    }  # fmt: skip
    for name, (config, centred, keep) in cases.items():
        given = threshold if name == "jump" else None
        found = load_dictionary(
            saelens(tmp_path / name, threshold=given, metadata={"hook_name": "blocks.1.hook_resid_post"}, **config)
        )
        expected = np.stack([by_hand(row, centred=centred, keep=keep) for row in ROWS])
        np.testing.assert_allclose(found.encode(ROWS), expected, atol=1e-5, err_msg=name)
        assert found.hook_name == "blocks.1.hook_resid_post"


def test_removing_all_features_leaves_the_error_and_the_bias(tmp_path):
    found = load_dictionary(sparsify(tmp_path / "d"))
    rest = found.without(ROWS, list(range(F)))
    np.testing.assert_allclose(rest, ROWS - found.decode(found.encode(ROWS)) + B_DEC, atol=1e-4)
    assert torch.equal(found.without(ROWS, []), ROWS)
    silent = int((found.encode(ROWS)[0] == 0).nonzero()[0])
    np.testing.assert_allclose(found.without(ROWS[:1], [silent]), ROWS[:1], atol=1e-6)


def test_what_changes_the_arithmetic_in_a_way_not_known_is_refused(tmp_path):
    with pytest.raises(InputError, match="normalize_activations = 'layer_norm'"):
        load_dictionary(saelens(tmp_path / "a", normalize_activations="layer_norm"))
    with pytest.raises(InputError, match="architecture = 'gated'"):
        load_dictionary(saelens(tmp_path / "b", architecture="gated"))
    with pytest.raises(InputError, match="activation = 'groupmax'"):
        load_dictionary(sparsify(tmp_path / "c", activation="groupmax"))
    with pytest.raises(MissingFileError, match="holds no dictionary"):
        load_dictionary(tmp_path)
    (tmp_path / "a" / "sae_weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged"):
        load_dictionary(tmp_path / "a")
    found = load_dictionary(sparsify(tmp_path / "e", transcode=True))
    with pytest.raises(InputError, match="transcoder"):
        found.without(ROWS, [1])
    with pytest.raises(InputError, match="reads 6 numbers"):
        found.encode(ROWS[:, :4])


@pytest.fixture(scope="module")
def store(tiny, tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        ids = tuple(int(i) for i in rng.integers(3, 60, size=16))
        rows.append(Completion(f"p{number}", 0, "v", "baseline", ids[:3], ids[3:], "", "length"))
    return cache_activations(tiny, rows, sites=["resid_post.0"], to=tmp_path_factory.mktemp("s") / "store")


SMALL = TopKSettings(features=96, k=8, steps=250, batch=256)


def test_training_explains_more_of_completions_it_never_saw(store):
    found = train_topk(store, "resid_post.0", settings=SMALL)
    assert found.unexplained < 0.5 * found.unexplained_at_start
    held = torch.tensor(store.rows["completion"].to_numpy() % topk_training.HELD_OUT == 0)
    values = store["resid_post.0"][:][held]
    rebuilt = found.dictionary.decode(found.dictionary.encode(values))
    expected = float((values - rebuilt).pow(2).sum() / (values - values.mean(0)).pow(2).sum())
    assert found.unexplained == pytest.approx(expected, rel=1e-4)
    assert found.rows == int((~held).sum()) and 0 <= found.dead <= 1
    np.testing.assert_allclose(found.dictionary.decoder.norm(dim=1), 1, atol=1e-5)


def test_a_training_that_was_broken_off_ends_in_the_same_weights(store, tmp_path, monkeypatch):
    whole = train_topk(store, "resid_post.0", settings=SMALL)
    advance = topk_training._State.advance

    def broken(state, rows, settings):
        if state.step == 130:
            raise KeyboardInterrupt
        advance(state, rows, settings)

    place = tmp_path / "state.safetensors"
    monkeypatch.setattr(topk_training._State, "advance", broken)
    with pytest.raises(KeyboardInterrupt):
        train_topk(store, "resid_post.0", settings=SMALL, checkpoint=place, checkpoint_every=50)
    monkeypatch.setattr(topk_training._State, "advance", advance)
    assert place.is_file()
    with pytest.raises(InputError, match="another training"):
        train_topk(store, "resid_post.0", settings=TopKSettings(features=96, k=4, steps=3), checkpoint=place)
    resumed = train_topk(store, "resid_post.0", settings=SMALL, checkpoint=place, checkpoint_every=50)
    for name in ("encoder", "encoder_bias", "decoder", "decoder_bias"):
        assert torch.equal(getattr(whole.dictionary, name), getattr(resumed.dictionary, name)), name
    assert not place.exists()


def test_what_was_trained_is_written_in_sparsifys_format_and_read_back(store, tmp_path):
    found = train_topk(store, "resid_post.0", settings=TopKSettings(features=40, k=4, steps=5, batch=64))
    save_dictionary(found.dictionary, tmp_path / "out")
    back = load_dictionary(tmp_path / "out")
    rows = store["resid_post.0"][:5]
    torch.testing.assert_close(back.encode(rows), found.dictionary.encode(rows))
    assert back.hook_name == "blocks.0.hook_resid_post"


def test_settings_that_cannot_train_are_refused():
    with pytest.raises(InputError, match="k is 9"):
        TopKSettings(features=8, k=9)
    with pytest.raises(InputError, match="steps is 0"):
        TopKSettings(steps=0)
