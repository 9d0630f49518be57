"""The table fits and orders its rows; the picture shows them; the page is self-contained and inert."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from hybrid import report
from hybrid.frontier import FIELDS, Frontier, Row, read
from hybrid.metrics import TABLE, wilson
from hybrid.report_page import html
from hybrid.report_plot import spread
from hybrid.report_series import ordered, series

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\u2028\"'&<!--"


def row(method: str, right: int, cost: float = 4.0, **settings) -> Row:
    low, high = wilson(right, 200)
    facts = dict(sketch_exact=0.5, sketch_tokens=48.0, answer_tokens=3.0, seconds_per_example=cost / 2000)
    facts |= dict(positions=40 * cost, flops=1e6 * cost, sequential_forwards=cost)
    settings = {**facts, **settings}
    return Row(method, accuracy=right / 200, accuracy_low=low, accuracy_high=high, examples=200, **settings)


@pytest.fixture
def frontier() -> Frontier:
    table = dict(zip(TABLE, (60, 20, 10, 110), strict=True))
    rows = [
        row("gold", 199),
        row("shuffled", 22),
        row("pause", 26),
        row("hybrid", 25, steps=0, sketch_exact=None),
    ]
    for steps in (16, 1, 2, 4, 8):
        rows.append(row("hybrid", 100 + 5 * steps, 4 + steps, policy="confidence", steps=steps, table=table))
        cost = 4 + steps**0.8
        rows.append(row("hybrid", 95 + 5 * steps, cost, policy="threshold", steps=steps, threshold=0.9))
    rows += [row("chain", 198, 52.0), row("ar_drafter", 195, 53.0), row("direct", 24, sketch_exact=None)]
    return Frontier("sums", "test", rows, {"drafter": {"width": 192}}, 0)


def over_seeds(frontier: Frontier) -> Frontier:
    others = [replace(r, seed=1, accuracy=0.97 * r.accuracy, accuracy_low=0.9 * r.accuracy) for r in frontier.rows]
    return replace(frontier, rows=[*frontier.rows, *others])


def test_order_is_baselines_hybrid_controls(frontier):
    rows = ordered([*frontier.rows, row("invented", 3)])
    assert list(dict.fromkeys(r.method for r in rows)) == [
        "direct", "chain", "ar_drafter", "invented", "hybrid", "gold", "shuffled", "pause",
    ]  # fmt: skip
    hybrid = [(r.policy, r.steps) for r in rows if r.method == "hybrid"]
    steps = (1, 2, 4, 8, 16)
    assert hybrid == [(None, 0), *(("confidence", s) for s in steps), *(("threshold", s) for s in steps)]


def test_series_begin_at_no_sketch_and_pool_seeds(frontier):
    drawn = {line.label: line for line in series(over_seeds(frontier))}
    lines = {"confidence", "threshold 0.9"}
    assert set(drawn) == lines | {"direct", "chain", "AR drafter", "gold sketch", "shuffled", "pause tokens"}
    line = drawn["confidence"]
    assert line.kind == "line" and [point.rows[0].steps for point in line.points] == [0, 1, 2, 4, 8, 16]
    point = line.points[1]
    assert len(point.rows) == 2 and point.mean("accuracy") == pytest.approx(0.525 * 1.97 / 2)
    assert point.low == min(r.accuracy_low for r in point.rows)
    assert drawn["chain"].kind == "point" and drawn["gold sketch"].kind == "level"


def test_a_sweep_of_thresholds_is_one_line_and_two_settings_are_two():
    swept = [row("hybrid", 90, 9 - 5 * t, policy="threshold", threshold=t, steps=64) for t in (0.5, 0.7, 0.9)]
    (line,) = series(Frontier("t", "test", swept))
    assert line.label == "threshold" and [p.rows[0].threshold for p in line.points] == [0.9, 0.7, 0.5]
    (line,) = series(Frontier("t", "test", [replace(r, policy="edit", setting=f"edit {r.threshold}") for r in swept]))
    assert line.label == "edit" and len(line.points) == 3, "told what the threshold was"
    verified = [replace(r, setting=f"verify {n}") for r in swept for n in (1, 2)]
    assert len(series(Frontier("t", "test", verified))) == 2
    both = [replace(r, steps=s) for r in swept for s in (4, 8)]
    assert [line.label for line in series(Frontier("t", "test", both))] == [
        "threshold 0.5", "threshold 0.7", "threshold 0.9",
    ]  # fmt: skip
    batches = Frontier("t", "test", [row("hybrid", 90, policy="p", steps=4, batch=b) for b in (1, 16)])
    assert [line.label for line in series(batches)] == ["p · batch 1", "p · batch 16"]
    assert [line.label for line in series(batches, ignore=("batch",))] == ["p"]
    (alone,) = series(Frontier("t", "test", [row("hybrid", 90, steps=0)]))
    assert alone.label == "no sketch" and len(alone.points) == 1


def test_a_line_follows_the_budget_though_costs_fall():
    """A draft of one step is wrong, and verifying it took longest."""
    made = [
        row("hybrid", right, cost, policy="p", steps=n) for n, right, cost in ((2, 60, 5.0), (1, 5, 7.0), (4, 99, 6.0))
    ]
    (line,) = series(Frontier("t", "test", made))
    assert [point.rows[0].steps for point in line.points] == [1, 2, 4]


@pytest.mark.parametrize("method", ["hybrid", "latent"])
def test_no_sketch_begins_the_lines_that_answer_as_it_does(method):
    """Decoded, it is no verified answer: where all others are, it stands alone."""
    none = row(method, 20, 9.0, steps=0, answer="decode")
    made = [
        row(method, 150, cost, policy="p", steps=4, answer=how) for how, cost in (("decode", 13.0), ("verify", 5.0))
    ]
    of = {"hybrid": "", "latent": "latent "}[method]
    lines = {
        line.label: [point.rows[0].steps for point in line.points]
        for line in series(Frontier("t", "test", [none, *made]))
    }
    assert lines == {f"{of}p · decode": [0, 4], f"{of}p · verify": [4]}
    lines = {line.label: line.kind for line in series(Frontier("t", "test", [none, made[1]]))}
    assert lines == {f"{of}p · verify": "line", f"{of}no sketch · decode": "line"}


def test_what_a_sweep_varied_parts_its_rows():
    """Text of one's own is a setting; numbers may be anything that was measured."""
    wide = [
        row("hybrid", 90, policy="p", steps=4, extra={"model.width": w, "loss": i / 7}) for i, w in enumerate("8884")
    ]
    drawn = series(Frontier("t", "test", wide))
    assert {line.label: len(line.points[0].rows) for line in drawn} == {"p · width 4": 1, "p · width 8": 3}


