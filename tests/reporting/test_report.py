"""The report, in a real browser: the numbers of the verdict, and nothing in it but what was recorded, as text."""

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from html.parser import HTMLParser
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, sync_playwright
from tests.read_side import START, autopack, environment, event, make_database
from tests.write_side import TABLE

from autopack.analysis.sampling.samples import Block, Event, Samples
from autopack.reporting.calls import MOST_PLOTTED, OTHERS, CallCollector, Calls, PackedTexts
from autopack.reporting.markup import Markup, data_script, joined, tag

# The former rules: with one run there is no verdict by the default ones, and the page is to show every outcome.
AS_OF = ("--as-of", "2026-02-05", "--rules", "plan", "--one-look", "--assume-independent")
UNSEEN = "implementation\x1b[2J\u202e"
HOSTILE = "<b>b</b>&lt;</script><img src=x onerror=pwned()><a href='javascript:pwned()'>%{x}</a>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium here; .ci/run installs it")
    home = str(tmp_path_factory.mktemp("home"))  # or it leaves its crash reporter's folder in the real one
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=FLAGS, env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": home}
        )
        yield chromium
        chromium.close()


@dataclass
class Watched:
    """A page, and what it did that it should not."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, report: Path, **options: Any) -> Iterator[Watched]:
    """The page, held to making no request and no complaint."""
    settings: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}, "offline": True}
    context = browser.new_context(**settings | options)
    watched = Watched(context.new_page())
    page = watched.page
    page.on("request", lambda request: watched.requests.append(request.url))
    page.on("console", lambda message: watched.complaints.append(message.text))
    page.on("pageerror", lambda error: watched.complaints.append(str(error)))
    page.add_init_script("addEventListener('securitypolicyviolation', (e) => console.log('CSP', e.violatedDirective))")
    page.goto(report.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_selector("html[data-ready]", state="attached")
    yield watched
    context.close()
    assert watched.requests == [report.as_uri()]
    assert watched.complaints == []


def rows() -> list[Any]:
    """Sixty samples over a month, of two runs, three categories, with failures, truncations and hostile names."""
    return [
        event(
            number,
            timestamp=START + timedelta(hours=12 * number),
            run_id=f"run-{number % 2}" if number else HOSTILE,
            phase_id=f"p{number}" if number else HOSTILE,
            model="m1" if number % 5 else HOSTILE,
            category=("docs", UNSEEN, HOSTILE)[number % 3],
            complexity=("low", "high")[number // 3 % 2],
            actual_output_tokens=20 if not number else 1500 + 100 * number,
            success=number % 10 != 9,
            truncated=number % 15 == 14,
            stop_reason="max_tokens" if number % 15 == 14 else "end_turn",
        )
        for number in range(60)
    ]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "events.db"
    make_database(path, rows())
    return path


@pytest.fixture(scope="module")
def report(database: Path) -> Path:
    output = database.with_name("report.html")
    done = autopack("report", "--output", output, *AS_OF, database=database)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"Wrote {output}: not validated, 60 samples"
    return output


@pytest.fixture(scope="module")
def verdict(database: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(autopack("validate", "--json", *AS_OF, database=database).stdout)
    return found


@pytest.fixture(scope="module")
def watched(browser: Browser, report: Path) -> Iterator[Watched]:
    with opened(browser, report) as found:
        yield found


@pytest.fixture
def page(watched: Watched) -> Page:
    """The page as it was opened."""
    watched.page.locator("#reset").click()
    return watched.page


def values_in(page: Page, selector: str) -> list[list[float]]:
    """The exact values of each row, the last cell's included."""
    found: list[list[float]] = page.evaluate(
        "(selector) => [...document.querySelectorAll(selector)].map((row) =>"
        " [...row.querySelectorAll('data')].map((data) => Number(data.value)))",
        selector,
    )
    return found


def plot(page: Page, name: str, question: str) -> Any:
    """What is asked of a plot, given as `plot`, once it is near the window and therefore drawn."""
    page.locator(f"#{name}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{name}:not([aria-busy])")
    return page.evaluate(f"((plot) => {question})(document.getElementById('{name}'))")


