"""``streamapp check``: is a models.toml right?"""

from pathlib import Path

import typer

from streamapp.errors import ConfigError
from streamapp.modelsfile import load_models, notes
from streamapp.tables import to_json


def run(file: Path, *, json: bool) -> int:
    """Report on a models file, and return the exit code.

    Raises:
        ConfigError: there is no such file to report on.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    try:
        settings = load_models(file)
    except ConfigError as error:
        typer.echo(to_json({"ok": False, "problems": [str(error)], "notes": [], "models": []}) if json else str(error))
        return 1
    remarks, names = notes(settings), list(settings.models)
    if json:
        typer.echo(to_json({"ok": True, "problems": [], "notes": remarks, "models": names}))
        return 0
    for remark in remarks:
        typer.echo(f"{file}: note: {remark}")
    typer.echo(f"{file}: right; models: {', '.join(names) or 'none named, all have the defaults'}")
    return 0
