"""PostgreSQL's URLs, read once for every driver: the parts, and what libpq's options mean. Pure but for `PG*`.

A URL is read more kindly than libpq does: a password may hold `/`, `@` and `:` as they are. Options are libpq's,
checked here, so that a mistake is told when the URL is given and not when the first event is written. What a user
demands for safety and asyncpg, the writer's driver, cannot do is refused rather than ignored; what only tunes a
connection, and the writer has its own means for, is accepted and left to the drivers that know it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, unquote

DEFAULT_PORT = 5432
_PARTS = frozenset({"host", "port", "dbname", "database", "user", "password"})
# What asyncpg reads from a DSN, and only from there.
IN_DSN = frozenset(
    {
        "passfile",
        "service",
        "sslmode",
        "sslcert",
        "sslkey",
        "sslrootcert",
        "sslnegotiation",
        "sslcrl",
        "sslpassword",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
        "krbsrvname",
        "gsslib",
    }
)
# What both drivers are told in the same words …
_COMMON = IN_DSN | {
    "target_session_attrs",
    "application_name",
    "fallback_application_name",
    "connect_timeout",
    "options",
}
# … what only libpq knows and the writer can do without, …
_TUNING = frozenset(
    {
        "keepalives",
        "keepalives_idle",
        "keepalives_interval",
        "keepalives_count",
        "tcp_user_timeout",
        "load_balance_hosts",
        "sslcompression",
        "sslsni",
        "gssdelegation",
        "gssencmode",
        "channel_binding",
        "min_protocol_version",
        "max_protocol_version",
    }
)
# … what other libraries read from a URL and what holds here anyway, …
_MEANINGLESS = frozenset({"client_encoding", "prepared_statement_cache_size", "statement_cache_size", "pgbouncer"})
# … and what must not be ignored.
_BEYOND_ASYNCPG = frozenset(
    {
        "hostaddr",
        "requirepeer",
        "require_auth",
        "sslcertmode",
        "sslcrldir",
        "replication",
        "sslkeylogfile",
        "scram_client_key",
        "scram_server_key",
        "oauth_issuer",
        "oauth_client_id",
        "oauth_client_secret",
        "oauth_scope",
    }
)
_BEYOND_ASYNCPG_VALUES = frozenset({("gssencmode", "require"), ("channel_binding", "require")})
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
_ENDS_LIKE_A_SERVER = re.compile(r"\A(?:\[[^\]]*\]|[^:/]*)(?::[0-9]*)?(?:,[^/]*)?(?:/[^/:]*)?\Z")
_HOST = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<host>/[^,]*|[^\[\]:,\s]*))(?::(?P<port>[^:]*))?")


class Address(NamedTuple):
    """Where a server listens. `host`: a name, an address, the folder of a socket (it begins with `/`), or empty for
    what the driver takes by default; `port`: None where a service file names it.
    """

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else quote(self.host, safe="")
        return host if self.port is None else f"{host}:{self.port}"


def _folded(address: Address) -> str:
    return str(address if address.host.startswith("/") else address._replace(host=address.host.lower()))


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A PostgreSQL database, its servers in the order in which they are tried. `options` are libpq's, by name.

    `database`: empty for the one named like the user. `user`, `password`: None where the URL and `PGUSER` do not say.
    """

    addresses: tuple[Address, ...]
    database: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def identity(self) -> str:
        """What tells this database from others, without credentials: servers, database, and whatever options choose a
        table in it (`service`, and `options` with its `search_path`).
        """
        servers = ",".join(sorted(map(_folded, self.addresses)))
        chosen = [f"{name}={value}" for name, value in self.options if name in ("service", "options")]
        return "|".join([f"postgresql://{servers}/{quote(self.database or self.user or '', safe='')}", *chosen])

    def option(self, name: str) -> str | None:
        """The value of a libpq option, None where the URL does not set it."""
        return dict(self.options).get(name)

    def __str__(self) -> str:
        """The URL, with the password as `***`; other secrets in its options are not hidden."""
        user = "" if self.user is None else quote(self.user, safe="")
        userinfo = f"{user}{'' if self.password is None else ':***'}@" if user or self.password is not None else ""
        servers = ",".join(map(str, self.addresses))
        query = "&".join(f"{name}={quote(value, safe='/-:,=')}" for name, value in self.options)
        return f"postgresql://{userinfo}{servers}/{quote(self.database, safe='')}" + (f"?{query}" if query else "")


