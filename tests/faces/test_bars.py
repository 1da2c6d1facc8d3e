"""Progress: moving bars on a terminal alone, plain lines elsewhere, nothing when quiet."""

import io

from rich.console import Console

from backtracking.faces.bars import EVERY, Bars


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(console: Console, *, quiet: bool = False, seconds: float = 1.0) -> str:
    clock = Clock()
    with Bars(quiet=quiet, console=console, clock=clock) as bars:
        for done in range(1, 61):
            clock.now += seconds
            bars.update("sampling [b]targets[/b]", done, 60)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_a_plain_line_now_and_then_and_no_control_character():
    text = drawn(Console(file=io.StringIO(), force_terminal=False))
    assert len(text.splitlines()) == 60 // EVERY
    assert text.splitlines()[0] == "sampling [b]targets[/b]: 15 of 60"
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_task_of_which_a_line_spoke_says_when_it_is_done():
    console, clock = Console(file=io.StringIO(), force_terminal=False), Clock()
    with Bars(console=console, clock=clock) as bars:
        for now, task, done in ((16, "a", 3), (17, "b", 9), (18, "a", 9), (19, "a", 9), (20, "b", 9)):
            clock.now = now
            bars.update(task, done, 9)
    assert console.file.getvalue().splitlines() == ["a: 3 of 9", "a: 9 of 9"]


def test_what_is_done_soon_says_nothing_in_a_pipe():
    assert drawn(Console(file=io.StringIO(), force_terminal=False), seconds=0.1) == ""


def test_a_terminal_gets_a_bar_that_ends_full():
    text = drawn(Console(file=io.StringIO(), force_terminal=True, width=100))
    assert "\x1b[" in text
    assert "60/60" in text


def test_no_color_leaves_the_bar_without_colour():
    plain = drawn(Console(file=io.StringIO(), force_terminal=True, width=100, _environ={"NO_COLOR": "1"}))
    coloured = drawn(Console(file=io.StringIO(), force_terminal=True, width=100, _environ={}))
    colour = "\x1b[38;5;"
    assert "60/60" in plain
    assert colour not in plain
    assert colour in coloured or "\x1b[3" in coloured


def test_a_dumb_terminal_gets_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert "15 of 60" in drawn(console)


def test_a_notebook_gets_a_bar_or_plain_lines_but_never_a_complaint(monkeypatch):
    console = Console(file=io.StringIO(), force_jupyter=True)
    monkeypatch.setattr("backtracking.faces.bars.importlib.util.find_spec", lambda name: None)
    drawn(console)  # rich would warn that ipywidgets is missing, and warnings are errors


def test_quiet_draws_nothing_anywhere():
    assert drawn(Console(file=io.StringIO(), force_terminal=True), quiet=True) == ""
    assert drawn(Console(file=io.StringIO(), force_terminal=False), quiet=True) == ""
