"""A close does not run out of time because the writer is still importing its libraries, unless the user says so."""

import logging
import threading
import time
from collections.abc import Iterator

import pytest
from tests.misbehaving_stores import WrappedStore
from tests.write_side import event

from autopack.telemetry import Telemetry
from autopack.telemetry.engine.settings import Settings, resolve
from autopack.telemetry.engine.writer import Writer
from autopack.telemetry.event import encode_given

pytestmark = pytest.mark.usefixtures("_nothing_left_running")

USUAL_S = 0.05
SOON = Settings(shutdown_timeout_s=USUAL_S)


class Importing(WrappedStore):
    """A store whose imports last until `loaded` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.loaded = threading.Event()

    def load(self) -> None:
        self.begun.set()
        assert self.loaded.wait(60)


class Releasing(logging.Handler):
    """Lets the import go on as soon as something is said, and keeps what it was."""

    def __init__(self, store: Importing) -> None:
        super().__init__()
        self.store = store
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.store.loaded.set()


@pytest.fixture
def store() -> Iterator[Importing]:
    store = Importing()
    yield store
    store.loaded.set()


def writer_with_an_event(store: Importing, settings: Settings) -> Writer:
    writer = Writer(store, settings, None)
    writer.queue.append(encode_given(time.time_ns(), 1, event()))
    writer.wake()
    assert store.begun.wait(60)
    return writer


def test_the_default_waits_for_the_imports_and_says_so(store: Importing) -> None:
    """The usual time of a close is over long before the import is: it ends when the close has said that it waits."""
    writer = writer_with_an_event(store, SOON)
    logger, handler = logging.getLogger("autopack.telemetry"), Releasing(store)
    logger.addHandler(handler)
    try:
        writer.close()
    finally:
        logger.removeHandler(handler)
    assert (len(store.rows), writer.queue.account().pending) == (1, 0)
    assert handler.said == [
        "The telemetry writer is still loading: waiting up to 30 s for 1 event(s) to be written; Ctrl-C LOSES them"
    ]


def test_the_wait_for_the_imports_has_an_end(store: Importing, caplog: pytest.LogCaptureFixture) -> None:
    writer = writer_with_an_event(store, Settings(shutdown_timeout_s=USUAL_S, load_timeout_s=2 * USUAL_S))
    began_s = time.monotonic()
    writer.close()
    assert time.monotonic() - began_s < 20
    assert writer.queue.account().pending == 1
    assert next(message.partition(":")[0] for message in caplog.messages) == "The telemetry writer is still loading"


def test_a_timeout_of_the_callers_bounds_the_imports_too(store: Importing, caplog: pytest.LogCaptureFixture) -> None:
    writer = writer_with_an_event(store, SOON)
    began_s = time.monotonic()
    writer.close(USUAL_S)
    assert time.monotonic() - began_s < 20
    assert writer.queue.account().pending == 1
    assert not [message for message in caplog.messages if "still loading" in message]


def test_the_usual_time_begins_when_the_imports_end(store: Importing) -> None:
    telemetry = Telemetry(store)
    telemetry.record(**event())
    telemetry.flush(0)
    assert store.begun.wait(60)
    telemetry.begin_close()
    before_s = telemetry.writer._commands.seconds_left()
    store.loaded.set()
    telemetry.close()
    assert (len(store.rows), telemetry.stats().pending) == (1, 0)
    assert 20 < before_s <= 30
    assert telemetry.writer._commands.seconds_left() <= 5


def test_a_timeout_that_is_set_is_the_whole_wait() -> None:
    assert resolve({}, {}).load_timeout_s == 30
    assert resolve({"shutdown_timeout_s": 5.0}, {}).load_timeout_s == 0
    assert resolve({}, {"TELEMETRY_SHUTDOWN_TIMEOUT_S": "5"}).load_timeout_s == 0
    assert resolve({}, {"TELEMETRY_LOAD_TIMEOUT_S": "9"}).load_timeout_s == 9
