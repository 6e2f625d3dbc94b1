"""Whether the writer's events arrive: what `autopack status` knows, as a part of the page. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from autopack.maintenance.health import StatusReport
from autopack.reporting.figures import row, table
from autopack.reporting.markup import Markup, joined, tag


def health_section(report: StatusReport) -> Markup:
    """A table of what was written and what waits, and the problems in words."""
    rows = (row(name, tag("td", value)) for name, value in _facts(report))
    problems = [tag("li", problem) for problem in report.problems]
    return joined(
        tag(
            "p",
            "Everything accepted arrives." if report.healthy else "Something needs a person:",
            class_="outcome pass" if report.healthy else "outcome fail",
        ),
        tag("ul", *problems, class_="problems") if problems else None,
        table("health", "The writer", ("what", "state"), rows, labels=2),
        tag(
            "p",
            "Events that were dropped before they were accepted are counted by the process that dropped them, in "
            "stats() and in its last log line; the database does not know of them.",
            class_="note",
        ),
    )


def _facts(report: StatusReport) -> Iterator[tuple[str, str]]:
    database, journal, dead_letters = report.database, report.journal, report.dead_letters
    yield "database", database.database
    yield "readable", "yes" if database.reachable else f"no: {database.problem}"
    yield "events written", str(database.rows)
    yield "newest event", database.last_event or "-"
    yield "journal", journal.folder if journal else "none"
    if journal:
        yield "events waiting in it", str(report.waiting)
        yield "of these, of dead processes", str(report.waiting_of_dead_writers)
        yield "damaged files quarantined", str(len(journal.corrupt))
    if dead_letters:
        yield "dead letters", str(dead_letters.waiting)
        yield "dead letters that cannot be read", str(dead_letters.unreadable)
