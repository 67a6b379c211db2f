"""Packets that arrive late: this kernel has no netem, so a thread holds them back."""

import heapq
import itertools
import selectors
import threading
import time

LONGEST = 20_000  # packets held


class Shaper:
    """Holds packets of one netfilter queue for ``delay`` seconds each."""

    def __init__(self, number):
        from netfilterqueue import NetfilterQueue  # only where links are made slow

        self.delay = 0.0
        self.seen = 0
        self._held = []
        self._order = itertools.count()
        self._queue = NetfilterQueue()
        self._queue.bind(number, self._hold, max_len=LONGEST)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="shaper")
        self._thread.start()

    def close(self):
        self._stop.set()
        self._thread.join()
        for _, _, packet in self._held:
            packet.accept()
        self._queue.unbind()

    def _hold(self, packet):
        packet.retain()
        self.seen += 1
        heapq.heappush(self._held, (time.monotonic() + self.delay, next(self._order), packet))

    def _work(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self._queue.get_fd(), selectors.EVENT_READ)
            while not self._stop.is_set():
                due = self._held[0][0] - time.monotonic() if self._held else 0.1
                if selector.select(min(max(due, 0.0), 0.1)):
                    self._queue.run(block=False)
                while self._held and self._held[0][0] <= time.monotonic():
                    heapq.heappop(self._held)[2].accept()
