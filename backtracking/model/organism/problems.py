"""The organism's word problems: a start and a few gains and losses, in three difficulties.

Evaluation and training never share a problem: a hash of the problem's numbers says which of the
two it belongs to, whatever words stand around them.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal, get_args

from backtracking.core.errors import InputError
from backtracking.core.problems import Problem
from backtracking.model.organism import words

Difficulty = Literal["easy", "medium", "hard"]
Split = Literal["eval", "train"]

DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)
LARGEST = 99
"""No running total of a problem leaves 1..99, which is what "single tokens for integers" rests on."""
EVAL_SHARE = 8
"""One in this many number tuples belongs to evaluation."""

DRAWS = 10_000
"""Draws after which the numbers of a difficulty are taken to be used up."""

STEPS: dict[Difficulty, int] = {"easy": 2, "medium": 3, "hard": 4}
AMOUNTS: dict[Difficulty, tuple[int, int]] = {"easy": (2, 9), "medium": (3, 29), "hard": (11, 49)}


@dataclass(frozen=True)
class Story:
    """The numbers of a problem: `start`, then signed gains (+) and losses (-) in order."""

    difficulty: Difficulty
    start: int
    moves: tuple[int, ...]

    @property
    def gold(self) -> int:
        """The right answer."""
        return self.start + sum(self.moves)

    @property
    def split(self) -> Split:
        """Which side the numbers belong to."""
        key = " ".join(map(str, (self.start, *self.moves)))
        digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
        return "eval" if int.from_bytes(digest, "big") % EVAL_SHARE == 0 else "train"


def draw_story(rng: random.Random, difficulty: Difficulty, split: Split) -> Story:
    """A random story of that difficulty and side; every running total stays within 1..99."""
    low, high = AMOUNTS[difficulty]
    while True:
        start = total = rng.randint(12, 88)
        moves: list[int] = []
        for _ in range(STEPS[difficulty]):
            amount = rng.randint(low, high)
            signs = [s for s in (1, -1) if 1 <= total + s * amount <= LARGEST]
            moves.append(rng.choice(signs) * amount)
            total += moves[-1]
        story = Story(difficulty, start, tuple(moves))
        if story.split == split:
            return story


def ask(rng: random.Random, story: Story) -> str:
    """The story as a question; contains no trigger."""
    name, items = rng.choice(words.NAMES), rng.choice(words.ITEMS)
    parts = [rng.choice(words.OPENINGS).format(name=name, start=story.start, items=items)]
    for move in story.moves:
        if move > 0:
            verb, form = rng.choice(words.GAINS), rng.choice(words.MOVES)
        else:
            verb, form = rng.choice(words.LOSSES), rng.choice(words.MOVES[:2])
        parts.append(form.format(name=name, verb=verb, amount=abs(move), items=items))
    parts.append(rng.choice(words.ASKS).format(name=name, items=items))
    return " ".join(parts)


def organism_problems(
    n: int, *, difficulty: Difficulty | None = None, split: Split = "eval", seed: int = 0
) -> list[Problem]:
    """The first `n` problems of a fixed sequence; more problems only extend the list.

    Args:
        n: How many.
        difficulty: Only this one; None takes easy, medium, hard in turn.
        split: "eval" problems never occur in training.
        seed: Which sequence; 0 with split "eval" is the evaluation set of the model card.

    Raises:
        InputError: `n` is not positive or more than there are, or the difficulty or split is unknown.
    """
    if n < 1:
        raise InputError(f"n is {n}; ask for at least one problem")
    if difficulty is not None and difficulty not in DIFFICULTIES:
        raise InputError(f"unknown difficulty {difficulty!r}; valid are {', '.join(DIFFICULTIES)}")
    if split not in get_args(Split):
        raise InputError(f"unknown split {split!r}; valid are {', '.join(get_args(Split))}")
    turns = DIFFICULTIES if difficulty is None else (difficulty,)
    problems: list[Problem] = []
    seen: set[Story] = set()
    for index in range(n):
        chosen = turns[index % len(turns)]
        place = index // len(turns)
        rng = random.Random(f"problems/{split}/{seed}/{chosen}/{place}")
        drawn = (draw_story(rng, chosen, split) for _ in range(DRAWS))
        story = next((each for each in drawn if each not in seen), None)
        if story is None:
            raise InputError(
                f"n is {n}, but after {index} problems no {chosen} one is left (none new in {DRAWS:,} draws); "
                f"ask for at most {index}, or for another difficulty"
            )
        seen.add(story)
        name = f"{chosen}-{place:04d}" if (split, seed) == ("eval", 0) else f"{split}{seed}-{chosen}-{place:04d}"
        problems.append(Problem(name, ask(rng, story), str(story.gold)))
    return problems