def numbers_of(estimate: dict[str, Any]) -> list[float]:
    if estimate["point"] is None:
        return []
    return [estimate[name] for name in ("point", "lower", "upper") if estimate[name] is not None]


def visible_rows(page: Page) -> list[str]:
    return [row.inner_text() for row in page.locator("#worst tbody tr:visible").all()]


@pytest.mark.slow
def test_the_verdict_and_its_figures_are_exactly_those_of_validate(page: Page, verdict: dict[str, Any]) -> None:
    assert page.locator("#headline").inner_text() == f"{verdict['verdict'].upper()} (the former verdict)"
    assert values_in(page, "#figures tbody tr") == [
        [result["estimate"]["n"], *numbers_of(result["estimate"])] for result in verdict["results"]
    ]
    outcomes = [outcome.split()[1] for outcome in page.locator("#figures .outcome").all_inner_texts()]
    assert outcomes == [result["outcome"] for result in verdict["results"]]
    said = page.locator("#verdict li").all_inner_texts()
    assert said == [*verdict["reasons"], *verdict["missing"], *verdict["remarks"]]


@pytest.mark.slow
def test_every_stratum_and_the_drift_are_those_of_validate(page: Page, verdict: dict[str, Any]) -> None:
    names = [result["name"] for result in verdict["results"]]
    strata = sorted(verdict["strata"], key=lambda s: (-s["measures"]["n"], f"{s['category']}/{s['complexity']}"))
    expected = [
        [s["measures"]["n"], *(value for name in names for value in numbers_of(s["measures"][name]))] for s in strata
    ]
    assert len(expected) == 6
    assert values_in(page, "#strata tbody tr") == expected
    drift = verdict["drift"]["rows"]
    assert values_in(page, "#drift tbody tr") == [
        [*numbers_of(row["recent"]), *numbers_of(row["earlier"])] for row in drift
    ]


@pytest.mark.slow
def test_the_plots_show_the_same_numbers(page: Page, verdict: dict[str, Any]) -> None:
    shown = plot(page, "plot-strata", "plot.data[0].x")
    expected = [s["measures"]["smape_median_percent"]["point"] for s in verdict["strata"]]
    assert sorted(shown) == sorted(point for point in expected if point is not None)
    points = "plot.data.filter((t) => t.mode === 'markers' && t.x[0] !== null)"
    plotted = plot(page, "plot-calls", f"{points}.reduce((sum, t) => sum + t.x.length, 0)")
    assert plotted == verdict["overall"]["n"] == 60
    cut = f"{points}.filter((t) => t.marker.symbol.endsWith('-open'))"
    truncated = plot(page, "plot-calls", f"{cut}.reduce((sum, t) => sum + t.x.length, 0)")
    assert truncated == verdict["counts"]["truncated"] == 4
    used = plot(page, "plot-budget", "plot.data.reduce((sum, t) => sum + t.y.reduce((a, b) => a + b), 0)")
    assert used == 60


@pytest.mark.slow
def test_another_figure_can_be_chosen(page: Page, verdict: dict[str, Any]) -> None:
    page.locator("#strata-figure").select_option("waste_p90")
    shown = plot(page, "plot-strata", "plot.data[0].x")
    points = [s["measures"]["waste_p90"]["point"] for s in verdict["strata"]]
    assert sorted(shown) == sorted(point for point in points if point is not None)
    page.locator("#strata-figure").select_option("smape_median_percent")


@pytest.mark.slow
def test_hostile_names_are_text_and_nothing_else(page: Page) -> None:
    assert page.evaluate("typeof pwned") == "undefined"
    assert page.locator("img, b, main a, iframe, object").count() == 0
    assert page.locator("svg a, svg image, svg script").count() == 0
    first = page.locator("#worst tbody tr").first
    assert first.locator("th").inner_text() == f"{HOSTILE}/{HOSTILE}"
    assert HOSTILE in page.locator("#filter-category option").all_inner_texts()
    plot(page, "plot-calls", "0")
    labels = page.locator("#plot-calls .legendtext").all_text_contents()
    assert any(label.startswith("<b>b</b>&lt;</script>") for label in labels)


