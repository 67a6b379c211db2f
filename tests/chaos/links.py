"""The links between everybody and the server, which can be cut and made bad, one by one.

Everybody reaches the server at an address of his own, so that packets tell whose they are.
"""

from .namespace import run

PORT = 6379
US = "us"  # we who watch; never cut


class NetworkLinks:
    """Links in a network namespace of our own: what is cut drops packets, both ways."""

    kind = "netns"

    def __init__(self):
        self._addresses = {US: "127.0.0.1"}
        self._rules = {}

    def listen(self):
        """Return the addresses and the port that the server is to listen on."""
        return "0.0.0.0", PORT

    def url(self, who):
        """Return where somebody reaches the server."""
        if who not in self._addresses:
            self._addresses[who] = f"127.0.1.{len(self._addresses)}"
        return f"redis://{self._addresses[who]}:{PORT}"

    def cut(self, who):
        """Drop every packet, silently."""
        self._add(who, "-j", "DROP")

    def heal(self, who):
        """Undo what was done to somebody's link."""
        for rule in self._rules.pop(who, []):
            run("iptables", "-D", "INPUT", *rule)

    def close(self):
        """Undo everything."""
        for who in list(self._rules):
            self.heal(who)

    def _add(self, who, *what):
        self.url(who)
        for side in ("-s", "-d"):
            rule = [side, self._addresses[who], *what]
            run("iptables", "-A", "INPUT", *rule)
            self._rules.setdefault(who, []).append(rule)
