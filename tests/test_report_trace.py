"""The page that plays traces holds every state, asks no network, lets no data run, and stands beside the frontier."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from test_report import EVIL, Page
from toy import tiny_reasoner

from hybrid import report, report_page, report_trace
from hybrid.diffusion.budget import Budget
from hybrid.frontier import Frontier, Row
from hybrid.report_player import PLAYER
from hybrid.trace import Frame, Recorder, Trace, content

PROMPTS = ["1+2=", "12+3="]


@pytest.fixture(scope="module")
def traces():
    reasoner, recorder = tiny_reasoner(), Recorder()
    results = reasoner.reason(PROMPTS, Budget(4), watch=recorder.watch)
    return recorder.traces(PROMPTS, results, reasoner.tokenizer, {"task": "sums", "method": "hybrid"})


def frontier():
    return Frontier("sums", "test", [Row("direct", accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6, examples=3)])


def links(page):
    return [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]


def test_the_page_holds_every_state_and_a_glyph_for_every_token(traces):
    page = Page(report_trace.html(traces))
    assert page.embedded("trace") == json.loads(json.dumps(content(traces)))
    for trace, glyphs in zip(traces, page.embedded("glyphs"), strict=True):
        assert {str(token) for state in trace.states for token in state.tokens} == set(glyphs)
        assert glyphs["2"] == "░" and all(glyphs.values())


def test_the_page_needs_no_network(traces):
    text = report_trace.html(traces)
    page = Page(text)
    assert links(page) == [] and "//" not in re.sub(r"// .*", "", PLAYER)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|innerHTML|insertAdjacent", text)
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    own = base64.b64encode(hashlib.sha256("".join(page.scripts[-1]).encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{own}'" in policy


def test_what_the_script_looks_for_is_on_the_page(traces):
    """Every id the script asks for, and a button for each draft."""
    page = Page(report_trace.html(traces))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    moves = re.search(r"const moves = \{(.*?)\};", PLAYER).group(1)
    wanted = set(re.findall(r'(?:get|getElementById)\("(\w+)"\)', PLAYER)) | set(re.findall(r"(\w+): \(\)", moves))
    assert len(wanted) > 10 and wanted <= ids
    assert [attrs["data-trace"] for _, attrs in page.tags if "data-trace" in attrs] == ["0", "1"]
    text = " ".join(page.text)
    assert all(trace.prompt in text and trace.answer in text for trace in traces) and "sequential forwards" in text


@pytest.mark.skipif(shutil.which("node") is None, reason="node checks the script's syntax")
def test_the_script_is_valid(tmp_path):
    (tmp_path / "player.js").write_text(PLAYER)
    subprocess.run(["node", "--check", tmp_path / "player.js"], check=True)


def test_injected_markup_is_inert(traces):
    state = Frame(0, (0, 7), (None, 0.5), ("given", "committed"))
    setting = {"task": EVIL, "drafter": {"policy": {"kind": EVIL, EVIL: EVIL}}, EVIL: EVIL}
    special = {"pad": 0, "end": 1, "mask": 2}
    evil = Trace(EVIL, EVIL, EVIL, False, {EVIL: EVIL}, {EVIL: 1.0}, special, {"0": EVIL, "7": EVIL}, (state,), setting)
    tame_setting = {"task": "t", "drafter": {"policy": {"kind": "p", "q": 1}}, "x": "y"}
    tame = Trace("p", "s", "a", False, {"x": "y"}, {"z": 1.0}, special, {"0": "b", "7": "c"}, (state,), tame_setting)
    pages = [Page(report_trace.html([one])) for one in (evil, tame)]
    assert [tag for tag, _ in pages[0].tags] == [tag for tag, _ in pages[1].tags]
    assert [sorted(a) for _, a in pages[0].tags] == [sorted(a) for _, a in pages[1].tags]
    assert pages[0].scripts[-1] == pages[1].scripts[-1], "data never enters the running script"
    assert pages[0].embedded("trace")["traces"][0]["prompt"] == EVIL


def test_the_two_pages_lead_to_each_other_where_both_are(traces, tmp_path):
    alone = report_trace.write(traces, tmp_path)
    assert alone.name == "trace.html" and links(Page(alone.read_text())) == []
    report.write(frontier(), tmp_path)
    assert links(Page((tmp_path / "frontier.html").read_text())) == ["trace.html"]
    report_trace.write(traces, tmp_path)
    assert links(Page(alone.read_text())) == ["frontier.html"]
    assert links(Page(report_page.html(frontier()))) == []


def test_the_drafter_is_named_by_its_policy(traces):
    def named(**setting):
        return report_trace.drafted_by(replace(traces[0], setting=setting))

    assert named(drafter={"kind": "diffusion", "policy": {"kind": "threshold", "threshold": 0.9}}) == (
        "threshold · threshold 0.9"
    )
    assert named(drafter={"kind": "autoregressive"}) == "autoregressive" and named(method="chain") == "chain"


def test_no_traces_make_no_page():
    with pytest.raises(ValueError, match="at least one trace"):
        report_trace.html([])
