"""From `record()`'s arguments to a row or a reason: the pure half of the poison matrix."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path, PureWindowsPath
from typing import Any
from uuid import RFC_4122, UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.write_side import event

from autopack.estimation.deliverables import flatten_deliverables
from autopack.estimation.metrics import accuracy
from autopack.telemetry.engine.dead_letters import dead_letter
from autopack.telemetry.event.decode import Decoder, encode_given
from autopack.telemetry.event.schema import FIELD_NAMES, OPTIONAL, Rejected, as_read
from autopack.telemetry.event.wire import encode, encode_hostile

NOW_NS = 1_766_500_000_123_456_789


def wire(**changes: Any) -> bytes:
    """The payload that `record()` makes of these keywords."""
    fields = event(**changes)
    values = tuple(fields.get(name, None if name in OPTIONAL else ...) for name in FIELD_NAMES)
    unknown = {name: value for name, value in fields.items() if name not in FIELD_NAMES}
    return encode_hostile((NOW_NS, 42, *values), unknown)


def row(**changes: Any) -> Any:
    found = Decoder()(wire(**changes))
    assert not isinstance(found, Rejected), found
    return as_read(found)


def rejected(**changes: Any) -> Rejected:
    found = Decoder()(wire(**changes))
    assert isinstance(found, Rejected), found
    return found


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=500)
counts = st.integers(min_value=0, max_value=2**53 - 1)
paths = st.recursive(
    st.lists(texts, max_size=30), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
tags = (
    st.none() | texts | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
)
events = st.fixed_dictionaries(
    {
        "run_id": texts,
        "phase_id": texts,
        "category": texts,
        "complexity": texts,
        "deliverables": paths,
        "predicted_output_tokens": counts,
        "actual_output_tokens": counts,
        "selected_budget": counts,
        "success": st.booleans(),
        "truncated": st.booleans(),
        "stop_reason": st.none() | texts,
        "model": texts,
    },
    optional={
        "actual_max_tokens": st.none() | counts,
        "input_tokens": st.none() | counts,
        "duration_ms": st.none() | counts,
        "existing": st.none() | paths,
        "attributes": st.none() | st.dictionaries(texts, tags, max_size=5),
    },
)


@pytest.mark.slow
@given(events)
def test_any_valid_event_becomes_a_row_with_the_same_values(given_event: dict[str, Any]) -> None:
    found = row(**given_event)
    for name in set(FIELD_NAMES) - {"deliverables", "existing", "attributes"}:
        assert getattr(found, name) == given_event.get(name)
    flat = flatten_deliverables(given_event["deliverables"])
    assert found.deliverable_count == len(flat)
    kept = json.loads(found.deliverables_json)
    assert kept == [path if len(path) <= 200 else path[:197] + "..." for path in flat[:20]]
    tagged = given_event.get("attributes")
    assert found.attributes_json is None if tagged is None else json.loads(found.attributes_json or "") == tagged
    metrics = (found.smape_percent, found.waste_ratio, found.underestimated)
    assert metrics == accuracy(found.predicted_output_tokens, found.actual_output_tokens)


@pytest.mark.slow
@given(events)
def test_a_common_event_is_encoded_alike_on_both_paths(given_event: dict[str, Any]) -> None:
    """A common event is encoded alike on the common path and on the hostile one."""
    values = tuple(event(**given_event).get(name) for name in FIELD_NAMES)
    assert encode((NOW_NS, 42, *values)) == encode_hostile((NOW_NS, 42, *values), {})


def test_the_instant_and_the_id_are_those_of_the_call() -> None:
    found = row()
    assert found.timestamp == datetime(2025, 12, 23, 14, 26, 40, 123456, tzinfo=UTC)
    uid = UUID(found.event_uid)
    assert (uid.version, uid.variant, str(uid)) == (7, RFC_4122, found.event_uid)
    assert uid.int >> 80 == NOW_NS // 1_000_000
    assert uid.int & 0xFFFF == 42


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("called")


class Number(int):
    def __int__(self) -> int:
        raise RuntimeError("called")


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Tag:
    name: str = "x"


class Noisy:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError("called")

    __repr__ = __str__

    def __iter__(self) -> Any:
        raise RuntimeError("called")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("called")

    def __len__(self) -> int:
        raise RuntimeError("called")

    def __bool__(self) -> bool:
        raise RuntimeError("called")


class ClassRaises:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("called")

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class ClassExits:
    @property
    def __class__(self) -> Any:
        raise SystemExit(3)

    @__class__.setter
    def __class__(self, value: Any) -> None: ...


class UnhashableKind(type):
    def __hash__(cls) -> int:
        raise RuntimeError("called")

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("called")


class OfUnhashableKind(metaclass=UnhashableKind):
    pass


class NamelessKind(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("called")


class OfNamelessKind(metaclass=NamelessKind):
    pass


class ArrayScalar:
    """Like numpy's numbers: converts by `__int__`, `__index__` and `__float__`, and is none of them."""

    def __int__(self) -> int:
        return 5

    __index__ = __int__

    def __float__(self) -> float:
        return 5.0


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = ["src/a.py"]
    value += [value, value]
    return value


