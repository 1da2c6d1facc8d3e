"""Completions made by hand for the viewer's tests, dangerous ones among them."""

from backtracking.core.completions import Completion
from backtracking.core.problems import Problem
from backtracking.core.receipts import Receipt

ATTACK = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
EVIL = (
    f"{ATTACK} </script><!-- &lt;b&gt; \x00\x07\x1b[31m \u2028\u2029 \u202e txet \U0001f600\U0001f600 "
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u2603 Wait, 3. wait time\nFinal: 7"
)
PROBLEMS = (
    Problem("p <b>0</b>", f"{ATTACK} How many \U0001f600 are there?\ud800", "7"),
    Problem("p1", "Two and two?", "4"),
)


def completion(
    text: str,
    *,
    problem: str = PROBLEMS[0].id,  # pyright: ignore[reportArgumentType]
    sample: int = 0,
    condition: str = "baseline",
    finish: str = "stop",
    ids: tuple[int, ...] | None = None,
    receipts: tuple[Receipt, ...] = (),
) -> Completion:
    """One token for each character, and a stop token where it stopped by itself."""
    chosen = tuple(ord(c) % 500 for c in text) if ids is None else ids
    offsets = tuple(range(len(text)))
    if finish == "stop":
        chosen, offsets = (*chosen, 2), (*offsets, len(text))
    return Completion(
        problem,
        sample,
        "baseline_think_newline",
        condition,
        (5, 6, 7),
        chosen,
        text,
        finish,
        offsets,
        receipts,  # pyright: ignore
    )


def many(count: int) -> list[tuple[str, Completion]]:
    """So many short completions of two problems; every third has an onset, every fifth is wrong."""
    rows = []
    for number in range(count):
        word = "Wait, " if number % 3 == 0 else ""
        answer = 5 if number % 5 == 0 else 4
        text = f"Row {number}. {word}it is {answer}.\nFinal: {answer}"
        rows.append(("arms", completion(text, problem="p1", sample=number)))
    return rows