def test_labels_say_what_differs_and_no_more():
    def drafted(policy, setting=None, drafts=1):
        by = "derived" if drafts == 1 else "vote"
        return row("hybrid", 90, policy=policy, steps=4, setting=setting, drafts=drafts, answer_is=by)

    remask = [f"rule {rule}, rate 0.1, hold {hold}" for rule, hold in (("cap", 0.1), ("loop", 0.1), ("loop", 0.2))]
    made = [drafted("confidence"), drafted("confidence", drafts=5), drafted("confidence", "temperature 0.5", drafts=5)]
    made += [drafted("factor", "factor 1.0"), *(drafted("remask", setting) for setting in remask)]
    assert {line.label for line in series(Frontier("t", "test", made))} == {
        "confidence", "confidence · 5 drafts", "confidence · temperature 0.5 · 5 drafts", "factor · factor 1.0",
        "remask · rule cap, hold 0.1", "remask · rule loop, hold 0.1", "remask · rule loop, hold 0.2",
    }  # fmt: skip
    drawn = [drafted("remask", f"temperature 0.5{more}") for more in (", rate 0.1", ", rate 0.2")]
    labels = {line.label for line in series(Frontier("t", "test", [drafted("remask"), *drawn]))}
    assert labels == {"remask", "remask · temperature 0.5, rate 0.1", "remask · temperature 0.5, rate 0.2"}
    chosen = [replace(made[1], answer_is=by) for by in ("vote", "likelihood")]
    assert {line.label for line in series(Frontier("t", "test", chosen))} == {
        "confidence · vote", "confidence · likelihood",
    }  # fmt: skip


