"""The compiled routines of prioritised replay: found in the user's cache, or compiled at the start.

Unlike compiled updates they take a fraction of a second, and need nothing of torch.
"""

import logging
import tempfile
from pathlib import Path

from soulsai.algorithms.base import Algorithm
from soulsai.algorithms.compile.cache import BuildCache
from soulsai.config.cache_folder import cache_folder
from soulsai.replay import tree_routines
from soulsai.replay.prioritized import HasTrees
from soulsai.replay.tree_routines import NotCompiled, TreeRoutines

log = logging.getLogger(__name__)


def prepare(algorithm: Algorithm, *, keep: bool) -> None:
    """Let the replays of an algorithm use compiled routines, if they have priorities.

    Without a C++ compiler they go on with NumPy, for the reason in the log.

    Args:
        algorithm: The algorithm.
        keep: Whether to use the user's cache.
    """
    replays = [part for part in algorithm.parts.values() if isinstance(part, HasTrees)]
    if not replays:
        return
    try:
        routines = _routines(BuildCache(cache_folder() / "replay") if keep else None)
    except (NotCompiled, OSError) as error:
        log.info("priorities=numpy: %s", error)
        return
    for replay in replays:
        replay.use_routines(routines)


def _routines(cache: BuildCache | None) -> TreeRoutines:
    compiler = tree_routines.compiler()
    name = tree_routines.key(compiler)
    if cache is not None and (found := cache.find(name)):
        try:
            return tree_routines.load_routines(found)
        except NotCompiled:
            cache.forget(name)
    with tempfile.TemporaryDirectory(prefix="soulsai-replay-") as made:
        folder = Path(made)
        tree_routines.compile_routines(compiler, folder)
        routines = tree_routines.load_routines(folder)
        if cache is not None:
            _keep(cache, name, folder)
    return routines


def _keep(cache: BuildCache, name: str, folder: Path) -> None:
    try:
        cache.keep(name, folder)
    except OSError as error:
        log.info("the compiled routines are not kept for the next run: %s", error)
