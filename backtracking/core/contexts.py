"""Whether a trigger word is used to backtrack, or as an ordinary word.

Each rule looks at a few words around the trigger and errs towards "plain": a label other than
"plain" says that the use is recognisably something else.

- "quoted": inside quotation marks or backticks on one line, or among `MIN_SHARED_WORDS` consecutive
  words that the question has too;
- "noun": the wait, a 20-minute wait, wait time, by mistake;
- "verb": have to wait, wait for, wait until, wait 5 minutes, they wait here, hold on to. "Wait a
  minute" is plain, and so is any "wait" that a comma follows, unless "to" or an auxiliary stands
  before it;
- "adverb": "actually" inside a clause (he actually paid). Plain: "Actually" at the start of a
  sentence, "actually" with a comma after it, after "but", "wait", "no", "hmm", "oh", "well", or
  after a comma where a new clause opens (", actually I think"). The published study counted every
  "actually" and every "wait", so its rates are higher;
- "negated": no mistake, without a mistake, I don't think I was wrong.
"""

from typing import Literal

import regex as re

Context = Literal["plain", "quoted", "noun", "verb", "adverb", "negated"]

MIN_SHARED_WORDS = 4
"""Consecutive words, the trigger among them, that text and question must share for the trigger to
be a quotation."""

_NEAR = 80
_QUOTATION = re.compile(
    r"(?<![^\s(\[{>*_—-])\"(?=\S)[^\"\n]{1,300}(?<=\S)\"(?![^\W_])|“[^“”\n]{1,300}”|«[^«»\n]{1,300}»"
    r"|(?<![\w`])`[^`\n]{1,300}`(?![\w`])|(?<![\w'])'(?=\S)[^'\n]{1,100}(?<=\S)'(?![\w'])"
)
_WORD = re.compile(r"\w+(?:['’]\w+)?")

_UNIT = r"(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?|mins?|hrs?)"
_DETERMINERS = frozenset((
    "the", "a", "an", "this", "his", "her", "their", "its", "my", "our", "your", "each",
    "every", "average", "total", "long", "longer", "short", "shorter",
))  # fmt: skip
_AUXILIARIES = frozenset((
    "to", "must", "will", "would", "can", "could", "should", "shall", "may", "might", "cannot",
    "did", "do", "does", "not", "can't", "can’t",
))  # fmt: skip
_SUBJECTS = frozenset((
    "they", "we", "you", "i", "and", "or", "then", "who", "people", "customers", "students",
    "passengers",
))  # fmt: skip
_TURNS = frozenset((
    "but", "wait", "no", "hm", "hmm", "hmmm", "oh", "well",
))  # fmt: skip
_NEGATIONS = frozenset((
    "no", "not", "without", "never", "avoid", "any", "cannot",
))  # fmt: skip
_NOUN_AFTER = re.compile(r"[ _-](?:times?|lists?|periods?|rooms?|lines?|staff|hours?|queues?)(?![^\W_])", re.IGNORECASE)
_TIMED = re.compile(rf"(?:.*-)?{_UNIT}-?", re.IGNORECASE)
_VERB_AFTER = re.compile(
    r"\s{1,3}(?:for|until|till|in\s+(?:line|the\s+line|a)|at\s+the|another|longer"
    r"|(?:an?|one|two|three|four|five|six|ten)[\s-]{1,3}(?:more\s+)?"
    r"(?!minute\b|second\b|sec\b|moment\b)"
    rf"{_UNIT}|\d[\d.,]*+(?:\s|-)+(?:more\s+)?{_UNIT})(?![^\W_])",
    re.IGNORECASE,
)
_HOLD_ON_TO = re.compile(r"\s{1,3}to(?![^\W_])", re.IGNORECASE)
_OPENS_CLAUSE = re.compile(
    r"\s{1,3}(?:i|we|it|that|this|the|there|he|she|they|you|let|let['’]s|maybe|no|wait|if|since|each)(?![^\W_])",
    re.IGNORECASE,
)


def quotations(text: str) -> list[tuple[int, int]]:
    """Start and end of every quotation on one line of the text, in order."""
    return [match.span() for match in _QUOTATION.finditer(text)]


