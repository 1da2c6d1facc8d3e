"""Fault campaign: what becomes of a run when its machine fails it.

Run: python -m benchmarks.faults --kills 50 --both 50 --out data/reliability

Every case ends in the tables of an uninterrupted run, byte for byte, or in one clear line and exit status 2 with
nothing earlier lost, after which the same command ends in those tables. Runs are forked from this process, which
has everything imported, so that a run takes seconds. Disks are small file systems in memory; where those
cannot be mounted a limit on the size of files stands in for the full disk, and the table says so.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from backtracking.core.completions import Completions
from backtracking.experiments import comparison, models, phases, runs
from backtracking.faces import commands, report
from backtracking.model import activations, loading, sampling
from backtracking.model.sampling import loops
from benchmarks.harness import circumstances, write_json

CONFIG = {
    "run": {"name": "faults", "seed": 5, "output_dir": "runs"},
    "model": {"hf_id": "organism", "device": "cpu"},
    "dataset": {"name": "organism", "max_examples": 8},
    "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 48, "batch_size": 2},
    "conditions": {"head off": ["attn.1.h0*0@decode"]},
}
BOTH = {
    **{name: section for name, section in CONFIG.items() if name != "conditions"},
    "dataset": {"name": "organism", "max_examples": 12},
    "generation": {"num_samples_per_prompt": 2, "max_new_tokens": 120, "batch_size": 4},
    "analysis": {
        "topk_layers_for_generation": 1,
        "max_events": 12,
        "control_samples": 12,
        "ablation_components": ["attn"],
    },
    "phase2": {
        "scale_sweep": {"scales": [0, 0.5]},
        "continuation_ablation": {"max_events": 8, "fork_max_events": 4, "fork_samples": 1},
    },
}
"""Both phases, with all their tables."""
_ = (comparison, models, phases, report, activations, loading, sampling)  # imported before the fork, for every run


NOTES = ("log.jsonl", "manifest.json", ".lock")
"""Files that are written all the time."""
KINDS = {"completions": "completions", "tables": "a table", "figures": "the report", "report.html": "the report"}
"""What a file says of where a run was, by the folder it is in."""


@dataclass(frozen=True)
class Outcome:
    """How one case of the campaign ended."""

    case: str
    tries: int
    held: int
    """Tries that ended as they should."""
    outcome: str
    evidence: str


@dataclass(frozen=True)
class Done:
    """One run of the command line."""

    status: int
    """Exit status; negative for the signal that ended it."""
    said: str
    """Standard error and standard output."""
    seconds: float
    """Of processor time, so that a busy machine changes no kill's moment."""
    signalled: bool
    """Whether it was sent a signal; one that ends before its moment is not."""