def generator() -> Any:
    yield from ("src/a.py", "src/b.py")


# What makes an event a dead letter: name → (the field that the reason names, the keywords).
POISON: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "integer over int64": ("predicted_output_tokens", lambda: {"predicted_output_tokens": 2**63}),
    "integer over uint64": ("actual_output_tokens", lambda: {"actual_output_tokens": 2**64}),
    "integer over 2**53": ("selected_budget", lambda: {"selected_budget": 2**53}),
    "integer of 5,000 digits": ("predicted_output_tokens", lambda: {"predicted_output_tokens": 10**5000}),
    "negative count": ("actual_output_tokens", lambda: {"actual_output_tokens": -1}),
    "text as a count": ("predicted_output_tokens", lambda: {"predicted_output_tokens": "5200"}),
    "1.5 as a count": ("actual_output_tokens", lambda: {"actual_output_tokens": 1.5}),
    "NaN as a count": ("input_tokens", lambda: {"input_tokens": math.nan}),
    "True as a count": ("predicted_output_tokens", lambda: {"predicted_output_tokens": True}),
    "array scalar as a count": ("predicted_output_tokens", lambda: {"predicted_output_tokens": ArrayScalar()}),
    "1 as a truth": ("success", lambda: {"success": 1}),
    "text as a truth": ("truncated", lambda: {"truncated": "no"}),
    "None as a truth": ("success", lambda: {"success": None}),
    "None as an id": ("run_id", lambda: {"run_id": None}),
    "None as a count": ("selected_budget", lambda: {"selected_budget": None}),
    "None as deliverables": ("deliverables", lambda: {"deliverables": None}),
    "number as an id": ("phase_id", lambda: {"phase_id": 3}),
    "bytes as an id": ("model", lambda: {"model": b"claude"}),
    "text of 501 characters": ("model", lambda: {"model": "x" * 501}),
    "lone surrogate in an id": ("run_id", lambda: {"run_id": "a\ud800b"}),
    "lone surrogate in a path": ("deliverables", lambda: {"deliverables": ["ok", "a\udfff"]}),
    "lone surrogate in the name of a tag": ("attributes", lambda: {"attributes": {"\ud800": "x"}}),
    "lone surrogate after 1,000 good paths": ("deliverables", lambda: {"deliverables": ["ok"] * 1000 + ["\ud800"]}),
    "lone surrogate after 600 good tags": (
        "attributes",
        lambda: {"attributes": {str(number): 1 for number in range(600)} | {"z": "\ud800"}},
    ),
    "NUL in an id": ("phase_id", lambda: {"phase_id": "a\0b"}),
    "NUL in a stop reason": ("stop_reason", lambda: {"stop_reason": "\0"}),
    "NUL in a path": ("deliverables", lambda: {"deliverables": ["a\0b"]}),
    "NUL in an existing path": ("existing", lambda: {"existing": ["a\0b"]}),
    "NUL in a tag": ("attributes", lambda: {"attributes": {"a": "\0"}}),
    "NUL in the name of a tag": ("attributes", lambda: {"attributes": {"\0": "a"}}),
    "NaN as a tag": ("attributes", lambda: {"attributes": {"a": math.nan}}),
    "infinity as a tag": ("attributes", lambda: {"attributes": {"a": -math.inf}}),
    "nested tag": ("attributes", lambda: {"attributes": {"a": {"b": 1}}}),
    "list as a tag": ("attributes", lambda: {"attributes": {"a": [1]}}),
    "tags as a list": ("attributes", lambda: {"attributes": ["a"]}),
    "number as the name of a tag": ("attributes", lambda: {"attributes": {1: "a"}}),
    "object as the name of a tag": ("attributes", lambda: {"attributes": {object(): "a"}}),
    "tuple as the name of a tag": ("attributes", lambda: {"attributes": {(1, 2): "a"}}),
    "frozen dataclass as the name of a tag": ("attributes", lambda: {"attributes": {Tag(): "a"}}),
    "frozen dataclass as the name of a group": ("deliverables", lambda: {"deliverables": {Tag(): "a"}}),
    "deliverables as text": ("deliverables", lambda: {"deliverables": "src/a.py"}),
    "deliverables as one path": ("deliverables", lambda: {"deliverables": Path("src/a.py")}),
    "deliverables as a generator": ("deliverables", lambda: {"deliverables": generator()}),
    "bytes as a path": ("deliverables", lambda: {"deliverables": [b"src/a.py"]}),
    "object as a path": ("deliverables", lambda: {"deliverables": [object()]}),
    "object that raises": ("deliverables", lambda: {"deliverables": [Noisy()]}),
    "object that raises as an id": ("run_id", lambda: {"run_id": Noisy()}),
    "object whose class raises": ("run_id", lambda: {"run_id": ClassRaises()}),
    "object whose class raises, as a path": ("deliverables", lambda: {"deliverables": [ClassRaises()]}),
    "object whose class exits": ("model", lambda: {"model": ClassExits()}),
    "object of an unhashable class": ("model", lambda: {"model": OfUnhashableKind()}),
    "object of a nameless class": ("model", lambda: {"model": OfNamelessKind()}),
    "object of a nameless class, as a path": ("deliverables", lambda: {"deliverables": [OfNamelessKind()]}),
    "list that holds itself twice": ("deliverables", lambda: {"deliverables": cyclic()}),
    "100 levels": ("deliverables", lambda: {"deliverables": nested(100)}),
    "600 levels and another fault": ("deliverables", lambda: {"deliverables": nested(600), "run_id": None}),
    "990 levels": ("deliverables", lambda: {"deliverables": nested(990)}),
    "100,000 levels": ("deliverables", lambda: {"deliverables": nested(100_000)}),
    "bytes that are no MessagePack": ("its bytes", lambda: {"run_id": msgspec.Raw(b"\xff\xff\xc1")}),
    "extension of MessagePack": ("deliverables", lambda: {"deliverables": [msgspec.msgpack.Ext(2, b"")]}),
    "aware instant as a path": ("deliverables", lambda: {"deliverables": [datetime.now(UTC)]}),
    "unknown keyword": ("deliverable", lambda: {"deliverable": ["src/a.py"]}),
    "unknown keyword that is a word of Python's": ("self", lambda: {"self": 1}),
    "unknown keyword that raises": ("tokens", lambda: {"tokens": Noisy()}),
    "unknown keyword of 600 levels": ("unknown", lambda: {"tokens": nested(600)}),
    "unknown keyword with a frozen dataclass as a name": ("unknown", lambda: {"tokens": {Tag(): 1}}),
}


