"""Every key of a config file: what it may be, what it is if not given, and what it means.

All of it is read from the sections themselves, so that the reference cannot fall behind them.
"""

import json
from dataclasses import dataclass
from typing import Any

from backtracking.experiments.config import Config


@dataclass(frozen=True)
class Key:
    """One key of a config."""

    name: str
    """With its section: `generation.top_p`."""
    values: str
    """What it may be."""
    default: str
    """As it would stand in the file."""
    meaning: str


def config_keys() -> tuple[Key, ...]:
    """Every key, section by section."""
    schema = Config.model_json_schema()
    return tuple(_keys(schema, schema, ""))


def reference() -> str:
    """The keys as a page of Markdown."""
    found = [
        "# Keys of a config file",
        "",
        "Written by `backtracking config-keys --markdown`. Every key with a default may be left out; an unknown one is",
        "refused.",
    ]
    section = ""
    for key in config_keys():
        inside = key.name.partition("[]")[0].rpartition(".")[0]
        if not found[-1].startswith("|") or inside != section:
            title = inside or "On its own"
            found += ["", f"## {title}", "", "| key | values | default | meaning |", "|---|---|---|---|"]
            section = inside
        cells = [each.replace("|", "\\|") for each in (f"`{key.name}`", key.values, f"`{key.default}`", key.meaning)]
        found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found) + "\n"


def _keys(schema: dict[str, Any], part: dict[str, Any], prefix: str) -> list[Key]:
    found, sections = [], []
    for name, given in part["properties"].items():
        inner = _section(schema, given)
        if inner is not None:
            sections += _keys(schema, inner, f"{prefix}{name}.")
            continue
        default = json.dumps(given["default"], ensure_ascii=False) if "default" in given else "required"
        found.append(
            Key(prefix + name, _values(schema, given), default, " ".join(given.get("description", "").split()))
        )
        of_each = _section(schema, given.get("items", {}))
        if of_each is not None:
            found += _keys(schema, of_each, f"{prefix}{name}[].")
    return found + sections


def _section(schema: dict[str, Any], given: dict[str, Any]) -> dict[str, Any] | None:
    """The section that a key opens; None for a value."""
    for each in (given, *given.get("anyOf", ())):
        if "$ref" in each and "properties" in (inner := schema["$defs"][each["$ref"].rpartition("/")[2]]):
            return inner
    return None


def _values(schema: dict[str, Any], given: dict[str, Any]) -> str:
    if "$ref" in given:
        inner = schema["$defs"][given["$ref"].rpartition("/")[2]]
        return f"{{{', '.join(inner['properties'])}}}" if "properties" in inner else _values(schema, inner)
    if "anyOf" in given:
        return " or ".join(_values(schema, each) for each in given["anyOf"])
    if "enum" in given or "const" in given:
        return ", ".join(json.dumps(each) for each in given.get("enum", [given.get("const")]))
    kind = given.get("type")
    if kind == "array":
        return f"list of {_values(schema, given['items'])}" if "items" in given else "list"
    if kind == "object":
        inner = given.get("additionalProperties")
        return f"name: {_values(schema, inner)}" if isinstance(inner, dict) else "mapping"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {given[name]:g}" for name, sign in signs.items() if name in given]
    named = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "null": "null"}
    return " ".join([named.get(str(kind), "any"), ", ".join(bounds)]).strip()
