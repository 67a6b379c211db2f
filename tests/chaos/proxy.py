"""Links without any rights: a proxy in between, which holds back what is to be cut or late."""

import asyncio
import socket
import threading

from .links import US

CHUNK = 2**16


class ProxyLinks:
    """Does in user space what ``NetworkLinks`` do in the kernel, as far as a proxy can.

    A cut link is one through which nothing comes and nothing is refused; no packet is ever lost.
    """

    kind = "proxy"

    def __init__(self):
        with socket.socket() as probe:  # free now, and nobody else's for as long as it takes
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._ports = {US: self._port}
        self._open = {}
        self._servers = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()

    def listen(self):
        return "127.0.0.1", self._port

    def url(self, who):
        if who not in self._ports:
            self._ports[who] = self._do(self._serve(who))
        return f"redis://127.0.0.1:{self._ports[who]}"

    def cut(self, who):
        self.url(who)
        self._loop.call_soon_threadsafe(self._open[who].clear)

    def heal(self, who):
        if who in self._open:
            self._loop.call_soon_threadsafe(self._open[who].set)

    def close(self):
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self, who):
        self._open[who] = asyncio.Event()
        self._open[who].set()
        server = await asyncio.start_server(
            lambda reader, writer: self._connect(who, reader, writer), "127.0.0.1", 0
        )
        self._servers.append(server)
        return server.sockets[0].getsockname()[1]

    async def _connect(self, who, reader, writer):
        try:
            await self._open[who].wait()
            there = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(
            self._pump(who, reader, there[1]),
            self._pump(who, there[0], writer),
        )

    async def _pump(self, who, reader, writer):
        try:
            while chunk := await reader.read(CHUNK):
                await self._open[who].wait()
                writer.write(chunk)
                await writer.drain()
            writer.close()
        except OSError:
            writer.transport.abort()

    async def _end(self):
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
