"""Asking the running worker over HTTP, with the admin token: a command may not open a connection of its own.

The token is for the service that was named: redirects are not followed, and a loopback address is never asked by a proxy.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from b1.errors import ConfigurationError
from b1.settings import Settings

PATIENCE_S = 5.0
_ANSWER_LIMIT_BYTES = 1 << 20
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def ask_worker(
    url: str | None,
    method: str,
    path: str,
    asked: Mapping[str, str | Sequence[str]],
    settings: Settings,
    *,
    patience_s: float = PATIENCE_S,
) -> dict[str, Any]:
    """Ask the running worker.

    Args:
        url: where it is; None: on this machine, at the port of the settings.
        asked: the query; a list repeats its name.

    Raises:
        ConfigurationError: the URL is none.
        ConnectionError: nobody answers, or the answer is a refusal; the message says what to do.
    """
    base = (url or f"http://127.0.0.1:{settings.port}").rstrip("/")
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise ConfigurationError(f"--url is {base!r}", remedy="such as http://127.0.0.1:8000")
    query = f"?{urllib.parse.urlencode(asked, doseq=True)}" if asked else ""
    request = urllib.request.Request(f"{base}{path}{query}", method=method)
    if settings.admin_token is not None:
        request.add_header("Authorization", f"Bearer {settings.admin_token.reveal()}")
    try:
        with _opener(base).open(request, timeout=patience_s) as response:
            answer: dict[str, Any] = json.loads(response.read(_ANSWER_LIMIT_BYTES))
            return answer
    except urllib.error.HTTPError as refused:
        raise ConnectionError(_refusal(base, refused)) from None
    except (OSError, ValueError) as failed:
        reason = getattr(failed, "reason", failed)
        raise ConnectionError(
            f"no worker answers at {base} ({reason}): is it running? --url says where it is"
        ) from None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token is for the service that was named, and for no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(base: str) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if urllib.parse.urlsplit(base).hostname in _LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _refusal(base: str, refused: urllib.error.HTTPError) -> str:
    try:
        detail = str(json.loads(refused.read(65_536)).get("detail", refused.reason))
    except (OSError, ValueError, AttributeError):
        detail = str(refused.reason)
    advice = {401: ": give ADMIN_TOKEN the value that the service has", 404: ": the service is no b1, or an older one"}
    return f"{base} answered {refused.code} ({detail}){advice.get(refused.code, '')}"