class Campaign:
    """One uninterrupted run to compare with, and a folder for every try."""

    def __init__(self, folder: Path, seed: int, config: dict[str, Any] = CONFIG) -> None:
        """Run the config once, and once up to its third part."""
        self.folder, self.random, self.seed, self.tries = folder, random.Random(seed), seed, 0
        self.config = config
        folder.mkdir(exist_ok=True)
        place = self.place()
        whole = self.run(place)
        assert whole.status == 0, whole.said
        self.seconds, self.tables = whole.seconds, self.result(place)
        (run,) = place.glob("runs/2*")
        self.files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
        self.parts = sum(name.startswith("completions/") for name in self.files)
        self.half = self.place()
        self.run(self.half, until=lambda: len(list(self.half.glob("runs/*/completions/*.parquet"))) >= 3)

    def place(self, like: Path | None = None) -> Path:
        """A new folder with the config, or a copy of another one."""
        self.tries += 1
        place = self.folder / f"try{self.tries:03d}"
        if like is not None:
            shutil.copytree(like, place)
        else:
            place.mkdir()
            (place / "config.yaml").write_text(yaml.safe_dump(self.config))
        return place

    def start(self, place: Path, before: Callable[[], None] | None = None) -> int:
        """Begin a run in a child process; its number."""
        sys.stdout.flush()
        process = os.fork()
        if process:
            return process
        status = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
            os.chdir(place)
            output = os.open(self.said(os.getpid()), os.O_CREAT | os.O_WRONLY)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["backtracking", "run", "--config", "config.yaml", "--quiet"]
            if before is not None:
                before()
            commands.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:  # noqa: BLE001  (a forked child ends here, whatever it met)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def said(self, process: int) -> Path:
        """Where a child's output goes: outside the place that fails."""
        return self.folder / f"said{process}.txt"

    def wait(self, process: int, *, signalled: bool = False) -> Done:
        """Wait for a child's end."""
        _, status, used = os.wait4(process, 0)
        said = self.said(process)
        text = said.read_text(errors="replace") if said.is_file() else ""
        return Done(os.waitstatus_to_exitcode(status), text.strip(), used.ru_utime + used.ru_stime, signalled)

    def run(
        self,
        place: Path,
        *,
        before: Callable[[], None] | None = None,
        after: float | None = None,
        until: Callable[[], bool] | None = None,
        by: int = signal.SIGKILL,
    ) -> Done:
        """Run in a place; ended by a signal `after` seconds of processor time or when `until` holds."""
        process, signalled = self.start(place, before), False
        while after is not None or until is not None:
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            if (after is not None and _used(process) >= after) or (until is not None and until()):
                time.sleep(self.random.uniform(0, 0.02))  # the system counts processor time in steps of 10 ms
                os.kill(process, by)
                signalled = True
                break
            time.sleep(0.002)
        return self.wait(process, signalled=signalled)

    def result(self, place: Path) -> dict[str, str]:
        """Digest of every table, and the sampled ids, of the only run in a place."""
        folders = [path.parent for path in place.glob("runs/*/report.html")]
        if len(folders) != 1:
            return {"runs with a report": str(len(folders))}
        files = [*sorted(folders[0].glob("tables/*.csv")), folders[0] / "events.parquet", folders[0] / "onsets.parquet"]
        found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        parts = sorted(folders[0].glob("completions/*.parquet"))
        ids = [
            (row.problem_id, row.sample_id, row.condition, row.ids) for part in parts for row in Completions.load(part)
        ]
        return found | {"ids": hashlib.sha256(repr(ids).encode()).hexdigest()}

    def finishes(self, place: Path, before: Callable[[], None] | None = None) -> bool:
        """Whether the same command now ends in the tables of the uninterrupted run, in one folder."""
        done = self.run(place, before=before)
        return done.status == 0 and self.result(place) == self.tables and self.one(place)

    def one(self, place: Path) -> bool:
        """Whether there is one run and nothing half written."""
        folders = [path for path in (place / "runs").iterdir() if path.is_dir()]
        return len(folders) == 1 and not list((place / "runs").rglob(".*.tmp"))

    def ended(self, place: Path) -> bool:
        """Whether the run in a place had finished before it was killed."""
        manifest = next(iter(place.glob("runs/2*/manifest.json")), None)
        return manifest is not None and json.loads(manifest.read_text())["status"] == "finished"

    def stage(self, place: Path) -> str:
        """What a killed run had written last."""
        folder = next(iter(place.glob("runs/2*")), None)
        if folder is None:
            return "before its folder"
        written = [path for path in folder.rglob("*") if path.is_file() and path.name not in NOTES]
        if not written:
            return "its folder"
        last = max(written, key=lambda path: path.stat().st_mtime_ns).relative_to(folder)
        return KINDS.get(last.parts[0], "events" if last.suffix == ".parquet" else "config and problems")


def _used(process: int) -> float:
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def is_clear(done: Done, *words: str) -> bool:
    """Whether a run ended with status 2 and one line that says these words."""
    lines = [line for line in done.said.splitlines() if line.startswith("backtracking: ")]
    return done.status == 2 and len(lines) == 1 and "Traceback" not in done.said and all(w in lines[0] for w in words)


