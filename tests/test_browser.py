"""The tests' own browser: what it reports as quiet is quiet, and what is not is reported."""

import pytest

from tests.browser import BrowserError, chromium, needs_chromium

BAD = """<script>console.error("boo", 3); fetch("http://example.invalid/x").catch(() => 0); nope()</script>
<img src="https://192.0.2.4/x.png"><p>text"""
GOOD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title><link rel="icon" href="data:,">
</head><body><main><h1>Words</h1><p id="seen">-</p></main><script>
addEventListener("keydown", event => document.getElementById("seen").textContent = event.key)
</script></body></html>"""


@needs_chromium
def test_the_browser_reports_errors_requests_and_violations_and_only_those(tmp_path):
    (tmp_path / "bad.html").write_text(BAD)
    (tmp_path / "good.html").write_text(GOOD)
    with chromium() as browser:
        page = browser.open((tmp_path / "bad.html").as_uri(), width=400)
        said = "\n".join(page.errors)
        assert "boo 3" in said
        assert "nope is not defined" in said
        assert set(page.outside_requests()) == {"http://example.invalid/x", "https://192.0.2.4/x.png"}
        assert any(line.startswith("image-alt (critical)") for line in page.serious_violations())
        good = browser.open((tmp_path / "good.html").as_uri(), width=400, dark=True)
        assert (good.errors, good.outside_requests(), good.serious_violations()) == ([], [], [])
        assert good.evaluate("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [400, True]
        assert not good.overflows()
        for key in ("j", "ArrowDown"):
            good.press(key)
            assert good.evaluate("document.getElementById('seen').textContent") == key
        with pytest.raises(BrowserError, match="ReferenceError"):
            good.evaluate("nope()")