def parse_postgres_url(rest: str, environ: Mapping[str, str] | None = None) -> PostgresUrl:
    """What a URL names, of which `rest` is what follows the `://`. `PGHOST`, `PGPORT`, `PGUSER` and `PGDATABASE` fill
    in what it leaves open, as with libpq; the drivers read `PGPASSWORD`, the password file and the other variables.

    Raises:
        ValueError: it cannot be read, or an option cannot be honoured. The message holds no part of a password.

    """
    if "\0" in unquote(rest):
        raise ValueError("a NUL character in it")
    environ = os.environ if environ is None else environ
    location, _, query = rest.partition("?")
    if "@" in query and "@" not in location and not _ENDS_LIKE_A_SERVER.search(location):
        raise ValueError("it seems to hold a password with a ? in it; write that as %3F")
    query, _, fragment = query.partition("#")
    if "@" in fragment:
        raise ValueError("it seems to hold a password with ? and # in it; write those as %3F and %23")
    given = dict(_read_options(query))
    userinfo, _, location = location.rpartition("@")
    servers, _, database = location.partition("/")
    if ";" in database:
        raise ValueError("options follow a ? and are joined by &; write a ; in a name as %3B")
    user, colon, password = userinfo.partition(":")
    defaults = {} if "service" in given else environ
    found_user = given.get("user") or unquote(user) or defaults.get("PGUSER")
    return PostgresUrl(
        addresses=tuple(_addresses(servers, given, defaults)),
        database=given.get("dbname") or given.get("database") or unquote(database) or defaults.get("PGDATABASE", ""),
        user=found_user or None,
        password=given.get("password", unquote(password) if colon else None),
        options=tuple(sorted((name, value) for name, value in given.items() if name in _COMMON | _TUNING)),
    )


def psycopg_arguments(url: PostgresUrl) -> dict[str, str]:
    """The keywords for `psycopg.connect`."""
    parts = {
        "host": ",".join(address.host for address in url.addresses),
        "port": ",".join(str(address.port or "") for address in url.addresses),
        "dbname": url.database,
        "user": url.user or "",
        "password": url.password or "",
    }
    named = {name: value for name, value in parts.items() if value.strip(",")}
    return {"application_name": "autopack", "connect_timeout": "5"} | named | dict(url.options)


def _read_options(query: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, query.split("&")):
        quoted_name, equals, quoted_value = part.partition("=")
        name, value = unquote(quoted_name), unquote(quoted_value)
        if not equals:
            raise ValueError("an option in it has no value; options are written as ?name=value&name=value")
        if name == "ssl":  # as JDBC and SQLAlchemy with asyncpg write it
            name, value = "sslmode", {"true": "require", "false": "disable"}.get(value, value)
        _check_option(name, value)
        yield name, value


def _check_option(name: str, value: str) -> None:
    if name in _BEYOND_ASYNCPG or (name, value) in _BEYOND_ASYNCPG_VALUES:
        raise ValueError(f"the option {name} asks for what asyncpg, the driver that writes, cannot do; leave it out")
    if name not in _PARTS | _COMMON | _TUNING | _MEANINGLESS:
        shown = name if name.isidentifier() else "one of its options"
        raise ValueError(f"{shown} is not an option of PostgreSQL's URLs; settings go into ?options=-cname%3Dvalue")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"the option {name} has to be one of {', '.join(_CHOICES[name])}")
    if name == "connect_timeout" and not re.fullmatch(r"[0-9]{1,6}", value):
        raise ValueError(f"the option {name} has to be a number of seconds")


def _addresses(servers: str, given: Mapping[str, str], defaults: Mapping[str, str]) -> Iterator[Address]:
    """One per host. A list of ports has one for each host, or one for all."""
    hosts = given.get("host") or servers
    if not hosts.strip(":0123456789"):  # a port alone
        hosts = defaults.get("PGHOST", "") + hosts
    parts = [_split_host(part) for part in hosts.split(",")]
    ports = (given.get("port") or defaults.get("PGPORT", "")).split(",")
    if len(ports) not in (1, len(parts)):
        raise ValueError(f"{len(ports)} ports for {len(parts)} hosts")
    ports = ports * len(parts) if len(ports) == 1 else ports
    for (host, own_port), port in zip(parts, ports, strict=True):
        yield Address(host, _port(own_port or port, default=None if "service" in given else DEFAULT_PORT))


def _split_host(text: str) -> tuple[str, str]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(
            "its host cannot be read; write host:port, [IPv6]:port or ?host=/folder/of/the/socket, and "
            "%-encode what is special in a user or a password"
        )
    return unquote(match["six"] or match["host"]), unquote(match["port"] or "")


def _port(text: str, default: int | None) -> int | None:
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 1 << 16:
        raise ValueError("its port is no number from 1 to 65535; %-encode what is special in a user or a password")
    return int(text)
