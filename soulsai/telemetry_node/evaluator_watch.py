"""The evaluator as the telemetry node sees it: its life, its faults, its numbers. Pure."""

from collections.abc import Iterator

from soulsai.evaluations.record import (
    SILENT_SECONDS,
    EvaluationLine,
    Evaluations,
    EvaluatorState,
)
from soulsai.prometheus import Family
from soulsai.telemetry_node.statistics import Best
from soulsai.types import Event


class EvaluatorWatch:
    """Turns changes of ``evaluator.json`` into events, each of them once."""

    def __init__(self) -> None:
        self._fault: str | None = None  # none before the first look: an old fault is no news
        self._is_silent = False

    def news(self, state: EvaluatorState | None, now: float) -> Iterator[Event]:
        """Yield what has changed since the last call.

        Args:
            state: The last word of the evaluator; ``None`` if there has never been one.
            now: Unix seconds.
        """
        if state is None:
            return
        silent = is_silent(state, now)
        if silent and not self._is_silent:
            what = f" while it {state.doing}" if state.doing else ""
            yield Event(
                "evaluator", f"the evaluator is silent{what}; training goes on without evaluations"
            )
        elif self._is_silent and not silent:
            yield Event("evaluator", "the evaluator is back")
        self._is_silent = silent
        if state.fault and state.fault != self._fault and not silent:
            yield Event("evaluator", state.fault)
        self._fault = state.fault


def is_silent(state: EvaluatorState, now: float) -> bool:
    """Return whether an evaluator has died or hangs.

    Args:
        state: Its last word.
        now: Unix seconds.
    """
    return not state.ended and now - state.time > SILENT_SECONDS


def best_text(best: Best) -> str:
    """Return a new best in one line."""
    if not best.evaluated:
        return f"average reward {best.score:.4g} with version {best.version}"
    return (
        f"mean {best.score:.4g} ({best.low:.4g} to {best.high:.4g}) of {best.evaluated} evaluation "
        f"episodes with version {best.generation}-{best.version}"
    )


def regression_text(line: EvaluationLine, best: EvaluationLine) -> str:
    """Return in one line how much worse a model is.

    Args:
        line: The model.
        best: The best one.
    """
    return (
        f"version {line.generation}-{line.version} is far worse than the best: mean {line.mean:.4g}"
        f" ({line.low:.4g} to {line.high:.4g}), not {best.mean:.4g} ({best.low:.4g} to "
        f"{best.high:.4g}) of version {best.generation}-{best.version}"
    )


def evaluation_families(
    evaluations: Evaluations, state: EvaluatorState | None, now: float
) -> Iterator[Family]:
    """Yield the Prometheus metrics of the evaluations.

    Args:
        evaluations: Those of the run.
        state: The last word of the evaluator.
        now: Unix seconds.
    """
    if state is not None:
        alive = float(not state.ended and not is_silent(state, now))
        yield Family("evaluator_alive", "gauge", "1 if an evaluator is at work.", alive)
        expected = float(not state.ended)
        yield Family("evaluator_expected", "gauge", "1 if an evaluator should be.", expected)
    newest = evaluations.newest
    if newest is None:
        return
    lines = {"newest": newest, "best": evaluations.best or newest}
    for name, text in (
        ("mean", "Mean of an evaluation."),
        ("low", "Lower end of its 95 % interval."),
        ("high", "Upper end of its 95 % interval."),
        ("iqm", "Interquartile mean of an evaluation."),
        ("episodes", "Episodes of an evaluation."),
    ):
        values = {which: float(getattr(line, name)) for which, line in lines.items()}
        yield Family(f"evaluation_{name}", "gauge", text, values, "model")
    regressed = float(newest.regressed)
    yield Family("evaluation_regressed", "gauge", "1 if the newest is far worse.", regressed)
    yield Family("evaluations", "counter", "Evaluations so far.", float(evaluations.last))
