"""What was asked for: the only module that reads the environment.

A value that does not parse, or a ``B1_*`` name that nobody knows, stops the start: a misspelt limit that is silently
ignored costs more than a refused start.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from b1.errors import InvalidSetting, MissingSecret, UnknownSetting
from b1.units import (
    one_of,
    parse_bytes,
    parse_count,
    parse_port,
    parse_positive,
    parse_switch,
    parse_text,
    parse_window,
    parse_words,
    percent_up_to,
)

SECRET_MINIMUM = 32


class Secret:
    """A secret text that never shows itself: not in repr, not in str, not in a traceback's locals."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._value


def _origins(value: str) -> tuple[str, ...]:
    for origin in (found := parse_words(value)):
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
            raise ValueError("origins such as https://app.example.com, separated by commas")
    return found


def _database_url(value: str) -> Secret:
    if urlsplit(value).scheme not in ("postgres", "postgresql"):
        raise ValueError("a URL that starts with postgresql://")
    return Secret(value)


def _replica_urls(value: str) -> tuple[Secret, ...]:
    return tuple(_database_url(url) for url in parse_words(value))


def _redis_url(value: str) -> Secret:
    if urlsplit(value).scheme not in ("redis", "rediss", "unix"):
        raise ValueError("a URL that starts with redis:// or rediss://")
    return Secret(value)


def _proxy(value: str) -> str:
    if value not in ("azure", "none") and not value.isdigit():
        raise ValueError("azure, none, or the number of trusted proxies")
    return value


def _words(value: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in value.split(",")) if word)


def _mismatch_status(value: str) -> int:
    if value not in ("409", "422"):
        raise ValueError("409 or 422")
    return int(value)


def _setting(name: str, parse: Callable[[str], Any], default: Any, help_text: str, *, also: str | None = None) -> Any:
    """Declare one variable; the default is written here and nowhere else."""
    return field(default=default, metadata={"name": name, "also": also, "parse": parse, "help": help_text})


