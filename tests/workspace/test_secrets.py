"""The guard finds secrets however they are escaped, and calls nothing else one."""

import base64
import html
import json
import random
from pathlib import Path
from urllib.parse import quote

import pytest

from backtracking.core.errors import InputError
from backtracking.experiments.problem_sets import load_problems
from backtracking.workspace.known_values import TOKEN_VARIABLES, known_values
from backtracking.workspace.secrets import SecretError, find_secrets, redact, refuse_secrets
from tests.workspace.planted import LETTERS, planted

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "aB3d" * 9
NO_RUN = (".venv", ".cache", ".git", "runs", "snapshots")


@pytest.mark.parametrize("secret", planted(0), ids=lambda each: each.kind)
def test_every_kind_is_found_where_it_stands_and_hidden(project, secret):
    text = f"first line\nthen {secret.text}\nlast line\n"
    found = find_secrets(text)
    assert found, secret.kind
    assert found[0].line == 2
    shown = redact(text)
    assert secret.value not in shown
    assert shown.startswith("first line\n") and shown.endswith("\nlast line\n")
    assert "[hidden: " in shown
    assert find_secrets(shown) == (), "what is hidden is not found again"
    assert secret.value not in repr(found)


@pytest.mark.parametrize(
    "escape",
    [
        json.dumps,
        lambda text: json.dumps(json.dumps(["\n" + text])),
        html.escape,
        quote,
        lambda text: json.dumps(text).replace("/", "\\/"),
        lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
        lambda text: f"\x1b[31m{text}\x1b[0m",
        lambda text: text.replace("_", "\\_"),
        lambda text: "a\\n" * 2000 + text + "\\n b" * 2000,
    ],
    ids=["json", "json in json", "html", "address", "slashes", "code points", "colours", "markdown", "between many"],
)
@pytest.mark.parametrize("secret", planted(1), ids=lambda each: each.kind)
def test_escaping_hides_nothing_from_the_guard(project, secret, escape):
    value = secret.text if secret.kind not in ("private key",) else secret.text.replace("\n", " ")
    text = escape(value)
    assert find_secrets(text), text
    shown = redact(text)
    for _ in range(3):
        shown = html.unescape(shown).replace("\\_", "_")
    assert escape(secret.value).strip('"') not in shown
    assert secret.value not in shown


def test_the_place_of_an_escaped_secret_is_that_in_the_text_itself():
    text = 'ab\n{"x": "\\n\\n' + TOKEN.replace("_", "\\u005f") + ' "}'
    (found,) = find_secrets(text)
    line = text.split("\n")[found.line - 1]
    assert (found.line, found.kind) == (2, "hf token")
    assert line[found.column - 1 : found.end - 1] == TOKEN.replace("_", "\\u005f")


def test_hidden_text_stays_valid_json_and_csv():
    held = {"a": ["x", TOKEN], "b": f"C:\\new {TOKEN}\n", "n": 3}
    assert json.loads(redact(json.dumps(held))) == {
        "a": ["x", "[hidden: hf token]"], "b": "C:\\new [hidden: hf token]\n", "n": 3,
    }  # fmt: skip
    assert redact(f"1,{TOKEN},2").split(",") == ["1", "[hidden: hf token]", "2"]


@pytest.mark.parametrize("token", [TOKEN, "ghp_" + "aB3d" * 9, "github_pat_" + "aB3d" * 20])
@pytest.mark.parametrize("after", ["", " there", '"', "_and_more"])
def test_a_token_directly_after_a_long_name_or_address_is_found(token, after):
    names = ["my_Notebook_Variable_Name_With_Digits_2024_"]
    if after != "_and_more":
        names += [
            "https://example.com/v1/Abcdefghij0123456789Abcdefghij0123456789x_",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ1" * 2,
        ]
    for name in names:
        (found,) = find_secrets(name + token + after, known=())
        assert found.column == len(name) + 1
        assert token not in redact(name + token + after, known=())


def test_letters_of_a_token_in_the_midst_of_data_are_no_alarm():
    chance, found = random.Random(7), 0
    for _ in range(3000):
        data = base64.urlsafe_b64encode(chance.randbytes(300)).decode()
        place = chance.randrange(60, 300)
        found += bool(find_secrets(data[:place] + "hf_" + data[place + 3 :], known=()))
    assert found <= 90, "most are followed by data; a name of words before them is what data seldom look like"


