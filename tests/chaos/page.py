"""The published table of faults: what each costs, as it was measured."""

import os
import platform
import statistics
from collections import defaultdict

HEAD = """# What goes wrong, and what that costs

Written by `python -m tests.chaos --all --page docs/reliability.md`, from what it, or its runs one
by one, measured on {machine}. Nobody did anything by
hand in any of these runs. In all of them a server (Valkey or Redis, append-only file, `everysec`),
a training node, a telemetry node and clients ran as processes of their own.

**How losses are counted.** The environment of these runs shows a *stamp* as its observation:
which client, which of its lives, and a counter. Clients write down which steps they send, and of
which the server has said that they are stored; what the training node has learnt from is read out
of the replay of its last checkpoint, where every transition carries its stamp. The two are
compared step by step: *lost* is what a client was told is stored and the learner does not hold,
*counted twice* is what it holds more than once. PPO has no replay: there a witness notes each step
that the algorithm was given and each step of its batches, and is saved and restored with the
checkpoint; a step that was neither learnt from nor dropped, and does not wait for its batch either,
is *unaccounted*. Six bugs, put in on purpose, show that the comparison can fail
(`tests/chaos/test_bugs.py`).

**Seconds** are those until experience was let in again, of the client concerned if it is one:
after the kill where somebody was killed, and after the end of the fault where it lasts. The
machine had other work, too; how many times slower that made it is measured by how long a process
takes that only imports torch.

## {faults} faults at random moments, with each algorithm

One run of so many minutes each: env steps learnt from of those that were acknowledged to clients,
those lost, counted twice or unaccounted, torn checkpoints (which could not be loaded), and stalls,
windows of ten seconds without a fault in which fewer than 100 steps came in. After a kill of the
training node nothing came in for the last column's seconds (median, longest), on a machine that was
so many times slower than when it has nothing else to do.

| algorithm | min | learnt, of sent | lost | twice | unaccounted | torn | stalls | slow | gone, s |
|---|---|---|---|---|---|---|---|---|---|
"""
FAULTS_HEAD = """
Seeds {seeds}; links: {links}. All of them together:

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
`appendfsync everysec`: an entry is acknowledged up to two seconds before it is in the file, and up
to a second later on the disk. `kill -9` of the server alone can lose acknowledged entries while it
syncs to a busy disk: with Valkey 9.1.2, 7,657 of 492,144 over 18 such kills in one trial. Redis
7.0.15 lost none there, and some in the runs above, where each kill comes while the server writes
late. When the machine stops (power, kernel), the last second is lost, and more on a busy disk.

**A client keeps what it has sent** until the training node has had it for five seconds, up to
16 MB. The node writes how far it has read each stream (`received:<client>`); after each break of
its connection the client sends all that is left once more, under the same positions. The server
refuses what it has, and the node what it has read, so nothing is learnt from twice. *rewind redis*
above cuts the server's file back by up to two seconds; *on a busy disk* kills it while three
threads write and sync beside it, and shows how many env steps its file lacked. Nothing was lost.
The newest weights are published again if the server has lost them.

Lost all the same, and counted in `lost` of the status, is what nobody has any more: if the server
loses more than these five seconds, if a client ends or is killed in the same seconds as the server
(with a name and a spool, what it keeps is on its disk after a second without the server), if a
client sends more than 16 MB in that time, or if its invite is older than this release and has no
right to read the key. The record of episodes for the telemetry node can lack up to two seconds.
Where this is too much, set `appendfsync always` in `deploy/redis/redis.conf`: the server then
answers only after the write is on the disk, so that each round trip waits for it; clients send many
steps per round trip.

## Again

<!-- elsewhere: takes an hour; tests/chaos/__main__.py -->
```console
$ make test-chaos                                # each algorithm for ten minutes, then every trial
$ python -m tests.chaos --seed 7 --faults 50 --minutes 10 --algorithm ppo
$ python -m tests.chaos --trial partition
$ python -m tests.chaos --trial goodbyes --rounds 20
$ python -m tests.chaos --trial soak --minutes 60     # not one of --all
```

The same seed gives the same faults at the same moments. In a network namespace (root, `iptables`,
`ip`) packets are dropped and delayed by the kernel; elsewhere a proxy holds them back, and the
program says so."""
ALGORITHM = (
    "| {algorithm} | {minutes:.0f} | {accepted} of {acked} | {acked_lost} | {double_counted} "
    "| {unaccounted} | {unloadable_checkpoints} of {checkpoints} "
    "| {windows_without_progress} of {windows} | {slow:.1f} "
    "| {downtime_median_s:.1f}, {downtime_max_s:.1f} |"
)
COSTS = {
    "kill learner": "nothing: updates since the last checkpoint are made again",
    "kill learner while saving": "nothing: the checkpoint before is whole",
    "kill redis": "nothing",
    "kill client": "what the client had played and not yet sent",
    "kill telemetry": "nothing: the record goes on where it ended",
    "second learner": "nothing: the older one stops",
    "kill redis while cut": "nothing",
    "rewind redis": "nothing: clients send again the entries that the server had not written",
}


def page(fires, trials):
    """Return the page, from the results under fire and the rows of all trials."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python "
    machine += platform.python_version()
    lines = [HEAD.format(machine=machine, **fires[0]).rstrip("\n")]
    seeds = ", ".join(str(fire["seed"]) for fire in fires)
    lines += [ALGORITHM.format(**fire) for fire in fires]
    lines.append(FAULTS_HEAD.format(seeds=seeds, links=fires[0]["links"]).rstrip("\n"))
    recovery = defaultdict(list)
    for fire in fires:
        for kind, seconds in fire["recovery"].items():
            recovery[kind] += seconds
    for kind, seconds in sorted(recovery.items()):
        middle, longest = statistics.median(seconds), max(seconds)
        cost = COSTS.get(kind, "nothing")
        lines.append(f"| {kind} | {len(seconds)} | {cost} | {middle:.1f} | {longest:.1f} |")
    lines.append(TRIALS_HEAD.rstrip("\n"))
    for row in trials:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        also = ", ".join(f"{name} {value}" for name, value in row["figures"].items())
        lines.append(f"| {row['fault']} | {row['lost']} | {seconds} | {row['slow']:.1f} | {also} |")
    return "\n".join(lines) + "\n" + TAIL