def kills(campaign: Campaign, name: str, number: int, workers: int) -> Outcome:
    """-9 at random moments, each followed by the same command."""
    processes = [
        _fork_killer(campaign, worker, number // workers + (worker < number % workers)) for worker in range(workers)
    ]
    for process in processes:
        os.waitpid(process, 0)
    found = [json.loads((campaign.folder / f"killed{worker}.json").read_text()) for worker in range(workers)]
    stages = sum((Counter(each["stages"]) for each in found), Counter[str]())
    said = ", ".join(f"{count} after {stage}" for stage, count in sorted(stages.items()))
    said += f"; one run takes {campaign.seconds:.1f} s and writes {len(campaign.files)} files"
    return Outcome(name, number, sum(each["held"] for each in found), "same tables", said)


def _fork_killer(campaign: Campaign, worker: int, number: int) -> int:
    """A process that kills runs of its own, one after another, and leaves a note.

    Every other kill comes at a random share of a run's processor time, and those between when a random one of its
    files has just appeared: much of the time of a short run goes into loading.
    """
    process = os.fork()
    if process:
        return process
    try:
        note = campaign.folder / f"killed{worker}.json"
        campaign.folder = campaign.folder / f"worker{worker}"
        campaign.folder.mkdir()
        campaign.random = random.Random(f"{campaign.seed}/{worker}")
        held, stages = 0, Counter[str]()
        for kill in range(number):
            place = campaign.place()
            if kill % 2:
                done = campaign.run(place, after=campaign.random.uniform(0, 1.02) * campaign.seconds)
            else:
                file = campaign.random.choice(campaign.files)
                done = campaign.run(place, until=lambda at=place, file=file: bool(list(at.glob(f"runs/2*/{file}"))))
            at_end = done.status == 0 or campaign.ended(place)
            stages["its end" if at_end else campaign.stage(place)] += 1
            # Of a run that has ended the same command would begin another one.
            held += campaign.result(place) == campaign.tables if at_end else campaign.finishes(place)
            shutil.rmtree(place)
            note.write_text(json.dumps({"held": held, "stages": stages}))
    finally:
        os._exit(0)


def signals(campaign: Campaign, number: int) -> Outcome:
    """Ctrl-C and the signal of a machine that is taken away."""
    held, tries, ended = 0, 0, []
    for by in [signal.SIGINT, signal.SIGTERM] * number:
        place = campaign.place()
        done = campaign.run(place, until=lambda place=place: bool(list(place.glob("runs/*/completions/*"))), by=by)
        tries += done.signalled
        said = "the same command continues" in done.said
        finished = campaign.finishes(place)
        held += done.signalled and done.status == 130 and said and finished
        ended.append(f"{signal.Signals(by).name}: status {done.status}" + ("" if finished else ", other tables"))
    return Outcome("SIGINT, SIGTERM", tries, held, "one line, status 130; then same tables", "; ".join(ended))


@contextmanager
def disk(place: Path, size: str):
    """A small file system in memory over a folder."""
    content = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        for name, held in content.items():
            (place / name).write_bytes(held)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    """Change the size or the rights of a small file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether file systems can be mounted here."""
    place = folder / "mount"
    place.mkdir()
    try:
        with disk(place, "64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def full_disk(campaign: Campaign, sizes: list[int]) -> Outcome:
    """The disk fills up at one write or another; then there is room again."""
    mounts, held, said = can_mount(campaign.folder), 0, Counter[str]()
    for size in sizes:
        place = campaign.place()
        if mounts:
            with disk(place, f"{size}k"):
                done = campaign.run(place)
                remount(place, "size=64m")
                held += is_clear(done, "cannot write", "No space left on device") and campaign.finishes(place)
        else:
            limit = (max(1, size // 8) * 1024,) * 2
            done = campaign.run(place, before=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
            held += is_clear(done, "cannot write") and campaign.finishes(place)
        said[Path(done.said.partition("cannot write ")[2].partition(": ")[0]).name or done.said[-80:]] += 1
    way = "tmpfs" if mounts else "RLIMIT_FSIZE (nothing can be mounted here)"
    places = ", ".join(f"{name} {count}x" for name, count in said.items())
    return Outcome(f"disk full, by {way}", len(sizes), held, "one line, status 2; then same tables", f"at {places}")


def unwritable(campaign: Campaign) -> Outcome:
    """The disk is read-only before a run begins, and in the middle of one."""
    case = "unwritable folder (read-only file system)"
    if not (campaign.folder / "mount").is_dir() or os.geteuid():
        return Outcome(case, 0, 0, "not tried: nothing can be mounted here", "")
    held, said = 0, ""
    for begun in (False, True):
        place = campaign.place()
        with disk(place, "64m"):
            if begun:
                shutil.copytree(campaign.half / "runs", place / "runs")
            remount(place, "ro")
            done = campaign.run(place)
            remount(place, "rw")
            said = done.said.splitlines()[-1] if done.said else ""
            held += is_clear(done, "cannot write", "Read-only file system") and campaign.finishes(place)
    return Outcome(case, 2, held, "one line, status 2; then same tables", said.partition(";")[0])


def damage(
    campaign: Campaign,
    case: str,
    tries: int,
    spoil: Callable[[Path], None],
    kept: str,
    *,
    said: str,
    may_be_harmless: bool = False,
) -> Outcome:
    """Spoil an unfinished run, then run the same command; what was there is kept under a name that says so."""
    held, line, harmless = 0, "", 0
    for _ in range(tries):
        place = campaign.place(campaign.half)
        folder = next(place.glob("runs/2*"))
        spoil(folder)
        done = campaign.run(place)
        found = next((line for line in done.said.splitlines() if said in line), "")
        line = found or line
        whole = done.status == 0 and campaign.result(place) == campaign.tables and campaign.one(place)
        kept_aside = not kept or bool(list(folder.rglob(kept)))
        harmless += whole and may_be_harmless and not found
        held += whole and (may_be_harmless or (bool(found) and kept_aside))
        shutil.rmtree(place)
    line = line.partition(": ")[2].replace("runs/", "")[:150]
    return Outcome(
        case, tries, held, "said, set aside, same tables", f"{harmless} hit no datum; {line}" if harmless else line
    )


def damages(campaign: Campaign, tries: int) -> list[Outcome]:
    """Every way in which files of a run are not what was written."""
    chance, part = campaign.random, "completions/arms-00001.parquet"
    again, anew = "a part cannot be used and is sampled again", "the manifest was made again"

    def cut(name: str) -> Callable[[Path], None]:
        def spoil(folder: Path) -> None:
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[: chance.randrange(1, len(whole))])

        return spoil

    def flip(folder: Path) -> None:
        whole = bytearray((folder / part).read_bytes())
        whole[chance.randrange(len(whole) // 20, len(whole))] ^= 1 << chance.randrange(8)
        (folder / part).write_bytes(whole)

    def other(folder: Path) -> None:
        shutil.copyfile(folder / "completions/arms-00002.parquet", folder / part)

    def edit(folder: Path) -> None:
        text = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(text.replace("seed: 5", "seed: 6"))

    def manifest(content: bytes) -> Callable[[Path], None]:
        return lambda folder: (folder / "manifest.json").write_bytes(content) and None

    def altered(folder: Path) -> None:
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"arms": ', '"arms": 1', 1))

    name, old = "manifest.json", "manifest.json.damaged"
    return [
        damage(campaign, "truncated Parquet part", tries, cut(part), "*.damaged", said=again),
        damage(
            campaign, "one bit of a Parquet part flipped", tries, flip, "*.damaged", said=again, may_be_harmless=True
        ),
        damage(campaign, "part of another plan", 1, other, "*.other-plan", said=again),
        damage(campaign, "manifest truncated", tries, cut(name), old, said=anew),
        damage(campaign, "manifest of garbage", 1, manifest(chance.randbytes(500)), old, said=anew),
        damage(campaign, "manifest empty", 1, manifest(b""), old, said=anew),
        damage(campaign, "manifest altered, still JSON", 1, altered, old, said=anew),
        damage(campaign, "manifest missing", 1, lambda folder: (folder / name).unlink(), "", said=anew),
        damage(campaign, "config.yaml edited", 1, edit, "config.yaml.changed", said="not what the run began with"),
    ]


def two_processes(campaign: Campaign, tries: int) -> Outcome:
    """A second process takes up a run that a first one is at."""
    held, said = 0, ""
    for _ in range(tries):
        place = campaign.place()
        first = campaign.start(place)
        while not list(place.glob("runs/*/completions/*.parquet")):
            time.sleep(0.01)
        second = campaign.run(place)
        said = second.said
        done = campaign.wait(first)
        same = done.status == 0 and campaign.result(place) == campaign.tables and campaign.one(place)
        held += same and is_clear(second, "is in use by process")
    return Outcome("two processes on one run", tries, held, "one line, status 2; the first: same tables", said)


def clock(campaign: Campaign, tries: int) -> Outcome:
    """The clock goes back by days between a kill and the next run."""

    def back() -> None:
        wall = time.time

        class Earlier(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) - timedelta(days=3)

        time.time = lambda: wall() - 3 * 86400
        runs.datetime = Earlier

    held = 0
    for _ in range(tries):
        place = campaign.place(campaign.half)
        held += campaign.finishes(place, back)
        campaign.run(place, before=back)
        names = sorted(path.name for path in place.glob("runs/2*"))
        held += len(names) == 2 and all((path / "report.html").is_file() for path in place.glob("runs/2*"))
    said = "time.time and datetime.now of the child shifted by -3 days; a later run has an id of its own"
    return Outcome("clock going backwards", 2 * tries, held, "same tables", said)


def markdown(outcomes: list[Outcome], about: str) -> str:
    """The table as Markdown."""
    lines = ["# Fault campaign", "", about, "", "| case | tries | held | ends in | evidence |", "|---|---|---|---|---|"]
    for each in outcomes:
        cells = (each.case, each.tries, each.held, each.outcome, each.evidence)
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every case, show the table and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--both", type=int, default=50, help="kills of a run of both phases")
    parser.add_argument("--tries", type=int, default=10, help="of each damage that has a random place")
    parser.add_argument("--workers", type=int, default=4, help="processes that kill runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("data/reliability"))
    options = parser.parse_args()
    before = circumstances()
    loops.prepare()  # here, for every run
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        began = time.monotonic()
        campaign = Campaign(Path(folder) / "arms", options.seed)
        few = max(1, options.tries // 5)
        sizes = [60, 150, 700, 5000] if options.tries > 1 else [100]
        outcomes = [
            full_disk(campaign, sizes),
            unwritable(campaign),
            *damages(campaign, options.tries),
            two_processes(campaign, few),
            clock(campaign, few),
            signals(campaign, few),
            kills(campaign, "kill -9 at a random moment", options.kills, min(options.kills, options.workers)),
        ]
        if options.both:
            both = Campaign(Path(folder) / "both", options.seed, BOTH)
            name = "kill -9 in a run of both phases"
            outcomes.append(kills(both, name, options.both, min(options.both, options.workers)))
        seconds = time.monotonic() - began
    for each in outcomes:
        about = each.evidence.replace(folder + "/", "")
        outcomes[outcomes.index(each)] = Outcome(each.case, each.tries, each.held, each.outcome, about)
    content = {"seed": options.seed, "seconds": round(seconds, 1), "run_seconds": round(campaign.seconds, 2)}
    content |= {
        "config": CONFIG,
        "config_of_both_phases": BOTH,
        "outcomes": [asdict(each) for each in outcomes],
        **before,
    }
    write_json(content, options.out / "faults.json")
    versions = ", ".join(f"{name} {version}" for name, version in before["versions"].items())
    about = (
        f"`python -m benchmarks.faults --kills {options.kills} --both {options.both} --tries {options.tries} "
        f"--seed {options.seed}`; a run takes {campaign.seconds:.1f} s of processor time and has "
        f"{campaign.parts} parts. "
    )
    about += f"{before['machine']['cpu']}, {versions}, {before['date']}."
    (options.out / "faults.md").write_text(markdown(outcomes, about), encoding="utf-8")
    table = Table("case", "tries", "held", "ends in", "evidence", title=f"fault campaign, {seconds:.0f} s")
    for each in outcomes:
        table.add_row(each.case, str(each.tries), str(each.held), each.outcome, each.evidence)
    Console().print(table)
    sys.exit(any(each.held < each.tries for each in outcomes))


if __name__ == "__main__":
    main()
