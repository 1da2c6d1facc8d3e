"""Whether two formulas are the same, by math-verify, without its ways to hang or to raise.

math-verify stops itself with signals, which only work in the main thread of a Unix process; here
its timeouts are off and what could run long is refused beforehand: long or deep input, large or
nested powers, factorials, sums, integrals.
"""

import logging
import re
from functools import lru_cache

_MAX_CHARACTERS = 80
_MAX_GROUPS = 16
_HEAVY = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|binom|begin|input|def|over|mod)|!|\d{30}|\*\*|\d\W{0,2}[eE]\W{0,3}\d{2}"
    r"|\^[\s{(+-]*(?:\d{3}|[3-9]\d|2[1-9])"
    r"|\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp)\w*\s*(?:\^|_\S*\s*\^)"
)
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp|arc|sinh|cosh|tanh)")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_POWER = re.compile(r"\^")
_SPACING = re.compile(r"\\\$|\\[,;:! ]|\\(?:left|right|displaystyle)(?![A-Za-z])|[\s$]")


def same_formula(gold: str, answer: str) -> bool:
    """Whether two formulas are equal as written up to spacing, or equal for math-verify.

    A formula too heavy to compare safely is only compared as written.
    """
    if len(gold) > 10 * _MAX_CHARACTERS or len(answer) > 10 * _MAX_CHARACTERS:
        return gold == answer
    gold, answer = _tidy(gold), _tidy(answer)
    if gold == answer:
        return True
    if _has_variable(answer) and not _has_variable(gold) and not re.search(r"=|\\in", answer):
        return False
    return _is_light(gold) and _is_light(answer) and _verify(gold, answer)


def _tidy(formula: str) -> str:
    return _SPACING.sub("", formula).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


def _has_variable(formula: str) -> bool:
    return re.search(r"[a-df-hj-zA-Z]", _COMMAND.sub(" ", formula)) is not None


def _is_light(formula: str) -> bool:
    if len(formula) > _MAX_CHARACTERS or _HEAVY.search(formula):
        return False
    functions = len(_FUNCTION.findall(formula))
    if functions and ("\\infty" in formula or "i" in _COMMAND.sub(" ", formula)):
        return False
    if functions > 2 or len(_POWER.findall(formula)) > 4:
        return False
    groups = formula.count("{") + formula.count("(")
    return groups <= _MAX_GROUPS and not _has_tower(formula)


def _has_tower(formula: str) -> bool:
    """Whether a power stands in an exponent, as in `9^{9^9}` or `9^9^9`."""
    inside: list[bool] = []
    for i, character in enumerate(formula):
        if character in "{(":
            inside.append(formula[i - 1 : i] == "^" or (bool(inside) and inside[-1]))
        elif character in "})" and inside:
            inside.pop()
        elif character == "^" and ((inside and inside[-1]) or formula[max(0, i - 2) : i - 1] == "^"):
            return True
    return False


@lru_cache(maxsize=4096)
def _verify(gold: str, answer: str) -> bool:
    # imported late: it takes a second and is rarely needed
    from math_verify import LatexExtractionConfig, parse, verify

    # it warns that its timeouts are off, which is meant
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    config = (LatexExtractionConfig(),)
    wanted = parse(f"${gold}$", config, fallback_mode="no_fallback", parsing_timeout=0)
    given = parse(f"${answer}$", config, fallback_mode="no_fallback", parsing_timeout=0)
    return bool(wanted) and bool(given) and verify(wanted, given, timeout_seconds=None)
