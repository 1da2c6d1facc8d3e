"""Completions as HTML for notebooks: text as text, every trigger marked, legible on light and dark pages.

No script and no style sheet: styles are inline, colours are translucent over the page's own, and every
distinction has a line as well as a colour.
"""

import html
from collections.abc import Sequence

import regex as re

from backtracking.core.completions import Completion
from backtracking.core.onsets import Onset, find_onsets

FOLD = 1500
"""Characters above which a text is folded away."""
SHOWN = 20
"""Completions of a sequence that are shown; the line below says how many there are."""

COUNTS = "background:rgba(230,159,0,.35);border-bottom:3px solid #d55e00;color:inherit"
OTHER = "background:none;border-bottom:2px dotted #808080;color:inherit"
_BOX = "white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;font-family:ui-monospace,monospace"
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with characters that HTML cannot hold or show replaced, one by one.

    Control characters become their pictures (NUL is ␀); lone surrogates, and characters that turn the
    direction of writing, become the replacement character.
    """
    return _UNSEEN.sub(_picture, text)


def escaped(text: str) -> str:
    """Text that is only ever text inside HTML, also inside a quoted attribute."""
    return html.escape(visible(text))


def marked(text: str, onsets: Sequence[Onset]) -> str:
    """The text as HTML: triggers that count strongly marked, others weakly, with the reason as a tooltip."""
    parts, here = [], 0
    for onset in onsets:
        style = COUNTS if onset.counts else OTHER
        parts += [
            escaped(text[here : onset.char]),
            f'<mark style="{style}" title="{escaped(reason(onset))}">{escaped(text[onset.char : onset.end])}</mark>',
        ]
        here = onset.end
    return "".join([*parts, escaped(text[here:])])


def reason(onset: Onset) -> str:
    """Whether a trigger counts as backtracking, and why not, in a few words."""
    kind = "strict" if onset.strict else "relaxed"
    return f"{kind} trigger, counts" if onset.counts else f"{kind} trigger, does not count: {onset.context}"


def completion_html(completion: Completion) -> str:
    """One completion: a line about it and its text, folded when it is long."""
    onsets = find_onsets(completion.text)
    box = f'<div dir="auto" style="{_BOX}">{marked(completion.text, onsets)}</div>'
    if len(completion.text) <= FOLD:
        return f"<div><div>{_summary(completion, onsets)}</div>{box}</div>"
    return f"<details><summary>{_summary(completion, onsets)}; unfold to read</summary>{box}</details>"


def completions_html(completions: Sequence[Completion]) -> str:
    """The first completions, each folded under a line about it, and how many there are."""
    folded = []
    for completion in completions[:SHOWN]:
        onsets = find_onsets(completion.text)
        box = f'<div dir="auto" style="{_BOX}">{marked(completion.text, onsets)}</div>'
        folded.append(f"<details><summary>{_summary(completion, onsets)}</summary>{box}</details>")
    count = len(completions)
    conditions = len({completion.condition for completion in completions})
    told = f"{count} completions of {conditions} conditions" + (f"; the first {SHOWN}:" if count > SHOWN else "")
    return f"<div><div>{told}</div>{''.join(folded)}</div>"


def _summary(completion: Completion, onsets: Sequence[Onset]) -> str:
    counted = sum(onset.counts for onset in onsets)
    others = f" (and {len(onsets) - counted} that do not count)" if counted < len(onsets) else ""
    return (
        f"<b>{escaped(str(completion.problem_id))}</b>, sample {completion.sample_id}, "
        f"{escaped(completion.condition)}, {escaped(completion.variant)}: {len(completion.ids)} tokens, "
        f"{completion.finish_reason}, {counted} trigger{'' if counted == 1 else 's'}{others}"
    )


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
