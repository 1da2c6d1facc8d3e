"""The viewer's page: the same for the server and for a file that holds its own data."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from backtracking.core.atomic import replacing
from backtracking.core.markup import visible
from backtracking.faces.viewer.gallery import Gallery
from backtracking.workspace.secrets import refuse_secrets


def served_page(gallery: Gallery) -> str:
    """The page that fetches its data from the server it came from."""
    return _page(gallery.title, connect="'self'", data=())


def content_policy(*, connect: str = "'self'") -> str:
    """Nothing is loaded but the page's own script and styles, named by their hashes."""
    return (
        f"default-src 'none'; script-src {_hash(_source('viewer.js.jinja'))}; "
        f"style-src {_hash(_source('viewer.css.jinja'))}; connect-src {connect}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def export_page(gallery: Gallery, path: Path) -> Path:
    """Write the page with all its data into one file that needs no network.

    Raises:
        SecretError: A completion holds what looks like a secret; the file is made to be sent to others.
    """
    details = ((f"completion-{n}", gallery.detail_json(n)) for n in range(len(gallery.entries)))
    data = [("index", gallery.index_json()), *details]
    for name, text in data:
        refuse_secrets(
            text, where=name, remedy="choose completions without it; the viewer that is served shows them all"
        )
    with replacing(path) as temporary:
        temporary.write_text(_page(gallery.title, connect="'none'", data=data), encoding="utf-8", newline="\n")
    return path


def _page(title: str, *, connect: str, data: Iterable[tuple[str, str]]) -> str:
    # What goes in as Markup is of this package, or JSON that `to_json` made safe inside a script.
    return _environment().get_template("viewer.html.jinja").render(
        title=visible(title),
        policy=content_policy(connect=connect),
        style=Markup(_source("viewer.css.jinja")),
        script=Markup(_source("viewer.js.jinja")),
        data=[(name, Markup(text)) for name, text in data],
    )  # fmt: skip


def _environment() -> Environment:
    loader = PackageLoader("backtracking.faces", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def _source(name: str) -> str:
    """A script or style sheet as it is written; none of them is filled in."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")


def _hash(source: str) -> str:
    digest = base64.b64encode(hashlib.sha256(source.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
