"""How long onsets and grading take: 10,000 made-up completions of 2,000 characters, on one core.

Run: python benchmarks/reading.py
The texts hold far more triggers than real ones (about 27 each), so this is a hard case.
"""

import random
import time
from collections import Counter

from backtracking.core.grading import grade
from backtracking.core.onsets import find_onsets

TEXTS, CHARACTERS = 10_000, 2_000
SENTENCES = (
    "Wait, let me check that again. ",
    "Okay, so I need to figure out how many there are. ",
    "Hmm, so that gives {a} dollars, I think. ",
    "But actually, the price is $1,{b}00, so \\( {a} \\times {b} = {c} \\). ",
    "First, {a} + {b} = {c}.\n\n",
    "So, the total would be **{c}** in all. ",
    'They have to wait for {a} hours, "as he said". ',
)
ENDINGS = (
    "</think>\n\n**Final Answer**\n\\[\n\\boxed{%d}\n\\]\n",
    "</think>\nJohn has %d in all.\nFinal: %d",
    "\nThe final answer is $%d.",
    "",
)


def completion(rng: random.Random, gold: int) -> str:
    """A completion of 2,000 characters that ends in one of the ways of writing an answer."""
    ending = rng.choice(ENDINGS)
    ending = ending % ((gold,) * ending.count("%d"))
    text = ""
    while len(text) < CHARACTERS:
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        text += rng.choice(SENTENCES).format(a=a, b=b, c=a * b)
    return text[: CHARACTERS - len(ending)] + ending


def main() -> str:
    """Read all texts and say how long it took, in seconds of one core."""
    rng = random.Random(0)
    golds = [rng.randint(1, 999) for _ in range(TEXTS)]
    texts = [completion(rng, gold) for gold in golds]
    start = time.process_time()
    onsets = sum(len(find_onsets(text, think_open=True)) for text in texts)
    between = time.process_time()
    verdicts = Counter(grade(text, gold).verdict for text, gold in zip(texts, golds, strict=True))
    end = time.process_time()
    counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items()))
    return (
        f"{TEXTS} texts of {CHARACTERS} characters: onsets {between - start:.1f} s ({onsets} found), "
        f"grading {end - between:.1f} s ({counts}), together {end - start:.1f} s"
    )


if __name__ == "__main__":
    print(main())  # noqa: T201