def test_the_table_wraps_what_is_too_long_and_cuts_nothing():
    settings = [f"a setting that is too long for any column of the table, {i} of them" for i in range(2)]
    rows = [row("hybrid", 90, policy="p", steps=4, setting=setting) for setting in settings]
    rows += [row("hybrid", 90, policy="p", steps=4, setting="another")]
    text = report.table(Frontier("t", "test", rows), 80)
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    labels = " ".join(re.sub(r"\s4 █.*", "", text).split())
    assert all(setting in labels for setting in settings)


@pytest.mark.parametrize("width", [10, 80, 100, 120, 500])
def test_table_fits(frontier, width):
    long = row("a_method_with_quite_a_name", 7, policy="a_policy_with_quite_a_name", steps=1024, block=8)
    lines = report.table(replace(frontier, rows=[*frontier.rows, long], task="t" * 300), width).splitlines()
    assert max(map(len, lines)) <= min(max(width, 80), 120)
    assert sum(" 16 " in line for line in lines) == 2, "steps are never cut"


def test_table_says_what_counts(frontier):
    text = report.table(frontier, 120)
    assert text.splitlines()[0] == "sums · test · 200 examples · seed 0"
    (chain,) = [line for line in text.splitlines() if line.startswith("chain")]
    assert re.search(r"99\.0 +\[96\.4–99\.7\] +50\.0 +52\.0 +48\+3 +26\.0$", chain)
    (first,) = [line for line in text.splitlines() if line.startswith("hybrid")]
    assert re.search(r"no sketch +0 .* 12\.5 ", first), "the method is named once, at its group's first row"
    bars = [line.count("█") for line in text.splitlines() if "confidence" in line]
    assert bars == sorted(bars) and bars[0] < bars[-1]
    assert re.search(r"confidence · seed 1 +1 ", report.table(over_seeds(frontier), 120))
    assert "no rows" in report.table(replace(frontier, rows=[]), 80)
    assert "\x1b" not in report.table(replace(frontier, task="\x1b[2J"), 80)