@pytest.mark.parametrize("name", POISON)
def test_a_poisonous_value_is_rejected_and_its_field_named(name: str) -> None:
    """A poisonous value is rejected with a reason that names the field."""
    field, changes = POISON[name]
    found = rejected(**changes())
    assert field in found.reason
    assert found.reason.isprintable() or "\\" in found.reason


@pytest.mark.parametrize("name", POISON)
def test_what_was_rejected_is_kept_as_json_and_rejected_again(name: str) -> None:
    """What was rejected can be kept as JSON, and is rejected again when it is sent again."""
    found = rejected(**POISON[name][1]())
    letter = dead_letter(found, kind="invalid")
    as_json = json.loads(msgspec.json.encode(letter))
    again = Decoder()(encode_given(as_json["timestamp_ns"], as_json["sequence"], as_json["event"]))
    assert isinstance(again, Rejected), again
    assert (again.timestamp_ns, again.sequence) == (found.timestamp_ns, found.sequence)


@pytest.mark.parametrize(
    "name",
    [
        "run_id",
        "phase_id",
        "category",
        "complexity",
        "deliverables",
        "selected_budget",
        "predicted_output_tokens",
        "actual_output_tokens",
        "success",
        "truncated",
        "stop_reason",
        "model",
    ],
)
def test_a_missing_required_field_is_named_and_is_not_none(name: str) -> None:
    """A required field that is missing is named, and is not the same as None."""
    found = rejected(**{name: ...})
    assert found.reason == f"{name} is missing"
    assert name not in found.fields


def test_values_that_are_almost_built_in_land_as_what_they_are() -> None:
    found = row(run_id=Text("r"), phase_id=Colour.RED, predicted_output_tokens=Number(7), attributes={Text("k"): "v"})
    assert (found.run_id, found.phase_id, found.predicted_output_tokens) == ("r", "red", 7)
    assert found.attributes_json == '{"k":"v"}'
    assert type(found.run_id) is str


