"""The monitor agent: ``scored`` in, signals and retrain requests out."""

from collections.abc import AsyncIterable
from typing import Any

from streamapp.stream.app import App
from streamapp.stream.transport import Batch


def register(app: App) -> Any:
    """Add the agent to the app."""
    inputs = app.topic(*app.runtime.inputs("monitor"), acks=False)

    @app.agent(inputs, name="monitor")
    async def monitor(batches: AsyncIterable[Batch]) -> None:
        async for batch in batches:
            await app.runtime.handle(batch)

    return monitor
