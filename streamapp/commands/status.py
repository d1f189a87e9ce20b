"""``streamapp status``: what a worker knows."""

import http.client
import json as jsonlib
import urllib.error
import urllib.request
from typing import Any

import typer

from streamapp.errors import ConfigError
from streamapp.tables import Terminal, summary_view, to_json

_TIMEOUT = 10.0


def run(url: str, *, json: bool) -> int:
    """Show a worker's readiness and summary, and return the exit code.

    Raises:
        ConfigError: nothing that is a worker answers there.
    """
    readiness = fetch(url, "/readyz")
    if not isinstance(readiness.get("ready"), bool) or "reason" not in readiness:
        raise ConfigError(f"{url}/readyz: answers, but not as a worker does")
    summary = fetch(url, "/api/summary")
    if json:
        typer.echo(to_json({"readiness": readiness, **summary}))
    else:
        console = Terminal()
        console.print(summary_view(summary))
        console.print("ready" if readiness["ready"] else f"not ready: {readiness['reason']}", markup=False)
        if not readiness["ready"]:
            for name, text in readiness.get("details", {}).items():
                # Whole, on a line of its own: it may hold a command that wants to be copied.
                typer.echo(f"  {name}: {text}")
    return 0 if readiness["ready"] else 1


def fetch(url: str, path: str, timeout: float = _TIMEOUT) -> dict[str, Any]:
    """Return the JSON object that a worker answers with.

    Raises:
        ConfigError: nothing that is a worker answers there.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url must begin with http:// or https://, got {url!r}")
    try:
        try:
            with urllib.request.urlopen(url.rstrip("/") + path, timeout=timeout) as answer:  # noqa: S310 - checked above
                found = jsonlib.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 503:
                    raise ConfigError(f"{url}{path}: answered {error.code}; is a worker's web server there?") from None
                found = jsonlib.load(error)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, ConfigError):
            raise
        reason = getattr(error, "reason", None) or str(error).strip() or type(error).__name__
        raise ConfigError(f"{url}: no worker answers ({reason})") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{url}{path}: expected a JSON object")
    return found
