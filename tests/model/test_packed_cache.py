"""Rooms for keys and values: what they hold while they grow, and when their memory goes back."""

import psutil
import pytest
import torch

from backtracking.model.sampling import packed_cache
from backtracking.model.sampling.packed_cache import KeyValues, PackedCache


@pytest.mark.parametrize("mapped", [1, 2**40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_columns_keep_their_content_while_room_grows(monkeypatch, mapped, dtype):
    """Whether a room is memory of its own or the allocator's, and however it is laid out."""
    monkeypatch.setattr(packed_cache, "MAPPED", mapped)
    cache = PackedCache(seats=3, entries=1, width=4, columns=packed_cache.BLOCK, filled=packed_cache.BLOCK)
    cache.added[0] = room = KeyValues.room(3, packed_cache.BLOCK, torch.zeros(1, 2, 1, 8, dtype=dtype))
    before = [part.normal_()[:2].clone() for part in (room.keys, room.values)]
    assert cache.advance(0, 2) == 0
    for part, kept in zip((cache.added[0].keys, cache.added[0].values), before, strict=True):
        assert part.shape == (2, 2, 8, 2 * packed_cache.BLOCK)
        assert torch.equal(part[..., : packed_cache.BLOCK], kept)
        assert not part[..., packed_cache.BLOCK :].any()
    if dtype is torch.float32:
        assert cache.added[0].arrays[0].shape == cache.added[0].keys.shape


def test_a_large_room_goes_back_to_the_system_when_it_is_dropped():
    process, like = psutil.Process(), torch.zeros(1, 2, 1, 32)
    before = process.memory_info().rss
    room = KeyValues.room(256, 512, like)
    assert not room.keys.any()
    assert not room.values.any()
    room.keys.fill_(1)
    full, size = process.memory_info().rss, room.keys.numel() * 4
    del room
    assert full - before > 0.9 * size
    assert full - process.memory_info().rss > 0.9 * size


def test_layers_share_a_room_only_where_no_step_follows():
    for lasting in (True, False):
        cache = PackedCache(seats=3, entries=1, width=4, columns=1, lasting=lasting)
        rooms = [cache.room_for(layer, torch.zeros(1, heads, 1, 8)) for layer, heads in enumerate((2, 2, 4))]
        assert (rooms[0] is rooms[1]) is not lasting
        assert rooms[2].keys.shape[1] == 4
        assert cache.room_for(0, torch.zeros(1, 2, 1, 8)) is rooms[0]
