"""Play a policy.onnx with ONNX Runtime and the file's card alone; nothing of SoulsAI is needed.

python play_policy.py policy.onnx module:Class [episodes [first seed]]
"""

import importlib
import json
import sys
from typing import Any

import gymnasium
import numpy as np
import onnxruntime


class Policy:
    """Chooses greedy actions; the card is JSON in the file's metadata, under ``soulsai``."""

    def __init__(self, file: str) -> None:
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.card = json.loads(self.session.get_modelmeta().custom_metadata_map["soulsai"])
        if self.card["format"] != 1:
            raise SystemExit(f"{file}: the card has another format, {self.card['format']}")
        self.memory: dict[str, Any] = {}

    def begin(self) -> None:
        """Begin an episode: the memory of a recurrent policy is zeros."""
        leaves = self.card["memory"].items()
        self.memory = {name: np.zeros((1, *leaf["shape"]), leaf["dtype"]) for name, leaf in leaves}

    def __call__(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return the action, as the environment takes it."""
        card = self.card
        feed = {name: self.read(name, obs, info)[None] for name in card["inputs"]}
        feed |= {f"memory_{name}": value for name, value in self.memory.items()}
        names = [*card["outputs"], *(f"next_memory_{name}" for name in self.memory)]
        outputs = dict(zip(names, self.session.run(names, feed), strict=True))
        self.memory = {name: outputs[f"next_memory_{name}"] for name in self.memory}
        action, kind = card["spec"]["action"], card["head"]["kind"]
        numbers, choices = np.zeros(0), np.zeros(0, np.int64)
        if action["low"]:
            mean = outputs["mean"][0].reshape(-1).astype(np.float64)
            numbers = in_bounds(np.tanh(mean) if kind == "squashed" else mean, action, kind)
        if action["sizes"]:
            choices = self.choose(outputs, obs, info)
        if action["parts"]:
            return nested(action["parts"], choices, numbers)
        if action["kind"] == "box":
            return numbers.reshape(action["shape"])
        return (
            choices[0] if action["kind"] == "discrete" else choices.reshape(action["native_shape"])
        )

    def choose(self, outputs: dict[str, Any], obs: Any, info: dict[str, Any]) -> Any:
        """Return the best valid choice of each component, as the environment counts."""
        action, kind = self.card["spec"]["action"], self.card["head"]["kind"]
        # One score for each choice of each component, one component after the other; the scores of
        # epsilon_greedy are means over all quantiles of a distributional policy.
        scores = outputs["q" if kind == "epsilon_greedy" else "logits"][0]
        if "mask" in self.card["spec"]["obs"]:
            scores = np.where(self.read("mask", obs, info), scores, -np.inf)
        components = np.split(scores, np.cumsum(action["sizes"])[:-1])
        return np.array([component.argmax() for component in components]) + action["start"]

    def read(self, name: str, obs: Any, info: dict[str, Any]) -> Any:
        """Return a leaf as the graph takes it: categories count from zero."""
        leaf, source = self.card["spec"]["obs"][name], self.card["spec"]["sources"][name]
        value = info if source["info"] else obs
        for key in source["path"]:
            value = value[key]
        if name == "mask" and isinstance(value, dict | tuple):
            value = np.concatenate(mask_parts(value, self.card["spec"]["action"]))
        value = np.asarray(value).reshape(leaf["shape"])
        if leaf["categories"]:
            value = value - np.reshape(source["start"], leaf["shape"])
        return value.astype(leaf["dtype"])


def mask_parts(mask: Any, action: dict[str, Any]) -> list[Any]:
    """Return one mask for each component, from masks nested like the actions."""
    if not action["parts"]:
        return list(mask)
    found, sizes = [], list(action["sizes"])
    for part in action["parts"]:
        if part["numbers"]:
            continue
        own, sizes = sizes[: part["size"]], sizes[part["size"] :]
        value = mask
        for key in part["path"]:
            keys = value if isinstance(value, dict) else range(len(value or ()))
            value = value[key] if key in keys else None
        if value is None:  # every choice is valid
            value = np.ones(sum(own), bool)
        found += list(value) if isinstance(value, tuple) else [np.ravel(value)]
    return found


def in_bounds(chosen: Any, action: dict[str, Any], kind: str) -> Any:
    """Return an action in the environment's numbers; -1 to 1 are its bounds, if it has two."""
    low, high = np.array(action["low"]), np.array(action["high"])
    if kind != "gaussian":
        has_low, has_high = low > -1e30, high < 1e30
        only_bound = np.where(has_low, low, np.where(has_high, high, 0.0))
        centre = np.where(has_low & has_high, low / 2 + high / 2, only_bound)
        chosen = centre + np.where(has_low & has_high, high / 2 - low / 2, 1.0) * chosen
    return np.clip(chosen, low, high)


def nested(parts: list[dict[str, Any]], choices: Any, numbers: Any) -> Any:
    """Return an action as dicts, for keys, and tuples, for indices."""
    tree: Any = {}
    left = {True: list(numbers), False: list(choices)}
    for part in parts:
        taken, left[part["numbers"]] = np.split(left[part["numbers"]], [part["size"]])
        if part["numbers"] and np.dtype(part["dtype"]).kind != "f":
            taken = np.rint(taken)
        branch = tree
        for key in part["path"][:-1]:
            branch = branch.setdefault(key, {})
        value = np.reshape(taken, part["shape"]).astype(part["dtype"])
        branch[part["path"][-1]] = value if part["numbers"] else value[()]
    return with_tuples(tree)


def with_tuples(tree: Any) -> Any:
    """Replace dicts with indices for keys by tuples."""
    if not isinstance(tree, dict):
        return tree
    inner = {key: with_tuples(value) for key, value in tree.items()}
    return tuple(inner.values()) if all(isinstance(key, int) for key in inner) else inner


def make(id: str, card: dict[str, Any]) -> Any:
    """Make the environment with the run's arguments and its limit of an episode."""
    arguments, limit = card["environment"]["kwargs"], card["environment"]["max_episode_steps"]
    module, _, name = id.rpartition(":")
    if not module:
        return gymnasium.make(id, max_episode_steps=limit or None, **arguments)
    env = getattr(importlib.import_module(module), name)(**arguments)
    return gymnasium.wrappers.TimeLimit(env, limit) if limit else env


def main(file: str, id: str, episodes: str = "50", first_seed: str = "1000000") -> None:
    """Print the mean return of greedy episodes."""
    policy = Policy(file)
    env = make(id, policy.card)
    returns = []
    for episode in range(int(episodes)):
        obs, info = env.reset(seed=int(first_seed) + episode)
        policy.begin()
        total, over = 0.0, False
        while not over:
            action = policy(obs, info)
            if not isinstance(action, dict | tuple):
                dtype = env.action_space.dtype
                action = np.asarray(action if dtype.kind == "f" else np.rint(action), dtype)
            obs, reward, terminated, truncated, info = env.step(action)
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    print(f"mean return {np.mean(returns):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