def pixels(path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def test_plot_shows_every_line(frontier, tmp_path):
    from matplotlib.colors import to_rgb

    from hybrid.report_plot import COLOURS

    shown = pixels(report.plot(frontier, tmp_path / "a.png"))
    assert shown.shape == (1000, 1600, 3)
    for colour in COLOURS[:2]:
        assert (shown == np.round(255 * np.array(to_rgb(colour)))).all(-1).sum() > 1000, colour
    assert not (shown == np.round(255 * np.array(to_rgb(COLOURS[2])))).all(-1).any()
    edges = np.concatenate([shown[:4].reshape(-1, 3), shown[:, -4:].reshape(-1, 3), shown[:, :4].reshape(-1, 3)])
    assert (edges == 255).all(), "no label runs off the picture"
    many = [replace(r, setting=f"rate {i}") for r in frontier.rows if r.policy == "confidence" for i in range(18)]
    assert pixels(report.plot(replace(frontier, rows=many), tmp_path / "b.png")).shape == (1080, 1600, 3)


@pytest.mark.parametrize("odd", ["empty", "uncounted", "seeds"])
def test_plot_survives_odd_frontiers(frontier, tmp_path, odd):
    rows = {
        "empty": [],
        "uncounted": [row("$x_{", 3), *(replace(r, sequential_forwards=None) for r in frontier.rows[:6])],
        "seeds": over_seeds(frontier).rows,
    }[odd]
    path = report.plot(Frontier("$\\frac{", "te_st", rows), tmp_path / "a.png")
    assert pixels(path).std() > 1


def test_spread_keeps_labels_apart():
    moved = spread([10.0, 11.0, 12.0, 99.0, 100.0], gap=5, low=0, high=102)
    assert moved[0] == 10 and moved[-1] <= 102
    assert all(b - a >= 5 for a, b in zip(moved, moved[1:], strict=False))


class Page(HTMLParser):
    """Every tag with its attributes, and the text of every script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[list[str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([])

    def handle_data(self, data):
        is_script = bool(self.tags) and self.tags[-1][0] == "script" and not self.scripts[-1]
        (self.scripts[-1] if is_script else self.text).append(data)

    def embedded(self, name: str):
        scripts = [attrs for tag, attrs in self.tags if tag == "script"]
        (i,) = [i for i, attrs in enumerate(scripts) if attrs.get("id") == name]
        return json.loads("".join(self.scripts[i]))


def test_page_needs_no_network(frontier):
    text = html(frontier)
    page = Page(text)
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert links == [] and not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object", "base", "form")]
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}, "a name, not an address"
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    own = base64.b64encode(hashlib.sha256("".join(page.scripts[-1]).encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{own}'" in policy


def test_page_holds_the_same_rows(frontier, tmp_path):
    embedded = Page(html(frontier)).embedded("frontier")
    assert embedded == json.loads(frontier.json())
    (tmp_path / "back.json").write_text(json.dumps(embedded))
    assert read(tmp_path / "back.json") == frontier


def test_page_shows_rows_fields_tables_and_model(frontier):
    page = Page(html(frontier))
    text = " ".join(page.text)
    assert sum(tag == "tr" for tag, _ in page.tags) >= len(frontier.rows) + 1
    titles = {attrs.get("title") for tag, attrs in page.tags if tag == "button"}
    assert {FIELDS["method"], FIELDS["sequential_forwards"], FIELDS["seconds_per_example"]} <= titles
    assert sum(attrs.get("class") == "card" for _, attrs in page.tags) == 5
    assert "repairs 15.4% · ignores 14.3%" in text and "drafter.width" in text and "192" in text
    switches = [attrs["data-axis"] for _, attrs in page.tags if "data-axis" in attrs]
    assert switches == ["sequential_forwards", "steps", "seconds_per_example", "positions", "flops"]
    drawn = page.embedded("series")["series"]
    assert [len(s["points"]) for s in drawn if s["kind"] == "line"] == [6, 6]


def test_injected_markup_is_inert(frontier):
    """The same tags and scripts as a tame page, whatever the names hold; the names arrive unharmed."""
    evil = replace(frontier.rows[0], method=EVIL, policy=EVIL, answer_is=EVIL, pairing=EVIL, extra={EVIL: EVIL})
    tame = replace(evil, method="m", policy="p", answer_is="a", pairing="s", extra={"x": "y"})
    hybrid = replace(frontier.rows[-4], policy=EVIL, table=dict.fromkeys(TABLE, 1))
    pages = []
    for name, rows in ((EVIL, [evil, hybrid]), ("tame", [tame, replace(hybrid, policy="p")])):
        pages.append(Page(html(Frontier(name, name, rows, {name: name, "deep": [{name: name}]}, extra={name: 1}))))
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert [sorted(a) for _, a in pages[0].tags] == [sorted(a) for _, a in pages[1].tags]
    assert pages[0].scripts[-1] == pages[1].scripts[-1], "data never enters the running script"
    assert "\u2028" not in "".join(pages[0].scripts[0])
    back = pages[0].embedded("frontier")
    assert back["task"] == EVIL and back["rows"][0]["method"] == EVIL and back["rows"][0][EVIL] == EVIL


def test_page_survives_odd_frontiers(frontier):
    bare = [Row("hybrid", accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6, examples=3)]
    for rows in ([], bare, over_seeds(frontier).rows):
        assert Page(html(replace(frontier, rows=rows))).embedded("frontier")["task"] == "sums"


def test_write_makes_all_four(frontier, tmp_path):
    paths = report.write(frontier, tmp_path / "out")
    assert [path.name for path in paths] == ["frontier.json", "frontier.csv", "frontier.png", "frontier.html"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    assert read(paths[0]) == frontier
    assert len(io.StringIO(paths[1].read_text()).readlines()) == len(frontier.rows) + 1