@pytest.mark.slow
def test_hovering_a_point_shows_its_names_as_text(page: Page) -> None:
    page.locator("#filter-run").select_option(label=HOSTILE)
    plot(page, "plot-calls", "0")
    page.locator("#plot-calls .point").first.hover(force=True)
    box = page.locator("#plot-calls .hovertext")
    box.wait_for()
    assert "</script><img src=x onerror=pwned()>" in (box.text_content() or "")
    assert page.locator("#plot-calls .hoverlayer a").count() == 0


@pytest.mark.slow
def test_no_script_but_its_own_runs_and_no_request_leaves(page: Page, report: Path) -> None:
    text = report.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert "unsafe-eval" not in policy[1]
    assert policy[1].count("sha256-") == 2
    tried = page.context.new_page()
    tried.goto(report.as_uri())
    outcome = tried.evaluate(
        """async () => {
          const blocked = [];
          addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          document.body.append(script);
          await fetch("https://example.invalid/").catch(() => {});
          await new Promise((resolve) => {
            const image = new Image();
            image.onerror = resolve;
            image.src = "https://example.invalid/";
          });
          return [window.ran === true, blocked.sort()];
        }"""
    )
    tried.close()
    assert outcome == [False, ["connect-src", "img-src", "script-src-elem"]]


@pytest.mark.slow
def test_filters_show_what_matches_and_never_change_the_verdict(page: Page) -> None:
    """Filters show the calls that match, and never change the verdict."""
    before = page.locator("#verdict").inner_text()
    assert page.locator("#shown").inner_text() == "60 of 60 plotted calls match; 20 of the worst are listed."
    page.locator("#filter-run").select_option(label="run-1")
    page.locator("#filter-category").select_option(label="docs")
    assert page.locator("#shown").inner_text().startswith("10 of 60 plotted calls match")
    shown = visible_rows(page)
    assert shown
    assert all(row.startswith("run-1/") and "docs/" in row for row in shown)
    strata = plot(page, "plot-strata", "plot.layout.yaxis.ticktext")
    assert [name.split(" ")[0] for name in strata] == ["docs/low", "docs/high"]
    page.locator("#filter-category").select_option(label="implementation\\x1b[2J\\u202e")
    strata = plot(page, "plot-strata", "plot.layout.yaxis.ticktext")
    assert [name.split("/")[1] for name in strata] == ["low (10)", "high (10)"]
    page.locator("#reset").click()
    assert len(visible_rows(page)) == 20
    assert page.locator("#verdict").inner_text() == before


@pytest.mark.slow
def test_a_filter_that_nothing_matches_leaves_empty_plots(page: Page) -> None:
    page.locator("#filter-run").select_option(label=HOSTILE)
    page.locator("#filter-category").select_option(label="implementation\\x1b[2J\\u202e")
    assert page.locator("#shown").inner_text().startswith("0 of 60")
    assert visible_rows(page) == []


@pytest.mark.slow
def test_the_worst_twenty_are_those_with_the_largest_error(page: Page, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        pairs = connection.execute(
            f"SELECT run_id || '/' || phase_id, predicted_output_tokens, actual_output_tokens, truncated FROM {TABLE} "
            "WHERE success OR truncated"
        ).fetchall()
    errors = {name: abs(a - p) / ((a + p) / 2) * 100 if not cut or a > p else 0 for name, p, a, cut in pairs}
    worst = sorted(errors, key=lambda name: -errors[name])[:20]
    shown = page.locator("#worst tbody tr:visible th").all_inner_texts()
    assert shown == worst
    assert values_in(page, "#worst tbody tr:not([hidden])")[0][0] == errors[worst[0]]


@pytest.mark.slow
def test_everything_is_reached_and_named_without_eyes_or_mouse(page: Page) -> None:
    assert page.locator("h1").count() == 1
    levels = [
        int(level) for level in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => h.tagName[1])")
    ]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.locator("table").count() == page.locator("table > caption").count() > 5
    assert page.locator("thead th:not([scope=col]), tbody th:not([scope=row])").count() == 0
    assert page.locator(".plot[role=img][aria-label]").count() == page.locator(".plot").count() == 4
    assert page.locator("section[aria-labelledby]").count() == page.locator("section").count()
    for select in page.locator("select").all():
        assert select.evaluate("(select) => select.labels.length") == 1
    fresh = page.context.new_page()
    fresh.goto(page.url)
    reached = []
    for _ in range(12):
        fresh.keyboard.press("Tab")
        reached.append(fresh.evaluate("document.activeElement.id || document.activeElement.className"))
    fresh.close()
    assert reached[0] == "skip"
    assert {"filter-run", "filter-category", "filter-model", "reset", "scroll", "strata-figure"} <= set(reached)


