"""The report page at the widths of a laptop and of a phone, in a browser where there is one."""

import json
from pathlib import Path

import pytest

from tests.unit.browser import CHROMIUM, browser
from tinydistilbert.report import page

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]
STYLE = (Path(page.__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
SPEED = "".join(f"<td>{text}</td>" for text in ["17.4 M", "18", "–", "–", *["263.4–284.5; 1.00×"] * 3])
ERROR = '<td>Return the greatest common divisor.</td><td>development</td><td class="wrong">mathematics (84\u00a0%)</td>'
BODY = f"""<main>
<div class="scroll"><table class="scores"><tbody><tr class="measured">
<th scope="row">Compressed (library-area), ONNX Runtime int8</th>{SPEED}</tr></tbody></table></div>
<div class="scroll"><table class="surest"><thead><tr><th>Text</th><th>Label</th><th>Small model</th></tr></thead>
<tbody><tr>{ERROR}<td>text (48\u00a0%)</td></tr></tbody></table></div>
<section class="use"><pre class="scroll">tinydistilbert predict {"runs/quickstart/" * 12}best "A text."</pre></section>
</main>"""


def test_tables_and_commands_fit_the_page(tmp_path: Path) -> None:
    html = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{BODY}"
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    with browser(tmp_path / "profile") as shown:

        def hidden(width: int) -> dict[str, int]:
            """By its class, how many pixels of each box are seen by scrolling alone."""
            shown("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
            shown("Page.navigate", url=(tmp_path / "page.html").as_uri())
            shown.wait("document.readyState == 'complete' && document.querySelector('.use') !== null", 30)
            boxes = "[...document.querySelectorAll('.scroll')]"
            name = "(box.firstElementChild ?? box.parentElement).className"
            return dict(
                json.loads(
                    shown.value(f"JSON.stringify({boxes}.map(box => [{name}, box.scrollWidth - box.clientWidth]))")
                )
            )

        assert hidden(1280) == {"scores": 0, "surest": 0, "use": 0}
        on_a_phone = hidden(390)
        assert on_a_phone["surest"] == on_a_phone["use"] == 0 < on_a_phone["scores"]
        named = "getComputedStyle(document.querySelector('.surest td:nth-child(3)'), '::before').content"
        assert shown.value(named) == '"Small model"', "its heading is not shown there"
