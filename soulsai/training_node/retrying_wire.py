"""The wire as the learning thread uses it: what fails now is tried again, and learning goes on."""

import logging
from collections.abc import Callable

from soulsai.errors import AccessDenied, ServerFull, WireError

QUIET_SECONDS = 1.0  # without a try, after the server could not be reached

log = logging.getLogger(__name__)


class Line:
    """Makes calls that may fail. Only ``AccessDenied`` and what is not the wire's gets through."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.fault = ""  # what is wrong now, in one line
        self.full = False  # the server had no room; whoever makes some resets this
        self._clock = clock
        self._quiet_until = -float("inf")

    def attempt(self, call: Callable[[], object]) -> bool:
        """Make a call, unless the server was just found unreachable; return whether it worked."""
        began = self._clock()
        if began < self._quiet_until:
            return False
        try:
            call()
        except AccessDenied:
            raise
        except ServerFull as error:
            self.full = True
            self._failed(f"the server is full: {error}")
            return False
        except WireError as error:
            now = self._clock()
            # A server that lets us wait gets no more than half of our time.
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