CONTRAST = """(names) => {
  const channel = (c) => { const s = c / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const style = getComputedStyle(document.documentElement);
  const luminance = (name) => { const hex = style.getPropertyValue(`--${name}`).trim();
    const [r, g, b] = [1, 3, 5].map((at) => channel(parseInt(hex.slice(at, at + 2), 16)));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = luminance("ground");
  return names.map((name) => { const [low, high] = [luminance(name), ground].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05); });
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out_in_both_themes(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    assert dark == (scheme == "dark")
    ink = plot(page, "plot-calls", "plot.layout.font.color")
    assert ink == ("#e6edf3" if dark else "#1b1f24")
    assert min(page.evaluate(CONTRAST, ["ink", "muted", "pass", "fail", "unclear", "accent"])) >= 4.5
    assert min(page.evaluate(CONTRAST, [f"c{number}" for number in range(8)])) >= 3
    page.emulate_media(color_scheme="light")


@pytest.mark.slow
def test_a_plot_keeps_its_place_when_the_width_changes(page: Page) -> None:
    """A phone is turned, a window is made smaller: no plot is drawn over what follows it."""
    fits = """
      [...document.querySelectorAll('.plot')].filter((plot) => plot.querySelector('svg'))
        .every((plot) => plot.querySelector('svg').getBoundingClientRect().height <= plot.clientHeight + 1)
    """
    page.wait_for_selector(".plot svg")
    for width in (390, 844, 1200):
        page.set_viewport_size({"width": width, "height": 844})
        page.wait_for_function(
            "(width) => document.querySelector('.plot svg').getBoundingClientRect().width <= width", arg=width
        )
        assert page.evaluate(fits), width


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, report: Path) -> None:
    options: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, report, **options) as phone:
        assert phone.page.evaluate("document.documentElement.scrollWidth") == 390
        assert plot(phone.page, "plot-calls", "plot.layout.font.size") == 11
        smallest = phone.page.evaluate(
            "Math.min(...[...document.querySelectorAll('select, button')].map((e) => e.getBoundingClientRect().height))"
        )
        assert smallest >= 40


@pytest.mark.slow
def test_printed_it_is_light_and_has_every_plot_and_table(browser: Browser, report: Path) -> None:
    with opened(browser, report, color_scheme="dark") as printed:
        page = printed.page
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("document.querySelector('details').open")
        assert page.evaluate("document.getElementById('plot-time').layout.font.color") == "#1b1f24"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert plot(page, "plot-calls", "plot.layout.font.color") == "#e6edf3"
        assert page.pdf().startswith(b"%PDF")


@pytest.mark.slow
def test_without_javascript_every_table_is_there(browser: Browser, report: Path) -> None:
    with opened(browser, report, java_script_enabled=False) as bare:
        assert bare.page.locator("#figures tbody tr:visible").count() == 5
        assert bare.page.locator("#worst tbody tr:visible").count() == 20
        assert bare.page.get_by_text("Plots and filters need JavaScript").is_visible()


@pytest.mark.slow
def test_a_hundred_thousand_events_make_no_larger_page(browser: Browser, tmp_path: Path) -> None:
    """A hundred thousand events make no larger page, and the page says what it shows."""
    path, output = tmp_path / "x.db", tmp_path / "x.html"
    make_database(path, [event(0)])
    with closing(sqlite3.connect(path)) as connection:
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({TABLE})") if row[1] != "event_id"]
        changed = {
            "event_uid": "'u' || n",
            "run_id": "'r' || n % 50",
            "phase_id": "'p' || n",
            "actual_output_tokens": "500 + n % 9000",
        }
        connection.execute(
            f"INSERT INTO {TABLE} ({', '.join(names)}) WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
            f"WHERE n < 99999) SELECT {', '.join(changed.get(name, name) for name in names)} FROM {TABLE}, c"
        )
        connection.commit()
    assert autopack("report", "--output", output, database=path).returncode == 0
    assert output.stat().st_size < 6_000_000
    with opened(browser, output) as large:
        assert "Plotted: 2000 of 100000 calls" in large.page.locator("#filters").inner_text()
        # What makes a page slow to open; a time would tell how busy this machine is.
        assert large.page.evaluate("document.querySelectorAll('*').length") < 10_000


@pytest.mark.slow
def test_an_empty_database_has_a_report_too(browser: Browser, tmp_path: Path) -> None:
    make_database(tmp_path / "x.db")
    done = autopack("report", "--output", tmp_path / "x.html", database=tmp_path / "x.db")
    assert done.returncode == 0
    with opened(browser, tmp_path / "x.html") as empty:
        assert empty.page.locator("#headline").inner_text() == "INSUFFICIENT DATA"
        assert empty.page.locator("#shown").inner_text().startswith("0 of 0 plotted calls match")


@pytest.mark.slow
def test_the_writers_health_is_what_status_says(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    make_database(path, [event(1)])
    folder = tmp_path / "x.db.telemetry"
    folder.mkdir(mode=0o700)
    (folder / "dead-letters.ndjson").write_text("torn\n")
    (folder / "dead-letters.ndjson").chmod(0o600)
    autopack("report", "--output", tmp_path / "x.html", database=path)
    status = json.loads(autopack("status", "--json", database=path).stdout)
    with opened(browser, tmp_path / "x.html", java_script_enabled=False) as sick:
        facts = dict(row.split("\t") for row in sick.page.locator("#health tbody tr").all_inner_texts())
        problems = sick.page.locator(".problems li").all_inner_texts()
    assert problems == status["problems"] == ["1 dead letter(s) cannot be read"]
    assert (facts["events written"], facts["events waiting in it"]) == (str(status["rows"]), str(status["waiting"]))
    assert facts["dead letters that cannot be read"] == "1"


def test_the_file_is_private_and_replaces_only_a_file(report: Path, database: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "target")
    done = autopack("report", "--output", tmp_path / "link", database=database)
    assert done.returncode == 1
    assert "is a link" in done.stderr


def test_no_database_is_one_clear_line(tmp_path: Path) -> None:
    done = autopack("report", "--output", tmp_path / "x.html", database=tmp_path / "none.db")
    assert done.returncode == 1
    assert "there is no database" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_plotly_one_line_says_what_to_install(database: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['plotly'] = None\nfrom autopack.cli import main\n"
        "main(['report', '--output', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "x.html"],
        env=environment(database),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "Error: the report needs plotly: pip install 'autopack-telemetry[report]'\n"


class Texts(HTMLParser):
    """The text of a document, and its elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


