"""What is put around a question: instruction, system text and the formatting variants.

The three variants of the seeds are three prompts that really differ: the model's reasoning is
opened on its own line, on the same line, or not at all. The chat template itself belongs to the
model (`model.tokens`).
"""

from dataclasses import dataclass

from backtracking.core.errors import InputError


@dataclass(frozen=True)
class Variant:
    """A formatting variant: the text that follows the chat template and opens the reasoning."""

    name: str
    think_open: str
    """Appended to the prompt, such as `<think>` and a newline; empty opens nothing."""
    think_close: str = ""
    """What ends the reasoning in this variant; a record of the seeds, the model writes it."""

    @property
    def opens_thinking(self) -> bool:
        """Whether the completion begins inside the reasoning."""
        return bool(self.think_open.strip())


VARIANTS: tuple[Variant, ...] = (
    Variant("baseline_think_newline", "<think>\n", "\n</think>\n"),
    Variant("think_same_line", "<think> ", " </think>\n"),
    Variant("no_think_tags", ""),
)

INSTRUCTION = (
    "Solve the problem carefully.\nUse <think> tags for your reasoning.\n"
    "End with a single line: Final: <answer>\n\nProblem: {question}\n"
)


@dataclass(frozen=True)
class Prompting:
    """How a question becomes a prompt: instruction, system text, variants."""

    template: str = INSTRUCTION
    """The user's message; `{question}` stands for the question."""
    system_prompt: str | None = None
    """The system message, or None for a conversation without one."""
    variants: tuple[Variant, ...] = VARIANTS

    def __post_init__(self) -> None:
        """Refuse a template without a question, no variant, and variants that are one prompt."""
        if "{question}" not in self.template:
            raise InputError("the prompt template has no {question}; every prompt would be equal")
        if not self.variants:
            raise InputError("no formatting variant given")
        opens: dict[str, str] = {}
        names: set[str] = set()
        for variant in self.variants:
            if variant.name in names:
                raise InputError(f"two formatting variants are called {variant.name!r}")
            if variant.think_open in opens:
                raise InputError(
                    f"the variants {opens[variant.think_open]!r} and {variant.name!r} are the same "
                    f"prompt: both open with {variant.think_open!r}"
                )
            names.add(variant.name)
            opens[variant.think_open] = variant.name

    def message(self, question: str) -> str:
        """Return the user's message; braces in the question stay as they are."""
        return self.template.replace("{question}", question)

    def variant(self, name: str) -> Variant:
        """Return the variant of that name, or raise `InputError` naming the valid ones."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        valid = ", ".join(variant.name for variant in self.variants)
        raise InputError(f"unknown formatting variant {name!r}; valid are {valid}")
