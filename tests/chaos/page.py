"""The published table of faults: what each costs, as it was measured."""

import os
import platform
import statistics

HEAD = """# What goes wrong, and what that costs

Written by `python -m tests.chaos --all --page docs/reliability.md`, from what it measured on
{machine}. Nobody did anything by hand in any of these runs. In all of them a server (Valkey or
Redis, append-only file, `everysec`), a training node, a telemetry node and clients ran as
processes of their own.

**How losses are counted.** The environment of these runs shows a *stamp* as its observation:
which client, which of its lives, and a counter. Clients write down which steps they send, and of
which the server has said that they are stored; what the training node has learnt from is read out
of the replay of its last checkpoint, where every transition carries its stamp. The two are
compared step by step: *lost* is what a client was told is stored and the learner does not hold,
*counted twice* is what it holds more than once. Four bugs, put in on purpose, show that the
comparison can fail (`tests/chaos/test_bugs.py`).

**Seconds** are those until experience was let in again, of the client concerned if it is one:
after the kill where somebody was killed, and after the end of the fault where it lasts. The
machine had other work, too; how many times slower that made it is measured by how long a process
takes that only imports torch.

## {faults} faults at random moments in {minutes:.0f} minutes

{accepted} env steps were learnt from, and {acked} were acknowledged to clients:
**{acked_lost} lost, {double_counted} counted twice, {unloadable_checkpoints} of {checkpoints}
checkpoints not loadable, {windows_without_progress} of {windows} windows of ten seconds without a
fault in which fewer than 100 steps came in**. After a kill of the training node nothing came in
for {downtime_median_s:.1f} s (median) and at most {downtime_max_s:.1f} s, on a machine that was
{slow:.1f} times slower than when it has nothing else to do. Seed {seed}; links: {links}.

| fault | times | what is lost | seconds: median | longest |
|---|---|---|---|---|
"""
TRIALS_HEAD = """
## One fault at a time

| fault | what is lost | seconds | machine slower by | also measured |
|---|---|---|---|---|
"""
TAIL = """
## Stored by the server, and not yet on its disk

The servers of these runs, the private one and those in `deploy/` write their file with
`appendfsync everysec`. That has two limits, which no run above shows:

- **The machine stops** (power, kernel): the last second of what was acknowledged can be lost, and
  two seconds on a busy disk.
- **Only the server is killed with `-9` while it syncs to a busy disk.** Writes that it has
  acknowledged may still wait in its memory then. With Valkey 9.1.2 as many as 7,657 of 492,144
  acknowledged writes were lost over 18 such kills; Redis 7.0.15 lost none in as many. The
  twelve kills in the table above lost none, and SIGTERM loses nothing.

A lost entry is counted: the client's next entry leaves a gap in the sequence, and `lost` in the
status grows by the steps in it. Where this is too much, set `appendfsync always` in
`deploy/redis/redis.conf`: the server then answers only after the write is on the disk, so that each
round trip waits for it; clients send many steps per round trip.

## Again

```sh
make test-chaos                                   # ten minutes of faults, then every trial
python -m tests.chaos --seed 7 --faults 50 --minutes 10
python -m tests.chaos --trial partition
python -m tests.chaos --trial goodbyes --rounds 20
python -m tests.chaos --trial soak --minutes 60     # not one of --all
```

The same seed gives the same faults at the same moments. In a network namespace (root, `iptables`,
`ip`) packets are dropped and delayed by the kernel; elsewhere a proxy holds them back, and the
program says so."""
COSTS = {
    "kill learner": "nothing: updates since the last checkpoint are made again",
    "kill learner while saving": "nothing: the checkpoint before is whole",
    "kill redis": "nothing",
    "kill client": "what the client had played and not yet sent",
    "kill telemetry": "nothing: the record goes on where it ended",
    "second learner": "nothing: the older one stops",
    "kill redis while cut": "nothing",
}


def page(fire, trials):
    """Return the page, from the result under fire and the rows of all trials."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
    machine += platform.python_version()
    lines = [HEAD.format(machine=machine, **fire).rstrip("\n")]
    for kind, seconds in sorted(fire["recovery"].items()):
        middle, longest = statistics.median(seconds), max(seconds)
        cost = COSTS.get(kind, "nothing")
        lines.append(f"| {kind} | {len(seconds)} | {cost} | {middle:.1f} | {longest:.1f} |")
    lines.append(TRIALS_HEAD.rstrip("\n"))
    for row in trials:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        also = ", ".join(f"{name} {value}" for name, value in row["figures"].items())
        lines.append(f"| {row['fault']} | {row['lost']} | {seconds} | {row['slow']:.1f} | {also} |")
    return "\n".join(lines) + "\n" + TAIL
