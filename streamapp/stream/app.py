"""The Faust app around the runtime."""

import asyncio
import gc
import logging
import logging.config
import os
import signal
import sys
from typing import Any

import faust
from mode.utils.objects import cached_property

from streamapp.config import ROLES, ProcessConfig, Role
from streamapp.core.settings import Settings
from streamapp.errors import StreamappError
from streamapp.stream import lastwords
from streamapp.stream.logs import logging_config
from streamapp.stream.preflight import group_of, ready_to_start
from streamapp.stream.runtime import Runtime
from streamapp.stream.transport import Transport
from streamapp.stream.view import View
from streamapp.stream.worker import USER_FAULT

logger = logging.getLogger(__name__)

BUFFERED_BATCHES = 8
"""Fetch batches of one topic that wait for its agent before fetching pauses."""
GROUP_COMMIT_INTERVAL = 5.0
RECOGNISE_INTERVAL = 10.0
"""Seconds between two looks at whether topics are still those that tasks have positions of."""
MENDED_INTERVAL = 3.0
"""Seconds between two looks at whether what is parked has been mended."""
GC_THRESHOLDS = (50_000, 20, 100)
SWITCH_INTERVAL = 0.001
"""Seconds that a thread may compute while another one waits for its turn. While somebody scrapes, or the other loop is
at work, each call of the system in the stream's or the consumer's loop is followed by such a wait."""
LOOK_INTERVAL = 0.5
"""Seconds between two looks at whether the worker is ready."""
PARENT_INTERVAL = 1.0
SUPERVISED = "STREAMAPP_SUPERVISED"
"""Id of the process that started this one, if this one is to end when that one has gone."""


class App(faust.App):
    """Faust's app, with our transport, our start and our way of ending.

    Args:
        config: Of the process.
        settings: Of the models.
        roles: Which tasks this process may own.
    """

    logger = logging.getLogger("faust.app")  # for what Faust says; ours is below

    def __init__(self, config: ProcessConfig, settings: Settings, roles: tuple[Role, ...] = ROLES) -> None:
        session = config.session_timeout
        super().__init__(
            group_of(config, roles),
            broker=[f"kafka://{address}" for address in config.broker.split(",")],
            datadir=str(config.data),
            value_serializer="raw",
            key_serializer="raw",
            processing_guarantee="at_least_once",  # Faust's own; ours are the tasks' transactions
            table_standby_replicas=1,  # keeps Faust's assignor, which co-assigns predictions and outcomes
            topic_disable_leader=True,
            topic_allow_declare=False,
            consumer_auto_offset_reset="earliest",  # unused: our consumer never resets
            producer_threaded=False,
            stream_wait_empty=False,
            stream_buffer_maxsize=BUFFERED_BATCHES,
            stream_recovery_delay=0.0,
            broker_session_timeout=session,
            broker_heartbeat_interval=session / 3,
            broker_request_timeout=max(40.0, session),
            broker_rebalance_timeout=max(60.0, session),
            web_enabled=False,
            worker_redirect_stdouts=False,
        )
        self.config = config
        self.runtime = Runtime(
            config, settings, roles, recoveries=lastwords.before(os.environ), leave=self._leave_process
        )
        self.view = View(self.runtime)
        self._owns = False
        """Partitions were assigned, and have not been revoked since."""
        self.roles = roles
        self._parent = int(os.environ[SUPERVISED]) if os.environ.get(SUPERVISED) else None
        self.on_partitions_revoked.connect(self._revoked)
        self.on_rebalance_complete.connect(self._assigned)

    def _new_transport(self) -> Any:
        transport = Transport(self.conf.broker_consumer, self)
        transport.config = self.config
        transport.positions = self.runtime.positions
        transport.sought = self.runtime.sought
        transport.failed = self.runtime.failed
        return transport

    @cached_property
    def transport(self) -> Any:
        """Our transport, whatever the broker's URL says."""
        return self._new_transport()

    async def on_first_start(self) -> None:
        """Show ourselves, and wait until broker and topics are there."""
        # Here, since Faust's command line has its own idea of it.
        logging.config.dictConfig(logging_config(self.config.log_level, self.config.log_format))
        await super().on_first_start()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Faust stops without telling anybody what becomes of the partitions.
            loop.add_signal_handler(number, self.runtime.stop)
        # From here on, not only once there are topics: an orphan that waits would keep the web port.
        self.add_future(self._repeat(PARENT_INTERVAL, self._notice_parent))
        try:
            self.view.start()
            await ready_to_start(self.config, self.roles, self.view.waits_for)
        except StreamappError as error:
            logger.error("%s", error)
            self._give_up(USER_FAULT)
        except Exception:
            logger.exception("could not start")
            self._give_up(1)
        self.view.waits_for("partitions to be assigned")

    def _leave_process(self, code: int) -> None:
        if self.runtime.ended_by is not None:
            lastwords.say(os.environ, *self.runtime.ended_by)
        os._exit(code)

    @staticmethod
    def _give_up(code: int) -> None:
        logging.shutdown()
        os._exit(code)

    async def on_start(self) -> None:
        """Begin to commit."""
        # What is there now stays. A batch is some ten thousand objects, without cycles and soon gone: a collector that
        # goes through them at its usual pace takes its time for nothing.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        sys.setswitchinterval(SWITCH_INTERVAL)
        await super().on_start()
        self.runtime.attach(self.consumer)
        self.add_future(self.runtime.run())
        self.add_future(self._repeat(LOOK_INTERVAL, self.view.look))
        self.add_future(self._repeat(GROUP_COMMIT_INTERVAL, self._commit_group))
        self.add_future(self._repeat(MENDED_INTERVAL, self.runtime.parking.look))
        self.add_future(self._repeat(RECOGNISE_INTERVAL, self.runtime.parking.recognise))

    async def _repeat(self, seconds: float, work: Any) -> None:
        while not self.should_stop:
            await self.sleep(seconds)
            await work()

    async def _notice_parent(self) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            logger.error("whoever started this worker has gone")
            self.runtime.stop()

    async def _commit_group(self) -> None:
        try:
            await self.runtime.commit_group()
        except Exception as error:  # nothing relies on it
            logger.debug("group positions not committed: %r", error)

    async def _on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        self._owns = True
        await super()._on_partitions_assigned(assigned, generation_id)

    async def _revoked(self, *_: Any, **__: Any) -> None:
        self._owns = False
        await self.runtime.revoke()
        await self.view.refresh()  # counters of the process keep what models that go elsewhere had counted here

    async def _assigned(self, *_: Any, **__: Any) -> None:
        if not self._owns:
            return  # Faust was late to say so: it has been revoked since, and another assignment follows
        await self.runtime.assign(self.consumer.assignment())
        await self.view.refresh()
