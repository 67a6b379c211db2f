"""All trials by name."""

from . import trials_long, trials_network, trials_people, trials_storage

IN_ROUNDS = ("goodbyes", "server-kills", "busy-kills", "busy-redis-kills")  # how many may be said
LONG = trials_long.TRIALS  # an hour, if not said otherwise
TRIALS = {**trials_network.TRIALS, **trials_storage.TRIALS, **trials_people.TRIALS}