def _secret(name: str, help_text: str, *, also: str | None = None, parse: Callable[[str], Any] = Secret) -> Any:
    """Declare one secret: may also come from the file that NAME_FILE names."""
    return field(
        default=None, repr=False,
        metadata={"name": name, "also": also, "parse": parse, "help": help_text, "secret": True},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be asked for; None means "derive it" (see `b1.plan`)."""

    env: str = _setting(
        "B1_ENV",
        one_of("production", "development"),
        "development",
        "production needs its secrets; App Service is recognised",
    )
    host: str | None = _setting("HOST", parse_text, None, "address to bind; 0.0.0.0 for b1 run, 127.0.0.1 for b1 dev")
    port: int = _setting("PORT", parse_port, 8000, "port to bind")
    database_url: Secret | None = _secret("DATABASE_URL", "Postgres", parse=_database_url)
    database_replica_urls: tuple[Secret, ...] | None = _secret(
        "DATABASE_REPLICA_URLS", "read replicas, separated by commas", parse=_replica_urls
    )
    redis_url: Secret | None = _secret(
        "REDIS_URL",
        "Redis or Valkey; without it the state lives in memory",
        also="AZURE_REDIS_URL",
        parse=_redis_url,
    )
    redis_url_file: Path | None = _setting(
        "REDIS_URL_FILE", Path, None, "REDIS_URL in a file; read again before its credentials end, without a restart"
    )
    alert_webhook_url: Secret | None = _secret("ALERT_WEBHOOK_URL", "where alerts are sent")
    alert_webhook_url_file: Path | None = _setting(
        "ALERT_WEBHOOK_URL_FILE", Path, None, "ALERT_WEBHOOK_URL in a file; a new address counts without a restart"
    )
    alert_webhook_secret: Secret | None = _secret("ALERT_WEBHOOK_SECRET", "signs alerts; whsec_…")
    alert_webhook_secret_file: Path | None = _setting(
        "ALERT_WEBHOOK_SECRET_FILE", Path, None, "ALERT_WEBHOOK_SECRET in a file; a new one counts without a restart"
    )
    auth_jwt_secret: Secret | None = _secret(
        "AUTH_JWT_SECRET", "signs and verifies access tokens (HS256), 32 characters or more"
    )
    auth_jwks_url: str | None = _setting(
        "AUTH_JWKS_URL", parse_text, None, "keys of an identity provider, instead of AUTH_JWT_SECRET"
    )
    auth_issuer: str | None = _setting("AUTH_ISSUER", parse_text, None, "the issuer that tokens must name")
    auth_audience: str | None = _setting("AUTH_AUDIENCE", parse_text, None, "the audience that tokens must name")
    admin_token: Secret | None = _secret("ADMIN_TOKEN", "opens metrics, report and dashboard")
    cors_origins: tuple[str, ...] = _setting(
        "CORS_ORIGINS", _origins, (), "origins that browsers may call from, separated by commas"
    )
    log_level: str = _setting(
        "LOG_LEVEL", one_of("debug", "info", "warning", "error"), "info", "least severity that is logged"
    )
    log_format: str | None = _setting(
        "LOG_FORMAT", one_of("json", "console"), None, "json in production, console in development"
    )
    sentry_dsn: Secret | None = _secret("SENTRY_DSN", "where unhandled errors are reported")
    enable_rate_limiting: bool = _setting("ENABLE_RATE_LIMITING", parse_switch, True, "limits per class")
    enable_caching: bool = _setting(
        "ENABLE_CACHING",
        parse_switch,
        True,
        "response, identity and reference caches",
        also="ENABLE_REDIS_CACHING",
    )
    enable_idempotency: bool = _setting(
        "ENABLE_IDEMPOTENCY", parse_switch, True, "idempotency keys on routes that declare them"
    )
    enable_streaming: bool = _setting("ENABLE_STREAMING", parse_switch, True, "realtime streams")
    enable_metrics: bool = _setting("ENABLE_METRICS", parse_switch, True, "metrics endpoints and their instruments")
    enable_api_docs: bool = _setting("ENABLE_API_DOCS", parse_switch, True, "/openapi.json and /api-docs")
    enable_cache_warming: bool = _setting(
        "ENABLE_CACHE_WARMING", parse_switch, True, "load critical and often-read data before it is asked for"
    )
    enable_jobs: bool = _setting("ENABLE_JOBS", parse_switch, True, "background jobs")
    enable_dashboard: bool = _setting("ENABLE_DASHBOARD", parse_switch, True, "the live page")
    memory_limit: int | None = _setting("B1_MEMORY_LIMIT", parse_bytes, None, "memory to plan for, such as 1750MiB")
    cpus: float | None = _setting("B1_CPUS", parse_positive, None, "cores to plan for")
    workers: int = _setting(
        "B1_WORKERS", parse_count, 1, "always 1: a second worker doubles the memory and shares one core"
    )
    db_connections: int = _setting("B1_DB_CONNECTIONS", parse_count, 3, "Postgres connections of this host")
    redis_connections: int = _setting(
        "B1_REDIS_CONNECTIONS", parse_count, 2, "Redis connections of this host, one of them in reserve"
    )
    cache_max: int | None = _setting(
        "B1_CACHE_MAX", parse_bytes, None, "bytes of the in-process cache", also="CACHE_MAX_SIZE_MB"
    )
    body_limit: int | None = _setting("B1_BODY_LIMIT", parse_bytes, None, "largest request body")
    instances: int = _setting("B1_INSTANCES", parse_count, 1, "hosts that share the database and its budget")
    namespace: str | None = _setting("B1_NAMESPACE", parse_text, None, "separates apps that share a Redis")
    upload_dir: Path | None = _setting("B1_UPLOAD_DIR", Path, None, "where uploads are stored")
    proxy: str | None = _setting("B1_PROXY", _proxy, None, "azure, none, or the number of trusted proxies")
    state_dir: Path | None = _setting("B1_STATE_DIR", Path, None, "reports and small state; not on a network share")
    memory_injection_file: Path | None = _setting(
        "B1_MEMORY_INJECTION_FILE", Path, None, "staging: a ratio in this file replaces the measured memory"
    )
    trace_memory_s: float = _setting(
        "B1_TRACE_MEMORY_S", parse_window, 0.0, "trace allocations for so long once memory is elevated; 0 never does"
    )
    demo: bool = _setting("B1_DEMO", parse_switch, False, "seed the demo data")
    limit_scale: float = _setting("B1_LIMIT_SCALE", parse_positive, 1.0, "multiplies every quota; for load tests only")
    limit_ahead: float = _setting(  # beyond a quarter the bound that several processes keep together says little
        "B1_LIMIT_AHEAD", percent_up_to(25), 0.0, "percent of a quota that may be spent before Redis confirms it"
    )
    ratelimit_headers: str = _setting(
        "B1_RATELIMIT_HEADERS",
        one_of("draft-11", "pr166", "legacy", "off"),
        "draft-11",
        "how RateLimit fields are written: the IETF draft in force, its renamed successor, the oldest form, or not at all",
    )
    limit_allow: tuple[str, ...] = _setting(
        "B1_LIMIT_ALLOW", _words, (), "never limited: networks, addresses, actor:<id>, separated by commas"
    )
    limit_deny: tuple[str, ...] = _setting(
        "B1_LIMIT_DENY", _words, (), "always refused: networks, addresses, actor:<id>, separated by commas"
    )
    idempotency_mismatch_status: int = _setting(
        "B1_IDEMPOTENCY_MISMATCH_STATUS", _mismatch_status, 409, "409, or 422 as in the IETF draft"
    )
    alert_allow_private: bool = _setting(
        "B1_ALERT_ALLOW_PRIVATE", parse_switch, False, "alerts may go to loopback and private addresses"
    )
    replacement: str = _setting(
        "B1_REPLACEMENT",
        one_of("auto", "handover", "serial"),
        "auto",
        "how a worker is replaced: beside its predecessor, after it, or as memory allows",
    )
    app: str = _setting("B1_APP", parse_text, "app.main:app", "module:attribute of the application")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read and check the environment.

        Raises:
            UnknownSetting: a ``B1_*`` name that is not in the table; names the nearest known one.
            InvalidSetting: a value that does not parse; names the variable, the value and what was expected.
            MissingSecret: production lacks a secret, or a production switch is on that only tests may use.
        """
        _refuse_unknown(environ)
        values = {f.name: value for f in fields(cls) if (value := _read(f.metadata, environ)) is not None}
        if "env" not in values and "WEBSITE_SITE_NAME" in environ and "WEBSITE_INSTANCE_ID" in environ:
            values["env"] = "production"
        if values.get("proxy") is None and "WEBSITE_SITE_NAME" in environ:
            values["proxy"] = "azure"
        if values.get("namespace") is None and environ.get("WEBSITE_SITE_NAME"):
            values["namespace"] = environ["WEBSITE_SITE_NAME"]
        for name in ("ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET"):
            if environ.get(name, "").strip():  # it counts, and the file is not looked at again
                values.pop(f"{name.lower()}_file", None)
        settings = cls(**values)
        if settings.is_production:
            _check_production(settings)
        _check_together(settings)
        return settings

    @property
    def is_production(self) -> bool:
        """Whether missing secrets stop the start."""
        return self.env == "production"


def known_names() -> dict[str, str]:
    """Return every variable that `Settings` reads, with its sentence of help."""
    names: dict[str, str] = {}
    for declared in fields(Settings):
        names[declared.metadata["name"]] = declared.metadata["help"]
        if declared.metadata["also"]:
            names[declared.metadata["also"]] = f"the same as {declared.metadata['name']}"
    return names


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    known = {name for name in known_names() if name.startswith("B1_")}
    for name in sorted(environ):
        if name.startswith("B1_") and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known names: {', '.join(sorted(known))}"
            raise UnknownSetting(f"{name}={environ[name]!r} is not a setting of b1", remedy=hint)


def _read(declared: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    for name in (declared["name"], declared["also"]):
        if name is None:
            continue
        raw = environ.get(name, "").strip()
        if not raw and declared.get("secret") and (path := environ.get(f"{name}_FILE")):
            raw = _read_secret_file(name, path)
        if raw:
            return _parse(name, raw, declared)
    return None


def _read_secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise InvalidSetting(
            f"{name}_FILE={path!r} cannot be read ({error.strerror})", remedy="name a readable file"
        ) from None


def _parse(name: str, raw: str, declared: Mapping[str, Any]) -> Any:
    text = f"{raw}MiB" if name == "CACHE_MAX_SIZE_MB" and raw.isdigit() else raw
    try:
        return declared["parse"](text)
    except ValueError as error:
        shown = "***" if declared.get("secret") else repr(raw)
        raise InvalidSetting(f"{name}={shown} does not parse", remedy=f"expected {error}") from None


def _check_production(settings: Settings) -> None:
    if settings.auth_jwt_secret is None and settings.auth_jwks_url is None and settings.database_url is not None:
        raise MissingSecret(
            "AUTH_JWT_SECRET is missing in production",
            remedy="set it (32 random characters or more), or AUTH_JWKS_URL",
        )
    if settings.admin_token is None:
        raise MissingSecret("ADMIN_TOKEN is missing in production", remedy="set a random text of 32 characters or more")
    if settings.limit_scale != 1.0:
        raise InvalidSetting(
            f"B1_LIMIT_SCALE={settings.limit_scale:g} in production",
            remedy="it exists for load tests; remove it",
        )
    if settings.memory_injection_file is not None:
        raise InvalidSetting(
            f"B1_MEMORY_INJECTION_FILE={str(settings.memory_injection_file)!r} in production",
            remedy="it pretends pressure, for staging; remove it, or set B1_ENV=development there",
        )
    if settings.demo:
        raise InvalidSetting("B1_DEMO=1 in production", remedy="the demo's passwords are public; remove it")
    secret = settings.auth_jwt_secret
    if secret is not None and len(secret.reveal()) < SECRET_MINIMUM:
        raise InvalidSetting("AUTH_JWT_SECRET=*** is too short", remedy=f"expected {SECRET_MINIMUM} characters or more")


def _check_together(settings: Settings) -> None:
    if settings.workers != 1:
        raise InvalidSetting(
            f"B1_WORKERS={settings.workers} is not supported",
            remedy="one core runs one worker; leave it at 1",
        )
    if "*" in settings.cors_origins and settings.is_production:
        raise InvalidSetting("CORS_ORIGINS='*' in production", remedy="list the origins that may call")
