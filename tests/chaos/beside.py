"""Threads that work while a block runs."""

import threading


class Beside:
    """Runs ``works`` in threads while a block runs; they are to end when ``stop`` is set."""

    def __init__(self, *works):
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=work, name=work.__qualname__) for work in works]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self._threads:
            thread.join()
