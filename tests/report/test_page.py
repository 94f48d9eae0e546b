"""The page holds the answers, needs nothing but itself, and shows any name as text."""

import html
import re
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import reported
from mrecg.errors import RunError
from mrecg.report.page import make_page, run_chapter
from mrecg.report.reported_run import ReportedRun

QUESTIONS = [
    "Did it work?",
    "Where does the error arise?",
    "What was joined, and why?",
    "Did tuning converge?",
    "What do the numbers look like?",
    "What stayed in float, was skipped, or was taken back?",
    "How can it be repeated?",
]
HOSTILE = "<script>alert(1)</script>&amp;\"'$x_{{1}}$\x07"


def page(run: ReportedRun) -> str:
    return make_page(run.name, [run_chapter(run)]).html


def text(of: str) -> str:
    """What a browser would show, without the style."""
    return html.unescape(re.sub(r"<[^>]*>", " ", of.split("</style>")[1]))


def charts(of: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", of, re.DOTALL)]


def test_the_questions_come_in_order() -> None:
    made = page(reported.run())
    assert [html.unescape(one) for one in re.findall(r"<h2>(.*?)</h2>", made)] == QUESTIONS


def test_the_answers_say_what_the_record_says() -> None:
    run = replace(
        reported.run(command=("mrecg", "quantize", "--data", "my images")),
        latencies=(reported.LATENCY,),
    )
    said = re.sub(r"\s+", " ", text(page(run)))
    for part in (
        "top-1 is 92.50 %, float 95.50 %: −3.00 points",
        "from the answers to the same 200 images",
        "float 2 MB, 9.5 times smaller",
        "float 3.4 ms, 1.62 times as fast; onnxruntime 1.32.0",
        f"The loss is largest in {run.record.oscillation.largest_unit}",
        "Of 2 joins that were tried, 1 lowered the loss",
        "they took away 33.3 % of the loss on average",
        "at most 0.4 % of a group's were not",
        "45 channels became 0, and the mean of 15 is outside",
        "features.3 + features.4 tuned one by one, because jointly the loss at the end was 25.0 %",
        "mrecg quantize --data 'my images'",
        "keep_quantized_probability: 0.5",
    ):
        assert part in said, part


def test_exceptions_are_listed() -> None:
    groups = reported.record().groups
    worse = (groups[0].model_copy(update={"accepted": False}), *groups[1:])
    run = reported.run(left_in_float=("head",), skipped_images=("a.png: empty",), groups=worse)
    said = text(page(run))
    assert "1 layer in float (32 bits): head." in said
    assert "1 image that could not be read: a.png: empty." in said
    assert "1 group rounded to nearest, because tuning made the loss larger: features.0." in said


@pytest.mark.parametrize(("wanted", "said"), [("fastest", True), ("bfloat16", False)])
def test_what_the_processor_decided_is_said(wanted: str, said: bool) -> None:
    first, *others = reported.record().groups
    found = first.model_copy(update={"precision": "bfloat16"})
    others = [one.model_copy(update={"precision": "float32"}) for one in others]
    run = reported.run(groups=(found, *others))
    run = replace(run, recipe=run.recipe.override({"reconstruct.precision": wanted}))
    shown = re.sub(r"\s+", " ", text(page(run)))
    assert ("Of 5 optimizations, 1 multiplied in bfloat16" in shown) == said


def test_what_an_earlier_version_did_not_record_is_said_to_be_unknown() -> None:
    made = page(reported.bare(reported.run()))
    said = re.sub(r"\s+", " ", text(made))
    assert "The accuracy of this run was not recorded." in said
    assert "size not recorded" in said
    assert "The loss against steps was not recorded." in said
    assert "The codes and the activations of this run were not recorded." in said
    assert "In Python" in said
    assert len(charts(made)) == 3


def test_the_page_needs_nothing_but_itself() -> None:
    made = page(reported.run())
    addresses = set(re.findall(r"https?://[^\"'\s<)]+", made))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|link rel=.?style|img|iframe|image)\b", made)
    assert not re.search(r"@import|url\((?!#)", made)
    assert not re.search(r"\son\w+=", made)
    assert "default-src 'none'" in made


def test_charts_are_described_and_apart_from_each_other() -> None:
    made = page(reported.run())
    found = charts(made)
    assert len(found) == 7
    ids = re.findall(r'\bid="([^"]+)"', made)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', made)) <= set(ids)
    for chart in found:
        title, description = chart[0].text, chart[1].text
        assert title
        assert description
        assert len(description) > 20
        assert chart.get("role") == "img"
        assert set(str(chart.get("aria-labelledby")).split()) <= set(ids)
        letters = [one.text for one in chart.iter("{http://www.w3.org/2000/svg}text")]
        assert len(letters) > 5  # text that can be selected, not outlines of letters


def test_colors_are_the_page_s() -> None:
    """So that they suit light and dark, and a printer."""
    made = page(reported.run())
    style, _, body = made.partition("</style>")
    used = set(re.findall(r"var\(--([\w-]+)\)", body))
    assert {"ink", "muted", "grid", "series-1", "series-2", "bad"} <= used
    assert used <= set(re.findall(r"--([\w-]+):", style))
    assert not re.search(r"(?:fill|stroke): #", body)


def test_names_that_contain_markup_are_text() -> None:
    run = reported.run(
        HOSTILE,
        pattern="{}" + HOSTILE.replace("{", "{{").replace("}", "}}"),
        skipped_images=(HOSTILE,),
    )
    made = page(run)
    assert "<script" not in made
    assert "alert(1)" in text(made)
    assert all(chart.tag.endswith("svg") for chart in charts(made))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0])
def test_losses_that_cannot_be_drawn(value: float) -> None:
    whole = reported.record()
    units = tuple(one.model_copy(update={"relative_loss": value}) for one in whole.units)
    joins = tuple(one.model_copy(update={"separate_loss": value}) for one in whole.plan.joins)
    plan = whole.plan.model_copy(update={"joins": joins, "metric": (value,) * len(units)})
    groups = tuple(
        one.model_copy(update={"curve": ((1, value), (2, value))}) for one in whole.groups
    )
    made = page(reported.run(units=units, plan=plan, groups=groups))
    assert len(re.findall("<h2>", made)) == len(QUESTIONS)


def test_twenty_units_take_little_space_and_time() -> None:
    run = reported.run(count=20)
    page(reported.run())  # imports
    started = time.process_time()
    made = page(run)
    assert time.process_time() - started < 5
    assert len(made.encode()) < 1_500_000


def test_the_same_run_gives_the_same_page() -> None:
    assert page(reported.run()) == page(reported.run())


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"groups": ()}, "its groups and its units are not the same"),
        ({"units": ()}, "it has no units"),
    ],
)
def test_records_that_contradict_themselves(found: dict[str, object], message: str) -> None:
    with pytest.raises(
        RunError, match=f"The record of the run first contradicts itself: .*{message}"
    ):
        reported.run(**found)


def test_a_page_is_written_once(tmp_path: Path) -> None:
    made = make_page("a", [run_chapter(reported.run())])
    written = made.write(tmp_path / "new" / "page.html")
    assert written.read_text("utf-8") == made.html
    with pytest.raises(RunError, match=r"page\.html already exists"):
        made.write(written)
    written.write_text("old")
    made.replace(written)
    assert written.read_text("utf-8") == made.html
    assert [one.name for one in written.parent.iterdir()] == ["page.html"]
    with pytest.raises(RunError, match="cannot be written"):
        made.replace(tmp_path / "missing" / "page.html")
