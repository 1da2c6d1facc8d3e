"""The one way from text to token ids and back.

Prompts are built here (chat template, formatting variant, exactly one BOS), and sampled ids become
text with the character at which each of them begins. Nothing else in the library tokenises.
"""

from collections.abc import Sequence
from functools import lru_cache

import jinja2
from transformers import PreTrainedTokenizerBase

from backtracking.core.errors import InputError
from backtracking.core.problems import Problem
from backtracking.core.prompts import Prompting, Variant

THINK_TAG = "<think>"
LONGEST_LETTER = 4  # bytes of a letter in UTF-8


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, variant: Variant, prompting: Prompting
) -> list[int]:
    """Token ids of the prompt of a problem in a formatting variant.

    With a chat template the instruction is the user's turn and the assistant's turn is open; the
    template's own BOS stands, and the tokenizer adds none. A template that opens the reasoning by
    itself (DeepSeek-R1's ends in `<think>`) has that removed, so that the variants differ. Without
    a chat template the instruction is plain text after one BOS, if the tokenizer has one.

    Raises:
        InputError: The template refuses the conversation, such as one with a system message, or the question is no
            text that can be encoded.
    """
    given = (problem.question, prompting.template, prompting.system_prompt or "", variant.think_open)
    if any("\ud800" <= character <= "\udfff" for character in "".join(given)):
        raise InputError(f"the prompt of {problem.id!r} holds half a character (a lone surrogate); mend its text")
    text = rendered_prompt(tokenizer, problem.question, variant, prompting)
    ids = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if not isinstance(bos, int):
        return ids
    wants_bos = tokenizer.chat_template is None or _adds_bos(tokenizer)
    while len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    return [bos, *ids] if wants_bos and ids[:1] != [bos] else ids


def rendered_prompt(tokenizer: PreTrainedTokenizerBase, question: str, variant: Variant, prompting: Prompting) -> str:
    """The prompt as text, up to and including what opens the reasoning."""
    message = prompting.message(question)
    if tokenizer.chat_template is None:
        system = "" if prompting.system_prompt is None else f"{prompting.system_prompt}\n\n"
        return f"{system}{message}{variant.think_open}"
    turns = [{"role": "user", "content": message}]
    if prompting.system_prompt is not None:
        turns.insert(0, {"role": "system", "content": prompting.system_prompt})
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except jinja2.TemplateError as error:
        raise InputError(
            f"the model's chat template refuses the conversation ({error}); "
            "a template without a system role needs system_prompt: null"
        ) from error
    stem = str(text)
    if stem.rstrip().endswith(THINK_TAG):
        stem = stem.rstrip().removesuffix(THINK_TAG)
    return stem + variant.think_open


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of the ids, every special token written out and no space cleaned away."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def decode_with_offsets(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """Text of the ids and, for each id, the character of the text at which it begins.

    A token that ends inside a letter of several bytes begins, like the one that completes the
    letter, at that letter.
    """
    text = decode(tokenizer, ids)
    pieces = _pieces(tokenizer, ids)
    if "".join(pieces) != text:
        return text, _offsets_by_prefix(tokenizer, ids, text)
    starts, here = [], 0
    for piece in pieces:
        starts.append(here)
        here += len(piece)
    return text, tuple(starts)


def tokens_that_begin(tokenizer: PreTrainedTokenizerBase, triggers: Sequence[str]) -> tuple[int, ...]:
    """Every token id that begins one of the triggers, with or without a space before it.

    That is every token of the vocabulary whose text is a whole trigger in any case, whatever follows it ("Wait",
    " wait", "WAIT", "Wait,"), and the first token of each trigger as the tokenizer writes it as given, in lower case
    and capitalised, even where other words begin with it ("Hold" for "Hold on", "Act" for "Actually"). Of its upper
    case the first token is one only if it holds the first word whole ("HOLD"): a piece such as "W" or "AC" begins too
    many other words to be forbidden.

    Under a ban these tokens cannot be sampled. What a ban cannot stop is a trigger spelt out of pieces: in upper or
    mixed case ("W" and "AIT", "wA" and "it"), in other pieces than the tokenizer writes it in ("Wa" and "it"), or
    after a mark in one token (".Wait"). An onset detector counts these, and reports warn of them.

    As a reading, the probability of a trigger is that of all these tokens together, at one position. It holds "Act"
    where "Action" would follow, and lacks the same spellings.

    Raises:
        InputError: No token begins a trigger, so that banning it would do nothing.
    """
    found: set[int] = set()
    for trigger in triggers:
        written = {trigger, trigger.lower(), trigger.capitalize()}
        begins = {token for token, piece in enumerate(_vocabulary(tokenizer)) if _is_whole_trigger(piece, trigger)}
        for form in written:
            begins |= _first_token(tokenizer, form) | _first_token(tokenizer, f" {form}")
        shouted = _first_token(tokenizer, trigger.upper()) | _first_token(tokenizer, f" {trigger.upper()}")
        begins |= {token for token in shouted if _is_whole_trigger(_piece(tokenizer, token), trigger.split()[0])}
        if not begins:
            raise InputError(f"no token of this model begins {trigger!r}; it cannot be banned")
        found |= begins
    return tuple(sorted(found))


def _is_whole_trigger(piece: str, trigger: str) -> bool:
    stripped = piece.lstrip().casefold()
    rest = stripped.removeprefix(trigger.casefold())
    return rest != stripped and not rest[:1].isalnum()


def _first_token(tokenizer: PreTrainedTokenizerBase, text: str) -> set[int]:
    """The first id of `text` that is not blank; none where the tokenizer does not know it."""
    for token in tokenizer.encode(text, add_special_tokens=False):
        if token == tokenizer.unk_token_id:
            return set()
        if _piece(tokenizer, token).strip():
            return {token}
    return set()


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.encode("")[:1] == [tokenizer.bos_token_id]


@lru_cache(maxsize=1 << 20)
def _piece(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return decode(tokenizer, [token])


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    return tuple(decode(tokenizer, [token]) for token in range(len(tokenizer)))


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Text that each id completes; ids that end inside a letter are held and complete nothing."""
    pieces: list[str] = []
    held: list[int] = []
    for token in ids:
        piece = decode(tokenizer, [*held, token]) if held else _piece(tokenizer, token)
        incomplete = piece.endswith("�") and len(held) < LONGEST_LETTER
        held = [*held, token] if incomplete else []
        pieces.append("" if incomplete else piece)
    return pieces


def _offsets_by_prefix(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """Offsets from decoding ever longer prefixes: exact for every tokenizer, quadratic in length.

    A prefix that ends inside a letter decodes to a replacement character; what counts is how much
    of it agrees with the whole text.
    """
    return tuple(_common_prefix(decode(tokenizer, ids[:index]), text) for index in range(len(ids)))


def _common_prefix(prefix: str, text: str) -> int:
    if text.startswith(prefix) and not prefix.endswith("�"):
        return len(prefix)
    agree = 0
    while agree < min(len(prefix), len(text)) and prefix[agree] == text[agree]:
        agree += 1
    while agree > 0 and text[agree - 1] == "�":
        agree -= 1
    return agree
