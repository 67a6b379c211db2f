"""The metrics of a run, with their units and meanings."""

from collections.abc import Iterable

from soulsai.episode_metrics import Measure
from soulsai.types import INTERVENED
from soulsai.web.schemas import Metric
from soulsai.web.series import HIGH, LOW, MEAN, has
from soulsai.web.tables import ENV_STEPS, NUMBER, TIME, TableView

EPISODES = (
    ("reward", "", "sum of the episode's rewards"),
    ("steps", "env steps", "length of the episode"),
    ("seconds", "s", "duration of the episode at the client"),
    ("epsilon", "", "share of random actions in the episode"),
    ("greedy", "", "1 for an episode without exploration"),
    ("terminated", "", "1 for an episode that ended by itself, 0 for a truncated one"),
    ("version", "", "newest version of the weights in the episode"),
)
TRAINING = (
    ("updates", "updates", "updates of the weights so far"),
    ("env_steps_per_second", "env steps/s", "admitted from all clients"),
    ("updates_per_second", "updates/s", "updates of the weights"),
    ("replay_ratio", "", "updates per env step since learning began"),
    ("lag", "versions", "mean age of the weights that played recent experience"),
    ("clients", "clients", "clients that are alive"),
    ("queued", "messages", "messages waiting in the clients' outboxes"),
    ("rejected", "messages", "messages not admitted so far"),
    ("duplicates", "messages", "messages that arrived twice so far"),
    ("lost", "env steps", "env steps that never arrived so far"),
    ("dropped", "env steps", "dropped by clients, or by the learner as too old or too many"),
    ("reward_per_step", "", "mean reward of recent env steps, also where no episode ends"),
)
INFOS = {INTERVENED: ("env steps", "env steps of the episode that a person chose")}
ALGORITHM = {  # names that the built-in algorithms share
    "loss": "mean loss of the batch",
    "policy_loss": "loss of the policy",
    "value_loss": "loss of the value function",
    "actor_loss": "loss of the actor",
    "q_mean": "mean predicted value of the actions in the batch",
    "td_error": "mean absolute error of the predicted values",
    "grad_norm": "norm of the gradient before clipping",
    "lr": "learning rate of the optimizer",
    "replay_size": "transitions in the replay buffer",
    "beta": "exponent of the importance weights of prioritized replay",
    "skipped": "updates skipped because of numbers that are not finite",
    "entropy": "entropy of the policy",
    "kl": "approximate KL divergence between old and new policy",
    "clip": "clip range of the probability ratio",
    "clip_fraction": "share of samples whose probability ratio was clipped",
    "ratio": "mean probability ratio of new and old policy",
    "explained_variance": "share of the returns' variance that the values explain",
    "temperature": "weight of the entropy in the objective",
    "greedy_steps": "env steps of greedy episodes, which are played to be measured",
    "batch_steps": "env steps of the batch so far",
    "epochs": "passes over the batch",
    "demonstrations": "demonstrated transitions or env steps",
    "demonstration_share": "share of demonstrations in a batch",
    "demonstrations_left_out": "demonstrated transitions for which there was no room",
    "demonstration_agreement": "share of equal choices of greedy and demonstrated actions; of "
    "numbers, 1 minus half of their mean distance",
    "clone_loss": "loss of cloning demonstrations",
    "clone_weight": "weight of cloning in the loss of the policy",
    "imitation_loss": "loss of imitating demonstrations while learning",
    "imitation_weight": "weight of imitation, which falls to zero over the planned env steps",
    "conservative_penalty": "penalty for values of actions that the data do not hold",
}
_AXES = (NUMBER, ENV_STEPS, TIME)


class UnknownMetric(LookupError):
    """No metric has this name."""


def known(
    episodes: TableView, training: TableView, measures: Iterable[Measure] = ()
) -> list[Metric]:
    """Return all metrics of a run, the built-in ones first.

    Args:
        episodes: The table of episodes.
        training: The table of training samples.
        measures: The measures of the settings.
    """
    answer = [Metric(*entry, "episodes") for entry in EPISODES]
    answer += [Metric(one.name, _unit(one), one.text, "episodes") for one in measures]
    answer += _others(
        answer, episodes, "a number of the environment, from the info of the last step"
    )
    names = {metric.name for metric in answer}
    trained = [Metric(*entry, "training") for entry in TRAINING]
    others = [
        Metric(name, "", ALGORITHM.get(name, "a number of the algorithm"), "training")
        for name in _names(training)
        if name not in {metric.name for metric in trained}
    ]
    return answer + [metric for metric in trained + others if metric.name not in names]


def split(
    metrics: Iterable[str], episodes: TableView, training: TableView
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split metrics into those of episodes and those of the training.

    Args:
        metrics: Names, each optionally with ``_mean``, ``_low`` or ``_high``.
        episodes: The table of episodes.
        training: The table of training samples.

    Raises:
        UnknownMetric: A metric is neither; the message lists the existing ones.
    """
    of_episodes = [*(name for name, _, _ in EPISODES), *_names(episodes)]
    of_training = [*(name for name, _, _ in TRAINING), *_names(training)]
    first, second = [], []
    for metric in dict.fromkeys(metrics):
        if has(of_episodes, metric):
            first.append(metric)
        elif has(of_training, metric):
            second.append(metric)
        else:
            names = ", ".join(dict.fromkeys([*of_episodes, *of_training]))
            raise UnknownMetric(
                f"metrics: there is no {metric[:100]!r}; choose of {names}, "
                f"each also with {MEAN}, {LOW} or {HIGH}"
            )
    return tuple(first), tuple(second)


def _unit(measure: Measure) -> str:
    return "s" if measure.value in ("timer", "seconds") and not measure.operator else ""


def _others(already: list[Metric], view: TableView, description: str) -> list[Metric]:
    names = {metric.name for metric in already}
    return [
        Metric(name, *INFOS.get(name, ("", description)), "episodes")
        for name in _names(view)
        if name not in names
    ]


def _names(view: TableView) -> list[str]:
    return [name for name in view.columns if name not in _AXES]
