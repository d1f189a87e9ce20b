"""Bring the generated parts of the documentation up to date: ``python -m docs.build``."""

import json
import re
import sys
from pathlib import Path

from docs.contract import EVENTS, asyncapi, schema, yaml
from docs.tables import PARTS
from streamapp.errors import ConfigError

FOLDER = Path(__file__).parent
PAGES = tuple(FOLDER / f"{name}.md" for name in ("events", "configuration", "cli", "metrics", "guarantees"))
_PART = re.compile(r"<!-- begin: generated (.+?) -->\n.*?<!-- end: generated -->", re.DOTALL)


def files() -> dict[Path, str]:
    """Return every file that is generated, wholly or in part, as it should be."""
    found = {page: fill(page.read_text(encoding="utf-8")) for page in PAGES}
    for name in EVENTS:
        found[FOLDER / "schemas" / f"{name}.json"] = json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"
    found[FOLDER / "asyncapi.yaml"] = "\n".join(yaml(asyncapi())) + "\n"
    return found


def fill(page: str) -> str:
    """Return a page with what belongs between its markers.

    Raises:
        ConfigError: A marker has a name that nothing is generated for.
    """

    def part(match: re.Match[str]) -> str:
        if match[1] not in PARTS:
            raise ConfigError(f"nothing is generated for {match[1]!r}: expected one of {', '.join(PARTS)}")
        return f"<!-- begin: generated {match[1]} -->\n\n{PARTS[match[1]]()}\n\n<!-- end: generated -->"

    return _PART.sub(part, page)


def main() -> None:
    """Write what differs, and name it."""
    for path, text in files().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.relative_to(FOLDER.parent)}\n")


if __name__ == "__main__":
    main()