def _ordinary() -> list[str]:
    chance = random.Random(5)
    lines: list[str] = []
    for path in sorted(ROOT.rglob("*")):
        plain = path.suffix in (".py", ".md", ".toml", ".yaml", ".sh", ".jinja", ".json", ".csv", ".lock", ".jsonl")
        if path.is_file() and plain and not set(NO_RUN) & set(path.relative_to(ROOT).parts):
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    for problem in load_problems("organism", n=300):
        lines.append(json.dumps({"id": problem.id, "question": problem.question, "gold": problem.gold}))
    hexadecimal, spread = "0123456789abcdef", LETTERS + "_"
    for number in range(1000):
        sha = "".join(chance.choices(hexadecimal, k=40))
        digest = "".join(chance.choices(hexadecimal, k=64))
        lines += [
            f"commit {sha}",
            f"{sha} refs/heads/main",
            f'"config_hash": "{digest}", "weights_hash": "{digest[::-1]}"',
            f'{{"wandb": "0.31.0", "commit": "{sha}"}}',
            f"wandb==0.31.0 --hash=sha256:{digest}",
            f"x_{''.join(chance.choices(spread, k=60))} = {number}",
            base64.b64encode(chance.randbytes(300)).decode(),
            f"{chance.random():.17g},{chance.getrandbits(200)},{chance.gauss(0, 1e9)}",
            f"https://example.com/a/b?c={number}#d and git@example.com:a/b.git and ssh://git@example.com/a",
            f"Wait, {number} times 2 is {number * 2}. Hold on, let me check: \\frac{{1}}{{{number}}}",
        ]
    return lines


def test_over_ten_thousand_ordinary_lines_raise_no_alarm(project):
    lines = _ordinary()
    assert len(lines) > 10_000
    whole = find_secrets("\n".join(lines))
    assert [lines[found.line - 1][:80] for found in whole] == []
    alone = [line[:80] for line in lines[:: len(lines) // 4000] if find_secrets(line)]
    assert alone == []


@pytest.mark.timeout(180)  # for a hang: linear takes a few seconds, quadratic minutes
def test_ten_megabytes_do_not_hang():
    text = "\n".join(_ordinary())
    text = text * (10**7 // len(text) + 1)
    assert find_secrets(text) == ()


def test_values_of_the_env_file_count_unless_they_are_trivial(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / ".env").write_text(
        "PORT=12345678\nHF_HOME=/data/caches/hf\nWANDB_PROJECT=my-own-project-7\nSHORT=abc12\nWORD=backtracking\n"
        "HF_TOKEN=your-token-here-please\nCITY_KEY=amsterdam\nTHING=some-4-thing-9\nADDRESS=https://example.com/a/b\n"
    )
    assert {value.name for value in known_values(tmp_path)} == {"HF_TOKEN", "CITY_KEY", "THING"}
    assert "amsterdam" not in repr(known_values(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", "anything at all")
    assert "OPENAI_API_KEY" in {value.name for value in known_values(tmp_path)}
    (tmp_path / ".env").write_text("OTHER=changed-99-value\n")
    assert {value.name for value in known_values(tmp_path)} == {"OTHER", "OPENAI_API_KEY"}


@pytest.mark.parametrize(
    "line",
    [
        "SLACK=https://hooks.slack.com/services/T0AAAAAAA/B0BBBBBBB/abcdEFGHijklMNOPqrstUVWX",
        "STORE=https://acct.blob.core.windows.net/c?sv=2024&sig=Zm9vYmFyMTIzZm9vYmFy",
        "HF_ENDPOINT=https://example.com/x?sig=Zm9vYmFyMTIz",
        "DB_LOGIN=correcthorsebatterystaple",
        "PG_PASSWORD=abc1234",
        "SIGNING=/AbCd+EfGh0123456789",
        "PIN=1234567890123456",
        "REMOTE_DEBUG=xJ9-kk2-Lq8-pp1",
        "WORD=abcdEFGHijklMNOPqrst",
        "THING=yours?9truly",
    ],
)
def test_a_value_that_may_be_secret_counts_and_is_hidden(project, line):
    (project / ".env").write_text(line + "\n")
    name, _, value = line.partition("=")
    assert redact(f"x {value} y {json.dumps(value)}") == f'x [hidden: value of {name}] y "[hidden: value of {name}]"'


def test_ordinary_settings_are_no_secrets(tmp_path, monkeypatch):
    for name in TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    there = tmp_path / "AbCdEfGh0123456789"
    there.mkdir()
    (tmp_path / ".env").write_text(
        f"SCRATCH={there}\nDATA=/data/models/Qwen2.5-1.5B-Instruct\nHF_HOME=~/caches/AbCdEfGh0123456789\nPORT=8080\n"
        "SEEDS=1234567890123456\nTOKENIZERS_PARALLELISM=false\nHF_HUB_OFFLINE=1\nPIN_MEMORY=true\nMAX_TOKENS=100000\n"
        "MODEL=deepseek-ai/DeepSeek-R1-Distill-Llama-8B\nMODEL_ID=Qwen/Qwen2.5-1.5B-Instruct\nDEVICE=cuda:0,cuda:1\n"
        "SITE=https://example.com/InstructionFollowing/a-repository\nHUB=https://huggingface.co\n"
        "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5\nLOG_LEVEL=INFORMATION\nREMOTE=my-own-remote-2\n"
        "PASSWORD=secret\nTOKENIZER=deepseek\n"
    )
    assert {value.name for value in known_values(tmp_path)} == set()


def test_a_refusal_names_line_and_kind_and_never_the_value():
    with pytest.raises(SecretError, match=r"the note, line 2: hf token and 1 more; take it out") as raised:
        refuse_secrets(f"a\n{TOKEN}\n{TOKEN}", where="the note", remedy="take it out")
    assert isinstance(raised.value, InputError)
    assert TOKEN not in str(raised.value) + repr(raised.value)
    refuse_secrets("nothing here", where="the note")