@given(st.text(st.characters(categories=["L", "N", "P", "S"]) | st.sampled_from("<>&\"'/")))
def test_any_text_is_text_and_any_attribute_is_one(text: str) -> None:
    parsed = Texts()
    parsed.feed(tag("p", text, data_name=text))
    assert parsed.elements == [("p", {"data-name": text})]
    parsed.close()
    assert parsed.text == text


@given(st.recursive(st.text(), st.lists, max_leaves=5))
def test_a_data_block_holds_its_value_and_nothing_that_ends_it(value: Any) -> None:
    block = data_script("d", value)
    inner = block.removeprefix('<script type="application/json" id="d">').removesuffix("</script>")
    assert not set(inner) & set("<>&\u2028\u2029")
    assert json.loads(inner) == value


def test_markup_is_taken_as_it_is_and_invisible_characters_are_shown() -> None:
    assert joined(Markup("<br>"), "<br>", None) == "<br>&lt;br&gt;"
    assert tag("p", "a\u202eb", hidden=True, title=None) == "<p hidden>a\\u202eb</p>"
    assert tag("meta", name="x") == '<meta name="x">'


def calls_of(*events: Event) -> tuple[Calls, Samples]:
    collector = CallCollector()
    collector.add_all([Block._make(zip(*events, strict=True))])
    samples = collector.samples()
    return collector.calls(samples), samples


