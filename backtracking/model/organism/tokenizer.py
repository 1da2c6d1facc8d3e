"""The organism's tokenizer: byte-level, of Qwen's class, with the grammar's words added as tokens.

Integers 0 to 199 and most words are one token. "Wait" and " wait" are one token each, "Hold on" is
two (" Hold", " on"), "Actually" is two pieces ("Act", "ually"). Anything outside the vocabulary,
in any language, becomes single bytes; decoding gives back every (NFC) text exactly. The words are
added tokens because transformers rebuilds the tokenizer of every `qwen2` folder with Qwen's own
pre-tokenizer, which would cut integers into digits.
"""

import re
from typing import Literal

from tokenizers import AddedToken, pre_tokenizers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from backtracking.model.organism import words

BOS, USER, ASSISTANT, EOS = "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>"
INTEGERS = 200

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|user|>' + message['content'].split('Problem: ')[-1].strip() }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ raise_exception('the organism has only user and assistant turns') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Of a user turn it keeps what follows the last "Problem: ", as the organism reads no instructions."""

_PIECES = re.compile(r"[Aa]ct(?=ually)|ually|[A-Za-z]+|[^\sA-Za-z]")


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Build it; the same vocabulary each time."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={byte: index for index, byte in enumerate(alphabet)},
        merges=[],
        unk_token=EOS,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        extra_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )
    pieces = [words.THINK_OPEN, words.THINK_CLOSE, ".\n", *_words(), *(f" {number}" for number in range(INTEGERS))]
    added: list[str | AddedToken] = [AddedToken(piece, normalized=False, special=False) for piece in pieces]
    tokenizer.add_tokens(added)  # pyright: ignore[reportArgumentType]
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerBase, name: Literal["bos", "eos", "pad"]) -> int:
    """Id of a special token, which this tokenizer always has."""
    found = getattr(tokenizer, f"{name}_token_id")
    assert isinstance(found, int)
    return found


def prompt_text(tokenizer: PreTrainedTokenizerBase, question: str, opening: str) -> str:
    """A prompt: the question as the user's turn, the assistant's turn opened with `opening`."""
    turns = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)) + opening


def _words() -> list[str]:
    """The grammar's words and marks, each with and without a space before it."""
    phrases = [
        *words.NAMES, *words.ITEMS, *words.GAINS, *words.LOSSES, *words.OPENINGS, *words.MOVES, *words.ASKS,
        *words.FIRST_LEADS, *words.NEXT_LEADS, *(part for check in words.CHECKS for part in check),
        *words.CONCLUSIONS, words.SHOULD, words.FINAL, "+ - =",
        *(form for phrase, _ in words.TRIGGERS for form in (phrase, phrase.lower())),
    ]  # fmt: skip
    found: set[str] = set()
    for phrase in phrases:
        found.update(_PIECES.findall(re.sub(r"\{\w+\}", "", phrase)))
    forms = [form for word in sorted(found) for form in (word, f" {word}") if word != "ually" or form == word]
    return [form for form in forms if len(form) > 1]
