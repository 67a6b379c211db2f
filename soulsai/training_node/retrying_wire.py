"""The training node's wire with failures absorbed, so that learning goes on."""

import logging
from collections.abc import Callable

from soulsai.errors import AccessDenied, ServerFull, WireError
from soulsai.wire.protocols import TrainingWire

QUIET_SECONDS = 1.0  # without a call after the server could not be reached

log = logging.getLogger(__name__)


class RetryingWire:
    """Makes calls that may fail; of the wire's errors it raises only ``AccessDenied``."""

    def __init__(self, wire: TrainingWire, clock: Callable[[], float]) -> None:
        self.fault = ""  # the present trouble with the server, in one line
        self.full = False  # the server had no memory left; reset by the owner of the data
        self._wire = wire
        self._clock = clock
        self._quiet_until = -float("inf")

    def attempt(self, call: Callable[[TrainingWire], object]) -> bool:
        """Make a call, unless the server was just found unreachable; return whether it worked."""
        began = self._clock()
        if began < self._quiet_until:
            return False
        try:
            call(self._wire)
        except AccessDenied:
            raise
        except ServerFull as error:
            self.full = True
            self._failed(f"the server is full: {error}")
            return False
        except WireError as error:
            now = self._clock()
            # A server that answers only by time-outs gets at most half of the learner's time.
            self._quiet_until = now + QUIET_SECONDS + (now - began)
            self._failed(str(error))
            return False
        if self.fault and not self.full:
            log.info("server answers again")
            self.fault = ""
        return True

    def _failed(self, fault: str) -> None:
        if not self.fault:
            log.warning("server trouble, learning goes on error=%s", fault)
        self.fault = fault
