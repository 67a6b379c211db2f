"""The libraries of the extra ``data``, which are loaded when a data set is read or written."""

import importlib

from soulsai.errors import DatasetError


def need(module: str) -> None:
    """Raise ``DatasetError`` with the remedy if a library of the extra is not installed."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise DatasetError(
            f'{module} is not installed ({error}); pip install "soulsai[data]"'
        ) from None
