"""R17: whether what a run needs grows while it lasts."""

import time

import numpy as np
import psutil

from .beside import Beside
from .faults import KINDS, plan
from .program import ready, suffer
from .stage import Stage
from .trial import Row
from .watch import Watch, slowness

MINUTES = 60.0
CLIENTS = 20
FAULT_SECONDS = 120.0
SAMPLE_SECONDS = 2.0
WARM = 1 / 3  # of the time is not looked at: buffers fill, libraries load what they use
MB_PER_HOUR = 1.0
KINDS_SURVIVED = tuple(  # a node that is killed begins anew
    kind for kind in KINDS if not kind.startswith(("kill learner", "kill telemetry", "second"))
)
SETTINGS = (
    "dqn.capacity=4000",  # full before we look
    "training.kept_weights_mb=0.1",  # these, too
)


class Needs(Beside):
    """A thread that notes the memory and the open files of some processes."""

    def __init__(self, children):
        super().__init__(self._look)
        self.seen = {child.name: [] for child in children}  # name: (hours, MB, open files)
        self._children = children

    def growth(self, name):
        """Return MB per hour, and by how many open files the end differs from the beginning."""
        seen = np.array(self.seen[name])
        seen = seen[seen[:, 0] >= seen[-1, 0] * WARM]
        hours, megabytes, files = seen.T
        quarter = max(1, len(seen) // 4)
        opened = np.median(files[-quarter:]) - np.median(files[:quarter])
        return round(float(np.polyfit(hours, megabytes, 1)[0]), 2), int(opened)

    def _look(self):
        began = time.monotonic()
        processes = {child.name: psutil.Process(child.pid) for child in self._children}
        while not self.stop.wait(SAMPLE_SECONDS):
            hours = (time.monotonic() - began) / 3600
            for name, process in processes.items():
                with process.oneshot():
                    seen = (hours, process.memory_info().rss / 2**20, process.num_fds())
                self.seen[name].append(seen)


def soak(folder, links, minutes=MINUTES):
    """Twenty clients, and a fault every two minutes."""
    row = Row(f"{minutes:.0f} minutes, a fault every two", "not looked at", slow=slowness())
    stage = Stage(folder, links, clients=CLIENTS, sets=SETTINGS, step_delay=0.2)
    with stage, Watch(stage, read_checkpoints=False) as watch:
        stage.start()
        ready(stage, watch, checkpoint=False)
        nodes = [stage.learner, stage.telemetry]
        pids = [node.pid for node in nodes]
        seconds = 60 * minutes
        count = max(1, int(seconds / FAULT_SECONDS))
        faults = plan(17, count, seconds, CLIENTS, KINDS_SURVIVED)
        with Needs(nodes) as needs:
            before = watch.status.env_steps
            suffer(stage, faults, seconds, lambda _: None)
        row.figures["env_steps"] = watch.status.env_steps - before
        row.figures["faults"] = sum(fault.began > 0 for fault in faults)
        row.must(f"gave up: {stage.over}", not stage.over)
        row.must("a node has died", pids == [node.pid for node in nodes])
        for node in nodes:
            grown, opened = needs.growth(node.name)
            row.figures[f"{node.name}_mb"] = round(needs.seen[node.name][-1][1])
            row.figures[f"{node.name}_mb_per_hour"] = grown
            row.must(f"{node.name}: {grown} MB per hour more", grown < MB_PER_HOUR)
            row.must(f"{node.name}: {opened} open files more", opened <= 0)
    return row


TRIALS = {"soak": soak}
