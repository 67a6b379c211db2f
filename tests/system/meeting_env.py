"""An environment whose every reset and step waits for the permission of a server in the test."""

import socket

from tests.unit.client.player_cases import Diary


class Meeting(Diary):
    """Says which of both it begins, and goes on once the server has answered."""

    def __init__(self, port, length=4):
        super().__init__(length=length)
        self.port = port

    def reset(self, *, seed=None, options=None):
        self.wait(b"r")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self.wait(b"s")
        return super().step(action)

    def wait(self, what):
        with socket.create_connection(("127.0.0.1", self.port), 20) as connection:
            connection.sendall(what)
            connection.recv(1)
