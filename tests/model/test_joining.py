"""In which order rows join a step, and as whom."""

import random

import pytest

from backtracking.model.sampling.joining import Joining


@pytest.mark.parametrize("seed", range(40))
def test_a_row_is_there_when_its_condition_acts_and_begins_as_one_whose_has_not(seed):
    chance = random.Random(seed)
    blocks, many = chance.randrange(7), chance.randrange(1, 30)
    groups = [chance.randrange(4) for _ in range(many)]
    starts = [chance.randrange(blocks + 1) for _ in range(many)]
    joining = Joining.of(groups, starts, blocks)
    assert sorted(joining.order) == list(range(many))
    assert len(joining.counts) == blocks
    assert not blocks or joining.counts[-1] == many
    place = {row: index for index, row in enumerate(joining.order)}
    there = [next((b for b, count in enumerate(joining.counts) if index < count), 0) for index in range(many)]
    for index, row in enumerate(joining.order):
        assert there[index] <= max(0, starts[row])
        carrier = joining.order[joining.carriers[index]]
        assert groups[carrier] == groups[row]
        assert place[carrier] < len(set(groups))  # the carriers are in front
        assert there[place[carrier]] == 0
        assert starts[carrier] >= starts[row]