def shared_runs(question: str) -> frozenset[tuple[str, ...]]:
    """Every run of `MIN_SHARED_WORDS` words of the question, in lower case."""
    words = [word.lower() for word in _WORD.findall(question)]
    return frozenset(tuple(words[i : i + MIN_SHARED_WORDS]) for i in range(len(words) - MIN_SHARED_WORDS + 1))


def is_shared(text: str, start: int, end: int, runs: frozenset[tuple[str, ...]]) -> bool:
    """Whether `text[start:end]` and words beside it form a run of words that is in `runs`."""
    if not runs:
        return False
    reach = MIN_SHARED_WORDS - 1
    before = _WORD.findall(text[max(0, start - _NEAR) : start])[-reach:]
    own = _WORD.findall(text[start:end])
    after = _WORD.findall(text[end : end + _NEAR])[:reach]
    words = [word.lower() for word in (*before, *own, *after)]
    first = max(0, len(before) + len(own) - MIN_SHARED_WORDS)
    return any(tuple(words[i : i + MIN_SHARED_WORDS]) in runs for i in range(first, len(before) + 1))


def usage(text: str, start: int, end: int) -> Context:
    """How `text[start:end]`, an occurrence of a trigger, is used, quotations aside."""
    phrase = text[start:end].lower()
    if phrase == "wait":
        return _wait(text, start, end)
    if phrase == "actually":
        return "plain" if text[start].isupper() or _actually_turns(text, start, end) else "adverb"
    if phrase.startswith("hold") and phrase.split() == ["hold", "on"]:
        return _hold_on(text, start, end)
    if phrase == "mistake" or phrase.split() == ["i", "was", "wrong"]:
        return _admission(text, start, is_noun=phrase == "mistake")
    return "plain"


def _words_before(text: str, start: int) -> list[str]:
    """The last words before the trigger, lower case; none where no space lies between."""
    before = text[max(0, start - _NEAR // 2) : start]
    return before.lower().split() if before[-1:].isspace() or before.endswith("-") else []


def _is_noun_before(word: str) -> bool:
    return word in _DETERMINERS or _TIMED.fullmatch(word) is not None


def _is_auxiliary(word: str) -> bool:
    return word in _AUXILIARIES or word.endswith(("n't", "n’t", "'ll", "’ll"))


def _wait(text: str, start: int, end: int) -> Context:
    if _NOUN_AFTER.match(text, end):
        return "noun"
    if _VERB_AFTER.match(text, end):
        return "verb"
    words = _words_before(text, start)
    if text[start].isupper() or not words:
        return "plain"
    if _is_noun_before(words[-1]):
        return "noun"
    goes_on = text[end : end + 1].isspace() and text[end + 1 : end + 2].isalnum()
    return "verb" if _is_auxiliary(words[-1]) or (goes_on and words[-1] in _SUBJECTS) else "plain"


def _hold_on(text: str, start: int, end: int) -> Context:
    words = _words_before(text, start) or [""]
    if _HOLD_ON_TO.match(text, end) or _is_auxiliary(words[-1]):
        return "verb"
    return "noun" if text[start].islower() and _is_noun_before(words[-1]) else "plain"


def _actually_turns(text: str, start: int, end: int) -> bool:
    """Whether a lower-case "actually" opens a correction, see the module's docstring."""
    if text[end : end + 5].lstrip("*_ ").startswith((",", "…", "...", "—")):
        return True
    words = [word.rstrip(",.…-") for word in _words_before(text, start)[-2:]]
    if words and (words[-1] in _TURNS or words == ["hold", "on"]):
        return True
    before = text[max(0, start - _NEAR // 2) : start]
    kept = before.rstrip(" \t*_\"'“‘([>#`-")
    if not kept or kept[-1] in ".!?:;\n…—":
        return True
    return kept[-1] == "," and _OPENS_CLAUSE.match(text, end) is not None


def _admission(text: str, start: int, *, is_noun: bool) -> Context:
    """Of "mistake" and "I was wrong": negated when one of the four words before denies it."""
    words = _words_before(text, start)
    if is_noun and words[-1:] == ["by"]:
        return "noun"
    for word in words[:-5:-1]:
        if word in _NEGATIONS or word.endswith(("n't", "n’t")):
            return "negated"
        if word == "but" or not word[-1].isalnum():
            break
    return "plain"
