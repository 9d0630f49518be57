"""What every page of a report is made of: a document that needs no network, and data that cannot leave its place.

All data is escaped or set as text, the page forbids every request, and it runs no script but its own, named
by its hash.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

from hybrid.report_style import STYLE


def document(title: str, body: str, data: Mapping[str, Any], script: str, style: str = "") -> str:
    """A page: `body` is markup, `data` is embedded as JSON under each key's id, `style` follows the common one."""
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    held = "\n".join(f'<script type="application/json" id="{name}">{embedded(x)}</script>' for name, x in data.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{allowed}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
{held}
<script>{script}</script>
</body>
</html>
"""


def embedded(data: Any) -> str:
    """JSON that cannot end its script element or open a comment, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def link(beside: str | None, text: str) -> str:
    """A line that leads to a page in the same folder; nothing where there is none."""
    return f'<p class="note"><a href="{escape(beside)}">{escape(text)}</a></p>' if beside else ""


def details(data: Mapping[str, Any]) -> str:
    """The rows of a `dl`, nested keys by dotted path; what is None is left out."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in _flat(data).items()
        if value is not None
    )


def _flat(data: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for i, item in enumerate(value):
                flat |= _flat(item, f"{before}{name}[{i}].")
        else:
            flat[f"{before}{name}"] = value
    return flat
