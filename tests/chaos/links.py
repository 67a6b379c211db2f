"""The links between everybody and the server, which can be cut and made bad, one by one.

Everybody reaches the server at an address of his own, so that packets tell whose they are.
"""

from .namespace import run
from .shaper import Shaper

PORT = 6379
US = "us"  # we who watch; never cut
DELAYED = 1  # number of the packet queue


class NetworkLinks:
    """Links in a network namespace of our own: what is cut drops packets, both ways."""

    kind = "netns"

    def __init__(self):
        self._addresses = {US: "127.0.0.1"}
        self._rules = {}
        self._shaper = None

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

    def spoil(self, who, *, delay, loss):
        """Delay each packet by so many seconds, and lose a share of them."""
        if self._shaper is None:
            self._shaper = Shaper(DELAYED)
        self._shaper.delay = delay
        self._add(who, *f"-m statistic --mode random --probability {loss} -j DROP".split())
        self._add(who, *f"-j NFQUEUE --queue-num {DELAYED}".split())

    def narrow(self, bits):
        """Let so many bits per second through, of everybody's together."""
        run("ip", "link", "set", "lo", "mtu", "1500")  # larger packets would never fit
        run(*f"tc qdisc replace dev lo root tbf rate {bits} burst 64kb latency 400ms".split())

    def heal(self, who):
        """Undo what was done to somebody's link."""
        for rule in self._rules.pop(who, []):
            run("iptables", "-D", "INPUT", *rule)

    def close(self):
        """Undo everything."""
        for who in list(self._rules):
            self.heal(who)
        if self._shaper is not None:
            self._shaper.close()

    def _add(self, who, *what):
        self.url(who)
        for side in ("-s", "-d"):
            rule = [side, self._addresses[who], *what]
            run("iptables", "-A", "INPUT", *rule)
            self._rules.setdefault(who, []).append(rule)
