"""What an error of PostgreSQL, or of asyncpg, means for a batch: a table of SQLSTATEs, and one of classes. Pure.

Decided by code and class, never by text, which embeds the row. FAILURES of others: asyncpg's refused connection is a
bare `ConnectionRefusedError`, a killed backend has no SQLSTATE, and its `DataError` is raised before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopack.errors import DataRejectedError, SchemaError, StoreError, StoreUnusableError, TransientStoreError

# By class, the first two characters of a SQLSTATE. What is in neither table is unknown, and counts as transient.
_KIND_OF_SQLSTATE_CLASS: Mapping[str, type[StoreError]] = {
    "08": TransientStoreError,  # connection; also what PgBouncer says of itself
    "0A": StoreUnusableError,  # feature not supported
    "0P": StoreUnusableError,  # no such role
    "21": DataRejectedError,  # cardinality
    "22": DataRejectedError,
    "23": DataRejectedError,  # integrity
    "26": TransientStoreError,  # the prepared statement is on another server connection
    "28": StoreUnusableError,  # authorization
    "3D": StoreUnusableError,  # no such database
    "3F": StoreUnusableError,  # no such schema
    "40": TransientStoreError,  # serialization, deadlock
    "42": StoreUnusableError,  # no such table or column, no privilege
    "44": DataRejectedError,  # WITH CHECK OPTION
    "53": TransientStoreError,  # resources: disk, memory, connections
    "54": DataRejectedError,  # limits: an entry too large for its index
    "55": TransientStoreError,  # not in the state for it, locked
    "57": TransientStoreError,  # operator intervention, statement_timeout
    "58": TransientStoreError,  # system error
    "F0": StoreUnusableError,  # configuration file
    "P0": DataRejectedError,  # raised by a trigger of the user's
}
_KIND_OF_SQLSTATE: Mapping[str, type[StoreError]] = {
    "25006": TransientStoreError,  # read-only: a failover is under way, or this is the former primary
    "42501": DataRejectedError,  # a policy refuses the row; or the role may not insert, and then any row is refused
    "XX001": StoreUnusableError,  # damaged data
    "XX002": StoreUnusableError,  # damaged index
}
_CHECK_VIOLATION = "23514"

# What has no SQLSTATE: by the name of the class or of one above it, so that no driver is imported for it.
_KIND_OF_CLASS: Mapping[str, type[StoreError]] = {
    "ClientConfigurationError": StoreUnusableError,
    "UnsupportedClientFeatureError": StoreUnusableError,
    "UnsupportedServerFeatureError": StoreUnusableError,
    "InterfaceError": TransientStoreError,  # "connection is closed"
    "InternalClientError": TransientStoreError,  # the answer makes no sense, or no host has the wanted role
    "SSLCertVerificationError": StoreUnusableError,
    "OSError": TransientStoreError,
    "OverflowError": DataRejectedError,
    "TypeError": DataRejectedError,
    "ValueError": DataRejectedError,
}


def translate(exc: BaseException) -> StoreError:
    """What to do about an exception that came up while connecting or writing."""
    cause = _cause_of(exc)
    if isinstance(cause, StoreError):
        return cause
    if isinstance(cause, SchemaError):
        return StoreUnusableError(str(cause))
    sqlstate = getattr(cause, "sqlstate", None)
    if not isinstance(sqlstate, str):
        return _kind_of_class(type(cause))(type(cause).__name__)
    kind = _kind_of_sqlstate(cause, sqlstate)
    code = f"{type(cause).__name__} {sqlstate}"
    return DataRejectedError(code, _subject_of(cause)) if kind is DataRejectedError else kind(code)


def _subject_of(cause: BaseException) -> str | None:
    """What the server says that a refusal is about, apart from its message: a column, or a constraint."""
    for kind in ("column", "constraint"):
        if name := getattr(cause, f"{kind}_name", None):
            return f"{kind} {name}"
    return "row-level security, or the right to insert" if getattr(cause, "sqlstate", None) == "42501" else None


def _cause_of(exc: BaseException) -> BaseException:
    """The driver's own exception, where SQLAlchemy has wrapped it, once or twice."""
    wrapped = getattr(exc, "orig", None)
    if not isinstance(wrapped, BaseException):
        return exc
    return wrapped.__cause__ or wrapped


def _kind_of_sqlstate(cause: BaseException, sqlstate: str) -> type[StoreError]:
    if sqlstate == _CHECK_VIOLATION and not getattr(cause, "constraint_name", None):
        return StoreUnusableError  # no constraint: there is no partition for such rows
    found = _KIND_OF_SQLSTATE.get(sqlstate) or _KIND_OF_SQLSTATE_CLASS.get(sqlstate[:2])
    return found or TransientStoreError


def _kind_of_class(class_: type[BaseException]) -> type[StoreError]:
    found = (_KIND_OF_CLASS[base.__name__] for base in class_.__mro__ if base.__name__ in _KIND_OF_CLASS)
    return next(found, TransientStoreError)
