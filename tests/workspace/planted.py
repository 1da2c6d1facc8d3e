"""Made-up secrets of every kind, put together at run time so that no file holds one."""

import base64
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

LETTERS = string.ascii_letters + string.digits
ENV = {
    "MY_SERVICE_PASSWORD": "zebra#unicorn&4471/" + "Wq",
    "STRANGE": "q7-" + "Tä8<x>" + "-z9Kk",
}
"""What the `.env` of the tests holds."""


@dataclass(frozen=True)
class Planted:
    """A text with a secret in it."""

    kind: str
    text: str
    value: str
    """What must not get through."""


def planted(seed: int) -> Iterator[Planted]:
    """One secret of each kind."""
    chance = random.Random(seed)

    def some(length: int, letters: str = LETTERS) -> str:
        return "".join(chance.choices(letters, k=length))

    def alone(kind: str, value: str) -> Planted:
        return Planted(kind, f"see {value} there", value)

    yield alone("hf", "hf_" + some(34))
    for prefix in ("ghp", "gho", "ghu", "ghs", "ghr"):
        yield alone(prefix, f"{prefix}_" + some(36))
    yield alone("github_pat", "github_pat_" + some(22) + "_" + some(59))
    key = some(40, "0123456789abcdef")
    yield Planted("wandb", f'wandb.login(key="{key}")', key)
    key = some(40, "0123456789abcdef")
    yield Planted("wandb env", f"export WANDB_API_KEY={key}", key)
    yield alone("wandb v1", "wandb_v1_" + some(27) + "_" + some(41))
    yield alone("openai", "sk-" + some(48))
    yield alone("openai project", "sk-proj-" + some(48, LETTERS + "_-") + "x")
    yield alone("openai service", "sk-svcacct-" + some(48, LETTERS + "_-") + "x")
    yield alone("anthropic", "sk-ant-api03-" + some(93, LETTERS + "_-") + "AA")
    yield alone("aws id", "AKIA" + some(16, string.ascii_uppercase + "234567"))
    yield alone("aws session id", "ASIA" + some(16, string.ascii_uppercase + "234567"))
    key = "aB3" + some(37, LETTERS + "/+")
    yield Planted("aws secret", f"aws_secret_access_key = {key}", key)
    yield alone("aws session token", "IQoJb3JpZ2luX2Vj" + some(300, LETTERS + "/+") + "==")
    body = "\n".join(some(64, LETTERS + "/+") for _ in range(3))
    block = "-----BEGIN RSA PRIVATE " + f"KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    yield Planted("private key", block, body.split("\n")[1])
    secret = some(20)
    yield Planted("url", f"git clone https://me:{secret}@example.com/x.git", secret)
    secret = some(24)
    yield Planted("url token", f"https://{secret}@example.com/x.git", secret)
    value = ENV["MY_SERVICE_PASSWORD"]
    yield Planted(".env", f"log in with {value} now", value)
    yield Planted(".env in an address", f"GET /?p={quote(value, safe='')}&x=1", quote(value, safe=""))
    encoded = base64.b64encode(f"me:{value}".encode()).decode()
    yield Planted(".env in base 64", f"Authorization: Basic {encoded}", encoded[8:24])
    yield Planted(".env, no ASCII", f"say {ENV['STRANGE']} twice", ENV["STRANGE"])
