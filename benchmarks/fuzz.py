"""Fuzz: nasty completions through onsets, grading, events, tables and both report pages.

Run: python -m benchmarks.fuzz --cases 100000 --out data/reliability      (seeded; cases are made in blocks)
     python -m benchmarks.fuzz --engine atheris --seconds 60              (guided by the coverage of `core`)

A case fails by any exception, or by more than `--limit` seconds of processor time for one completion. Case n of a
seed is always the same: `--case n` makes it alone.
"""

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

from backtracking.core.completions import Completion
from backtracking.core.problems import Problem

BLOCK = 1000
"""Cases whose events become one table and one report."""
GOLDS = ("42", "-7", "11/3", "0.5", "1,000", "\\sqrt{2}", "\\frac{1}{2}", "2x + 3", "10^{12}")
_PIECES = (
    "Wait, ", "wait", "Actually, ", "Hold on", "Hold\u00a0on", "mistake ", "I was wrong", "Let\u2019s check ", "no! ",
    "<think>", "</think>", "<think", "<answer>", "</answer>", "Final: ", "Final answer: ", "The final answer is ",
    "final\n", "#### ", "answer is ", "Therefore, ", "\\boxed{", "\\boxed{}", "}", "{", "\\fbox{", "\\frac{", "}{",
    "\\sqrt{", "\\left(", "\\right)", "^{", "_{", "$", "\\$", "$$", "\\[", "\\]", "\\(", "\\text{", "\\times 10^{",
    "inf", "nan", "-inf", "Infinity", "NaN", "\\infty", "1e999999", "1E-999999", "9^9^9^9", "10**100000", "0/0", "1/0",
    "5:30", "10-12", "1,234,567", "1,2,3,4", "½", "3 1/2", "٣٤", "４２", "−5", "= ", " is ", "+", "*", "100000!",
    "\ud800", "\udfff", "\udc00\ud800", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\u202e",
    "\u2066", "שלום", "مرحبا", "e\u0301", "a" + "\u0300" * 30, "👩\u200d👩\u200d👧", "\U000e0041", "İ", "ß", "ﬁ", "Σ",
    "\n", "\r\n", "\t", "   ", "|", "<script>alert(1)</script>", "{{ report }}", "```",
    "\"", "'", "“", "”", "«", "__", "\\", "%", "=cmd|'/C calc'!A1", ",", ";", "# ", "---", "word ", "the cost is $",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One completion and how long it took."""

    number: int
    kind: str
    characters: int
    seconds: float
    """Processor time of the completion alone, tables and pages aside."""


def text_of(seed: int, number: int) -> tuple[str, str]:
    """The text of a case and the kind of nastiness it has."""
    chance = random.Random(f"{seed}/{number}")
    kinds = ("mix", "mix", "mix", "mix", "numbers", "boxes", "fractions", "triggers", "unicode", "repeated", "final")
    kind = "line" if number % 2000 == 999 else chance.choice(kinds)
    return _MAKERS[kind](chance), kind


def _mix(chance: random.Random) -> str:
    pieces = [chance.choice((chance.choice(_PIECES), _number(chance))) for _ in range(chance.randint(0, 30))]
    return "".join(pieces)


def _number(chance: random.Random) -> str:
    digits = chance.choice((1, 2, 3, 5, 20) if chance.random() < 0.9 else (301, 1001, 5000))
    body = "".join(chance.choices("0123456789", k=digits))
    pattern = chance.choice(
        ("{}", "-{}", "{}.{}", "{}e{}", "{}^{}", "{}/{}", "\\frac{{{}}}{{{}}}", "{} \\times 10^{{{}}}")
    )
    return pattern.format(body, chance.randint(0, 10 ** chance.randint(0, 12)))


def _numbers(chance: random.Random) -> str:
    glue = chance.choice((" ", ",", ".", "/", "^", "+", " = ", "\n", "x", "e", ":", "-", "\\,", ", $"))
    return glue.join(
        _number(chance)[:12] for _ in range(chance.choice((10, 100) if chance.random() < 0.95 else (3000,)))
    )


def _boxes(chance: random.Random) -> str:
    depth, opening = (
        chance.choice((1, 5, 20) if chance.random() < 0.95 else (1000,)),
        chance.choice(("\\boxed{", "{", "\\boxed{\\text{", "(", "\\boxed{ ")),
    )
    return _mix(chance) + opening * depth + _number(chance) + "}" * chance.choice((0, depth - 1, depth, depth + 1))


def _fractions(chance: random.Random) -> str:
    inner = _number(chance)[:30]
    for _ in range(chance.choice((1, 3, 12, 300))):
        inner = chance.choice(
            ("\\frac{{{}}}{{2}}", "\\dfrac{{1}}{{{}}}", "\\sqrt{{{}}}", "{}^{{2}}", "\\frac{{{}}}")
        ).format(inner)
    return chance.choice(("\\boxed{{{}}}", "Final: {}", "The final answer is {}.", "{}")).format(inner)


def _triggers(chance: random.Random) -> str:
    words = ("Wait", "wait, ", "Actually, ", "hold on ", "mistake ", "<think>", "</think>", '"Wait" ', "I was wrong. ")
    return "".join(chance.choices(words, k=chance.choice((10, 30, 100) if chance.random() < 0.98 else (5000,))))


def _unicode(chance: random.Random) -> str:
    return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randint(0, 300)))


def _repeated(chance: random.Random) -> str:
    return chance.choice(_PIECES) * chance.choice((3, 30, 300) if chance.random() < 0.97 else (8000,))


def _final(chance: random.Random) -> str:
    return _mix(chance) + chance.choice(("\nFinal: ", "\n#### ", "\\boxed{", "<answer>")) + _mix(chance)[:300]


def _line(chance: random.Random) -> str:
    """A line of a million characters."""
    piece = "".join(chance.choice((chance.choice(_PIECES), _number(chance)[:20])) for _ in range(400))
    piece = chance.choice((piece.replace("\n", " "), "word 12 ", "1", "a", " ", "{", "\\", "1 + "))
    return (piece * (1_000_000 // len(piece) + 1))[:1_000_000]


_MAKERS = {
    "mix": _mix, "numbers": _numbers, "boxes": _boxes, "fractions": _fractions, "triggers": _triggers,
    "unicode": _unicode, "repeated": _repeated, "final": _final, "line": _line,
}  # fmt: skip


def completion_of(seed: int, number: int, text: str) -> Completion:
    """A completion of that text, with made-up ids: a token for each run of characters."""
    step = max(1, len(text) // 50)
    offsets = tuple(range(0, max(len(text), 1), step))
    return Completion(
        problem_id=number % len(GOLDS),
        sample_id=number,
        variant="baseline_think_newline",
        condition="baseline",
        prompt_ids=(1, 2, 3),
        ids=tuple(random.Random(seed + number).randrange(5) for _ in offsets),
        text=text,
        offsets=offsets,
        finish_reason=("stop", "length", "degenerate")[number % 3],
    )


PROBLEMS = tuple(
    Problem(index, f'They wait in line. What is {gold}? "Wait" {gold}', gold) for index, gold in enumerate(GOLDS)
)


def read(completion: Completion) -> tuple[Sequence, Sequence]:
    """Onsets, verdict and event of one completion."""
    from backtracking.core.events import detect_events

    return detect_events([completion], PROBLEMS)


def write(folder: Path, completions: Sequence[Completion], events: Sequence, onsets: Sequence) -> None:
    """The tables and both pages of a block, as a run writes them; rates over the block, texts as examples."""
    from backtracking.core.events import Event, OnsetRow, table
    from backtracking.experiments.runs import RunFolder
    from backtracking.faces.report import write_pages
    from backtracking.faces.report_content import Grid, Report
    from backtracking.measures.conditions import compare_conditions

    run = RunFolder(folder)
    frame = table(events, Event)
    run.save_parquet("events", frame)
    run.save_parquet("onsets", table(onsets, OnsetRow))
    run.save_table("events", frame)
    compared = compare_conditions(events, seed=0).to_pandas()
    run.save_table("conditions", compared)
    cells = tuple(tuple(str(cell) for cell in row) for row in frame.astype(object).values.tolist())
    grid = Grid("events", "", tuple(frame.columns), cells)
    examples = tuple((str(completion.sample_id), completion.text[:2_000]) for completion in completions)
    report = Report("fuzz", findings=(), warnings=(), grids=(grid,), methods=(), about=(), examples=examples)
    write_pages(report, lambda theme: {}, folder)


def seeded(seed: int, cases: int, limit: float, first: int = 0) -> tuple[list[Case], list[str]]:
    """Every case in order: how long each took, and what failed."""
    took, failed = [], []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for start in range(first, first + cases, BLOCK):
            block, events, onsets = [], [], []
            for number in range(start, min(start + BLOCK, first + cases)):
                text, kind = text_of(seed, number)
                completion = completion_of(seed, number, text)
                began = time.process_time()
                try:
                    found = read(completion)
                except Exception as error:  # noqa: BLE001  (the point of a fuzzer is to see every kind)
                    failed.append(f"case {number} ({kind}): {type(error).__name__}: {str(error)[:200]}")
                    continue
                took.append(Case(number, kind, len(text), time.process_time() - began))
                if took[-1].seconds > limit:
                    failed.append(f"case {number} ({kind}): {took[-1].seconds:.2f} s for {len(text)} characters")
                block.append(completion)
                events += found[0]
                onsets += found[1]
            try:
                write(Path(folder), block, events, onsets)
            except Exception as error:  # noqa: BLE001
                failed.append(f"tables of cases {start} on: {type(error).__name__}: {str(error)[:200]}")
            print(  # noqa: T201  (progress of a process of its own)
                f"cases {start} on: {len(failed)} failed", *failed, sep="\n", file=sys.stderr, flush=True
            )
    return took, failed


def in_processes(seed: int, cases: int, limit: float, workers: int) -> tuple[list[Case], list[str]]:
    """The same cases in whole blocks, spread over processes."""
    starts = range(0, cases, BLOCK)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(seeded, seed, min(BLOCK, cases - start), limit, start) for start in starts]
        found = [job.result() for job in jobs]
    return [case for took, _ in found for case in took], [each for _, failed in found for each in failed]


def guided(seconds: int, seed: int, limit: float) -> None:
    """Coverage-guided fuzzing of `core`; atheris ends the process, with status 0 where nothing failed."""
    import atheris

    with atheris.instrument_imports(include=["backtracking.core"]):
        from backtracking.core import events  # noqa: F401  (imported under instrumentation)

    def one(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        pieces = []
        while provider.remaining_bytes():
            index = provider.ConsumeIntInRange(0, len(_PIECES) + 30)
            pieces.append(_PIECES[index] if index < len(_PIECES) else provider.ConsumeUnicode(8))
        number = len(data)
        began = time.process_time()
        read(completion_of(seed, number, "".join(pieces)))
        if time.process_time() - began > limit:
            raise TimeoutError(f"{time.process_time() - began:.2f} s")

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", f"-seed={seed + 1}", "-max_len=2000"], one)
    atheris.Fuzz()


def _versions() -> dict[str, str]:
    names = ("regex", "math-verify", "sympy", "pandas", "pyarrow", "jinja2", "atheris")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def _markdown(content: dict) -> str:
    lines = [
        "# Fuzz", "", f"`python -m benchmarks.fuzz --cases {content['cases']} --seed {content['seed']}`: "
        f"{content['cases']} completions, {content['characters']:,} characters, {len(content['failed'])} failures, "
        f"slowest {content['slowest'][0]['seconds']:.2f} s of processor time.", "",
        "| kind | cases |", "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in content["kinds"].items()), "",
        "| slowest | kind | characters | seconds |", "|---|---|---|---|",
        *(f"| {c['number']} | {c['kind']} | {c['characters']} | {c['seconds']:.3f} |" for c in content["slowest"]), "",
        ", ".join(f"{name} {version}" for name, version in content["versions"].items()), "",
        *(f"- {each}" for each in content["failed"]),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Fuzz, print and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=("seeded", "atheris"), default="seeded")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--case", type=int, help="one case alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60, help="of the guided engine")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--limit", type=float, default=1.0, help="seconds of processor time for one completion")
    parser.add_argument("--out", type=Path, default=Path("data/reliability"))
    options = parser.parse_args()
    if options.engine == "atheris":
        guided(options.seconds, options.seed, options.limit)
        return
    alone = options.case is not None
    first, cases = (options.case, 1) if alone else (0, options.cases)
    began = time.monotonic()
    if alone:
        took, failed = seeded(options.seed, 1, options.limit, first)
    else:
        took, failed = in_processes(options.seed, cases, options.limit, options.workers)
    slowest = sorted(took, key=lambda case: -case.seconds)[:10]
    content = {
        "seed": options.seed,
        "cases": cases,
        "characters": sum(case.characters for case in took),
        "kinds": dict(sorted(Counter(case.kind for case in took).items())),
        "failed": failed,
        "slowest": [asdict(case) for case in slowest],
        "wall_seconds": round(time.monotonic() - began, 1),
        "versions": _versions(),
        "machine": platform.platform(),
    }
    sys.stdout.write(_markdown(content))
    if not alone:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "fuzz.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (options.out / "fuzz.md").write_text(_markdown(content), encoding="utf-8")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
