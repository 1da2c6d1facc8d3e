"""Hiding a secret, whole or cut anywhere, leaves the document around it a document."""

import html
import json
import random

import pytest

from backtracking.experiments.runs import RunFolder
from backtracking.workspace.guarded import HiddenSecretWarning, hide_in_values
from backtracking.workspace.secrets import find_secrets, hide, redact
from tests.workspace.planted import LETTERS, planted

BEGIN = "-----BEGIN RSA PRIVATE " + "KEY-----"
KEY = BEGIN + "\nMIIEowIBAAKCAQEA"
LINE = "".join(random.Random(1).choices(LETTERS + "+/", k=64))
OPENINGS = ("", "\n", "\t\\", 'say "', "C:\\", "é\n")
CLOSINGS = ("", "\n", '"', "\\", "\n\nthen it went on\n", "</b> é")


def cuts(text: str):
    """The text cut at every place near its ends and at some between."""
    return sorted({*range(1, min(len(text), 90)), *range(90, len(text), 7), len(text)})


@pytest.mark.parametrize("secret", planted(9), ids=lambda each: each.kind)
def test_a_json_document_stays_one_with_the_same_keys(project, secret):
    for number, cut in enumerate(cuts(secret.text)):
        text = OPENINGS[number % 6] + secret.text[:cut] + CLOSINGS[number // 6 % 6]
        held = {"secret_key": text, "inner": json.dumps({"a": text, "b": [text]}), "kept": "as it is", "n": 3}
        for ascii_only in (True, False):
            shown = json.loads(redact(json.dumps(held, ensure_ascii=ascii_only)))
            assert list(shown) == list(held), text
            assert (shown["kept"], shown["n"]) == ("as it is", 3)
            assert list(json.loads(shown["inner"])) == ["a", "b"]


@pytest.mark.parametrize("secret", planted(9), ids=lambda each: each.kind)
def test_a_page_keeps_its_tags_and_the_text_beside(project, secret):
    for cut in cuts(secret.text):
        around = "<html><p>{}</p><h2>Findings</h2>" + "<p>important text</p>" * 20 + "</html>"
        shown = redact(around.format(html.escape(secret.text[:cut])))
        before, _, after = around.partition("{}")
        assert shown.startswith(before) and shown.endswith(after), secret.text[:cut]


def test_a_truncated_key_loses_nothing_of_manifest_and_log(tmp_path):
    with pytest.warns(HiddenSecretWarning):
        assert hide_in_values({"a": KEY, "b": "kept"}) == {"a": "[hidden: private key]", "b": "kept"}
    folder = RunFolder(tmp_path / "run")
    folder.log("unit failed", reason=KEY, rows=3)
    line = json.loads((folder.path / "log.jsonl").read_text())
    assert (line["event"], line["reason"], line["rows"]) == ("unit failed", "[hidden: private key]", 3)


@pytest.mark.parametrize(
    "text",
    [
        KEY + " and then the model went on",
        KEY + "\n\n## Findings\n",
        f"{BEGIN}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00FF\n\n{LINE}\n{LINE[:20]}=\n\nand so on",
        f"{BEGIN} {LINE} abc -----END RSA PRIVATE KEY----- and so on",
    ],
)
def test_a_key_ends_where_ordinary_text_begins(text):
    shown, hidden = hide(text, known=())
    assert hidden == {"private key": 1}
    assert LINE[:20] not in shown and "MIIE" not in shown and "Proc" not in shown and "abc" not in shown
    assert shown.endswith(text[-6:]) and len(shown) > 30


@pytest.mark.parametrize(
    "between",
    ['\\n",\n    "', "\n# ", "</td></tr>\n<tr><td>", '\\n"\n"', "\r\n> "],
    ids=["strings of a list", "comment", "rows of a page", "strings of code", "quotation"],
)
def test_each_line_of_a_key_is_hidden_where_something_stands_between_them(between):
    text = between.join((BEGIN, LINE, LINE[::-1], LINE[:9] + "=", "-----END RSA PRIVATE KEY-----"))
    shown = redact(f"x{between}{text}{between}y", known=())
    assert LINE[:9] not in shown and LINE[:-12:-1] not in shown
    assert shown.startswith(f"x{between}[hidden: private key]{between}[hidden") and shown.endswith(f"{between}y")


def test_the_name_of_a_key_alone_is_no_key():
    assert find_secrets(f'if text.startswith("{BEGIN}"): raise ValueError("a private key")', known=()) == ()