def an_event(number: int, **changes: Any) -> Event:
    first = Event(
        "r", f"p{number}", "m", "docs", "low", 1, 100, 100 + number, 200, True, False, 1.0 * number, True, False
    )
    return first._replace(**changes)


def test_simulated_and_repeated_calls_leave_the_others_their_names() -> None:
    calls, samples = calls_of(
        an_event(1, model="simulated-m"),
        an_event(2, run_id="a"),
        an_event(3, phase_id="p2", run_id="a"),
        an_event(4, model="simulated-m"),
        an_event(5, run_id="b", model="n"),
    )
    assert len(samples) == calls.total == 2
    shown = [(calls.names.runs[call.run], call.phase, calls.names.models[call.model]) for call in calls.plotted]
    assert shown == [("a", "p2", "m"), ("b", "p5", "n")]


def test_what_is_plotted_is_spread_over_the_whole_time() -> None:
    calls, _ = calls_of(*(an_event(number) for number in range(MOST_PLOTTED * 5 // 2)))
    times = [call.at_s or 0 for call in calls.plotted]
    assert len(times) == MOST_PLOTTED
    assert {round(after - before) for before, after in pairwise(times)} == {2, 3}


def test_who_the_samples_were_takes_little_memory() -> None:
    """Three objects of Python for each event take some 200 bytes, and what a verdict needs 69."""
    count = 20_000
    collector = CallCollector()
    events = (an_event(number, run_id=f"run-{number // 100}") for number in range(count))
    blocks = (Block._make(zip(*some, strict=True)) for some in iter(lambda: list(islice(events, 1_000)), []))
    tracemalloc.start()
    try:
        collector.add_all(blocks)
        held_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held_bytes < 130 * count


@given(st.lists(st.text(st.characters(exclude_categories=[]))))
def test_texts_that_are_kept_as_bytes_come_back(texts: list[str]) -> None:
    kept = PackedTexts()
    for some in (texts[:2], texts[2:], texts):
        kept.extend(some)
    assert [kept[number] for number in range(2 * len(texts))] == [*texts, *texts]


def test_the_last_samples_are_the_same_samples() -> None:
    """They take the columns over instead of copying them, and the calls know who they were all the same."""
    events = [an_event(number, attempt=1, turn=number % 3 + 1, phase_id=f"p{number // 3}") for number in range(30)]
    for some in (events, [an_event(number) for number in range(30)]):
        first, second = CallCollector(), CallCollector()
        for collector in (first, second):
            collector.add_all([Block._make(zip(*some, strict=True))])
        samples, last = first.samples(), second.samples(last=True)
        assert samples == last
        assert first.calls(samples) == second.calls(last)


def test_rare_names_share_one_place() -> None:
    calls, _ = calls_of(*(an_event(number, run_id=f"r{max(0, number - 10)}") for number in range(400)))
    assert calls.names.runs[0] == "r0"
    assert len(calls.names.runs) == 301
    assert calls.names.runs[-1] == OTHERS
    assert max(call.run for call in calls.plotted) == 300


def test_the_worst_calls_hold_truncated_ones_but_no_failed_ones() -> None:
    """Failed calls are not among the worst, and a truncated one is as bad as it is at least."""
    calls, _ = calls_of(
        an_event(1, actual=1, success=False),
        an_event(2, actual=50, truncated=True, success=False),
        an_event(3, actual=300, truncated=True),
        an_event(4, actual=1),
    )
    assert [(call.phase, round(call.smape_percent)) for call in calls.worst] == [("p4", 196), ("p3", 100), ("p2", 0)]


@pytest.mark.slow
def test_unused_budget_is_that_of_each_call() -> None:
    calls, _ = calls_of(an_event(1, actual=50, budget=200), an_event(2, actual=500, budget=200))
    assert (calls.budget_tokens, calls.unused_tokens) == (400, 150)
