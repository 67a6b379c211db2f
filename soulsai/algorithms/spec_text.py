"""Observations and actions in words: how a network takes them."""

import math

import numpy as np

from soulsai.frame_stacks import LEAST_SIDE, image_axes
from soulsai.types import ActionSpec, Leaf

LARGE = 128  # pixels of a side; larger images learn slowly


def describe_leaf(leaf: Leaf) -> str:
    """Return how a network takes a leaf of an observation."""
    dtype = np.dtype(leaf.dtype)
    size, shape = math.prod(leaf.shape), " x ".join(map(str, leaf.shape))
    bounds = f", {leaf.low:g} to {leaf.high:g}" if leaf.low is not None else ""
    if leaf.categories:
        many = "one" if size == 1 else f"{size}"
        return f"{many} of {leaf.categories} categories{'' if size == 1 else ' each'}, one-hot"
    if axes := image_axes(leaf):
        frames = f"{axes.frames} frames of " if len(leaf.shape) == 4 else ""
        where = f" ({'last' if axes.last else 'first'} axis)" if len(leaf.shape) > 2 else ""
        several = "channels" if frames else "channels or stacked frames"
        of = f"{axes.channels} {several}" if len(leaf.shape) > 2 else "grey"
        hint = "; environment.image makes it smaller" if max(axes[2:4]) > LARGE else ""
        sides = f"{axes.height} x {axes.width}"
        return f"image of {sides}, {frames}{of}{where}, by a vision encoder{hint}"
    noun = "number" if size == 1 else "numbers"
    shown = f"{size} {noun}" + (f" ({shape})" if len(leaf.shape) > 1 else "")
    if dtype.kind == "f" and len(leaf.shape) > 2 and min(leaf.shape[-3:-1]) >= LEAST_SIDE:
        shown += ", no image as it has no finite bounds"
    if leaf.normalised:
        return f"{shown}{bounds}, normalised by mean and deviation"
    if dtype.kind == "b":
        return f"{shown}, 0 or 1"
    return f"{shown} of {dtype.name}{bounds}, divided by the largest"


def describe_action(action: ActionSpec) -> str:
    """Return the choices or numbers of an action."""
    if action.kind == "discrete":
        return f"one of {action.sizes[0]}"
    if action.kind == "multidiscrete":
        return f"{len(action.sizes)} choices, of {', '.join(map(str, action.sizes))}"
    size = len(action.low)
    bounds = f"{min(action.low):g} to {max(action.high):g}" if action.bounded else "without bounds"
    numbers = f"{size} number{'' if size == 1 else 's'}, {bounds}"
    if action.kind == "hybrid":
        return f"choices of {', '.join(map(str, action.sizes))}, and {numbers}"
    return numbers
