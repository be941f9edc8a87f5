"""The HTML report in a real browser, as a reader meets it."""

import json
import re
from pathlib import Path

import pytest

from bench.cards.gpus import GPUS
from bench.report.page import script_json
from bench.units import MIB

ROOT = Path(__file__).parents[3]
REPORT = ROOT / "results" / "report.html"
TEXT = REPORT.read_text(encoding="utf-8")


@pytest.fixture
def page(browser):
    browser.resize(1280, 900)
    browser.open(REPORT)
    return browser


def column(page, table, heading):
    """The texts of one column, top to bottom."""
    script = """
      const table = document.getElementById(arguments[0]);
      const at = [...table.querySelectorAll("th")].findIndex((th) => th.textContent.trim() === arguments[1]);
      return [...table.querySelectorAll("tbody tr")].map((row) => row.cells[at].textContent);"""
    return page.run(script, table, heading)


def heading_button(page, table, heading):
    """CSS selector of the button that sorts one column."""
    titles = page.run(
        "return [...document.querySelectorAll(arguments[0] + ' th')].map(t => t.textContent)", f"#{table}"
    )
    return f"#{table} th:nth-child({titles.index(heading) + 1}) button"


def numbers(texts):
    return [float(text.replace(",", "")) for text in texts if text]


def test_it_is_one_file_that_asks_for_nothing_else():
    assert len(TEXT.encode()) < 8e6
    linked = re.findall(r"""(?:src|href)=["']?([^"'> ]+)""", TEXT)
    assert linked
    assert all(link.startswith(("data:", "#")) for link in linked)
    assert "@import" not in TEXT
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import)\s*\(", TEXT)


def test_no_text_of_a_record_ends_its_script_or_begins_a_comment():
    text = script_json({"detail": "<!--<script>x</script>"})
    assert "<" not in text and json.loads(text) == {"detail": "<!--<script>x</script>"}
    data = re.search(r'id="data">(.*?)</script>', TEXT, re.S)[1]
    assert "<" not in data


def test_its_policy_forbids_it_to_load_anything():
    assert "default-src 'none'" in TEXT.partition("<style>")[0]


def test_it_loads_without_a_word_on_the_console(page):
    page.messages()
    page.open(REPORT)
    assert page.messages() == []
    assert (
        page.run("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    )


def test_a_click_on_a_heading_sorts_and_another_sorts_the_other_way(page):
    page.click(heading_button(page, "records", "Process MiB"))
    rising = numbers(column(page, "records", "Process MiB"))
    assert rising == sorted(rising)
    assert len(set(rising)) > 10
    page.click(heading_button(page, "records", "Process MiB"))
    assert numbers(column(page, "records", "Process MiB")) == rising[::-1]
    assert page.run("return document.querySelectorAll('#records th[aria-sort=descending]').length") == 1


def test_sorting_works_from_the_keyboard(page):
    page.run("document.querySelector(arguments[0]).focus()", heading_button(page, "records", "Learnable"))
    assert page.run("return document.activeElement.tagName") == "BUTTON"
    page.run("document.activeElement.click()")
    learnable = numbers(column(page, "records", "Learnable"))
    assert learnable == sorted(learnable)


def test_typing_filters_the_records(page):
    every = len(column(page, "records", "Method"))
    page.run(
        "const f = document.getElementById('records-filter'); f.value = 'bitfit vit_l';"
        "f.dispatchEvent(new Event('input'));"
    )
    assert set(column(page, "records", "Method")) == {"BitFit"}
    assert set(column(page, "records", "Model")) == {"vit_l"}
    assert 0 < len(column(page, "records", "Method")) < every


def test_another_card_changes_the_verdicts(page):
    page.choose("#fits-card", "rtx3060")
    small = column(page, "fits-table", "Verdict")
    page.choose("#fits-card", "h200")
    assert set(column(page, "fits-table", "Verdict")) == {"fits"}
    assert small.count("does not fit") >= 7
    assert small[-1] == "fits", "FPT+"


def test_the_verdicts_are_those_of_the_grid(page):
    """Against the CSV file, for one question, worked out here."""
    card = GPUS["rtx3090"]
    page.choose("#fits-card", card.name)
    page.choose("#fits-res", "768")
    page.choose("#fits-batch", "8")
    lines = (ROOT / "results" / "paper" / "grid.csv").read_text().splitlines()
    head = lines[0].split(",")
    rows = [dict(zip(head, line.split(","), strict=True)) for line in lines[1:]]
    asked = {"model": "vit_b", "res": "768", "precision": "fp32", "attention": "eager", "checkpointing": "none"}
    needs = [
        int(row["reserved_mib_batch_8"]) + round(card.context_bytes / MIB)
        for row in rows
        if asked.items() <= row.items()
    ]
    assert numbers(column(page, "fits-table", "Needs MiB")) == needs
    capacity = card.memory_bytes / MIB
    expected = ["fits" if mib <= capacity else "does not fit" for mib in needs]
    assert column(page, "fits-table", "Verdict") == expected
    assert len(set(expected)) == 2


def test_what_would_help_is_offered_where_a_method_does_not_fit(page):
    page.choose("#fits-card", "rtx3060")
    page.choose("#fits-res", "512")
    page.choose("#fits-batch", "16")
    helps = dict(zip(column(page, "fits-table", "Method"), column(page, "fits-table", "Would fit with"), strict=True))
    assert "fp32, fused attention" in helps["LoRA"]
    assert helps["FPT+"] == ""


def test_the_pareto_front_is_the_one_worked_out_here(page):
    page.choose("#pareto-x", "params_pct")
    page.choose("#pareto-y", "process_mib")
    rows = json.loads(re.search(r'id="data">(.*?)</script>', TEXT, re.S)[1])["pareto"]["rows"]
    points = [(row["params_pct"], row["process_mib"]) for row in rows]
    front = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    named = page.run("return document.getElementById('pareto-front').textContent").split(", ")
    assert len(named) == len(front) < len(points)
    assert {"Linear probing", "FPT+"} <= set(named)


def test_charts_redraw_for_another_setting(page):
    before = page.run("return document.getElementById('resolution').innerHTML")
    page.run(
        "const s = document.getElementById('resolution-setting'); s.selectedIndex = 1;"
        "s.dispatchEvent(new Event('change'));"
    )
    after = page.run("return document.getElementById('resolution').innerHTML")
    assert after != before
    shown = before + after + page.run("return document.querySelector('main').innerHTML")
    assert "NaN" not in re.sub(r"data:image/[^\"]*", "", shown), "pictures are letters by chance"


def test_the_verdicts_of_the_paper_check_can_be_chosen(page):
    page.run(
        "const s = document.getElementById('check-verdict'); s.value = 'differs'; s.dispatchEvent(new Event('change'));"
    )
    assert set(column(page, "check-table", "Verdict")) == {"differs"}


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_itself_never_scrolls_sideways(page, width):
    """Tables do, in their own frame. The window cannot be narrower than 500 px, a frame inside it can."""
    page.run(
        "const f = document.createElement('iframe'); f.style.width = arguments[0] + 'px'; f.id = 'narrow';"
        "f.srcdoc = '<!doctype html>' + document.documentElement.outerHTML; document.body.prepend(f);",
        width,
    )
    inside = "document.getElementById('narrow').contentDocument.documentElement"
    for _ in range(100):
        if page.run(f"return {inside}.querySelectorAll('#fits-table tbody tr').length") == 10:
            break
    assert page.run(f"return {inside}.scrollWidth - {inside}.clientWidth") <= 0
