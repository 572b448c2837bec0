"""The keeper: the process of a service that flushes the journal into the table and does the table's upkeep.

It is a process of its own so that neither competes with the answering of requests for an interpreter's lock or for
memory. It takes no requests: what there is to do, it reads from the journal. `service.keeper_process` starts it,
starts it again when it dies, and ends it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from storage.absent_modules import do_without

if TYPE_CHECKING:
    from service.settings import Settings

# What the parent writes when everything that was to be acknowledged is in the journal.
DRAIN: Final = b"drain\n"

_log = logging.getLogger("actionlake.keeper")


def main() -> None:
    """Keep the store that the environment names until the parent says `DRAIN`; then flush what is left.

    The signals that end a service are its parent's business: whoever sends them to a whole group of processes must
    not end this one before the last request is answered. It ends at once when its parent is gone, as by a kill: what
    it was about is taken up from the journal by the next one.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    do_without("pandas")
    from service.live_settings import LiveSettings
    from service.logs import configure_logging, use_log_level
    from service.metrics import Metrics
    from service.sources import HANDED_OVER_VARIABLE
    from service.store_settings import store_options, store_paths
    from storage.clock import system_now_us
    from storage.errors import StoreError
    from storage.free_memory import GivingBack
    from storage.opening import join_store

    live = LiveSettings.take_over(os.environ[HANDED_OVER_VARIABLE], now_us=system_now_us)
    settings = live.in_force.settings
    configure_logging(settings.log_level, settings.log_format)
    metrics = Metrics()
    store = join_store(store_paths(settings), settings.action_schema(), store_options(settings, metrics))
    store.start_leading()

    def use(changed: Settings) -> bool:
        if not store.use(changed.action_schema(), store_options(changed, metrics)):
            return False
        use_log_level(changed.log_level)
        return True

    live.follow(use)
    giving_back = GivingBack()
    if sys.stdin.buffer.readline() != DRAIN:
        # No handler may run and no thread be waited for: a new service may be waiting for the folder.
        os._exit(1)
    live.stop()
    giving_back.stop()
    try:
        store.close(flush=True)
    except StoreError as error:
        _log.error("the last flush failed, the rows stay in the journal: %s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