@pytest.mark.parametrize("kind", ["int8", "int64", "uint32", "uint64"])
def test_a_number_of_numpy_is_that_number(kind: str) -> None:
    number = vars(np)[kind](52)
    found = row(predicted_output_tokens=number, success=np.bool_(True), attributes={"n": number, "x": np.float32(0.5)})
    assert (found.predicted_output_tokens, found.success) == (52, True)
    assert json.loads(found.attributes_json) == {"n": 52, "x": 0.5}


def test_what_only_looks_like_numpys_keeps_its_name() -> None:
    """Its code is the caller's own, and is not called: neither that of a subclass nor that of a namesake."""

    class Int64(np.int64):
        __name__ = "int64"

    namesake = type("int64", (ArrayScalar,), {"__module__": "numpy"})
    for value in (Int64(5), namesake(), np.longdouble(5), np.datetime64(5, "s"), np.array([5])):
        assert "cannot be recorded" in rejected(predicted_output_tokens=value).reason


def test_paths_may_be_text_or_pathlibs() -> None:
    found = row(deliverables=[Path("src/a.py"), PureWindowsPath("a\\b"), "größe.py"], existing=(Path("src/a.py"),))
    assert json.loads(found.deliverables_json) == ["src/a.py", "a\\b", "größe.py"]
    assert json.loads(found.existing_json or "") == ["src/a.py"]


def test_twenty_deliverables_of_200_characters_are_kept() -> None:
    """Of the deliverables twenty are kept, each of at most 200 characters."""
    found = row(deliverables=["a" * 200, "b" * 201, "ö" * 300, *(f"p{n}" for n in range(30))])
    kept = json.loads(found.deliverables_json)
    assert (found.deliverable_count, len(kept)) == (33, 20)
    assert kept[:3] == ["a" * 200, "b" * 197 + "...", "ö" * 197 + "..."]


def test_nested_mappings_and_lists_of_deliverables_are_flattened() -> None:
    found = row(deliverables={"code": ["a.py", ["b.py"]], "docs": {"c": "d.md"}, "none": None})
    assert json.loads(found.deliverables_json) == ["a.py", "b.py", "d.md"]


def test_no_deliverables_are_a_valid_event() -> None:
    found = row(deliverables=[], existing=[], attributes={})
    assert (found.deliverable_count, found.deliverables_json, found.existing_json) == (0, "[]", "[]")
    assert found.attributes_json == "{}"


def test_an_id_of_exactly_five_hundred_characters_lands() -> None:
    assert row(run_id="ö" * 500).run_id == "ö" * 500


def test_zero_tokens_are_valid_and_have_no_metrics() -> None:
    found = row(predicted_output_tokens=0, actual_output_tokens=0)
    assert (found.smape_percent, found.waste_ratio, found.underestimated) == (None, None, None)


def test_an_integer_too_large_keeps_its_digits_in_the_dead_letter() -> None:
    """An integer that is too large keeps its digits in the dead letter where they can be printed."""
    assert str(10**30) in json.dumps(rejected(predicted_output_tokens=10**30).fields)


@given(st.binary(max_size=200))
def test_the_decoder_never_raises_whatever_the_bytes(payload: bytes) -> None:
    assert isinstance(Decoder()(payload), tuple | Rejected)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=[]))
    | st.binary()
    | st.builds(object)
    | st.builds(Tag)
    | st.dates()
    | st.uuids()
    | st.decimals()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(st.integers(), max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.builds(Tag), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(field=st.sampled_from([*FIELD_NAMES, "unknown_field"]), value=anything)
def test_any_input_becomes_a_row_or_a_dead_letter(field: str, value: Any) -> None:
    """Whatever is given becomes a row, or a dead letter that JSON holds."""
    found = Decoder()(wire(**{field: value}))
    if isinstance(found, Rejected):
        assert found.reason
        json.loads(msgspec.json.encode(dead_letter(found, kind="invalid")))
    else:
        json.loads(as_read(found).deliverables_json)


@pytest.mark.parametrize("name", ["deliverables", "tokens"])
def test_the_describing_of_a_hostile_value_is_bounded(name: str) -> None:
    wide: list[Any] = [["\ud800"] * 1000 for _ in range(1000)]
    began = time.process_time()
    rejected(**{name: {str(number): wide for number in range(1000)}})
    # Some 5 ms; a description of every value would take an hour.
    assert time.process_time() - began < 10
