"""A client: plays environments and sends the experience."""

from contextlib import suppress
from importlib import metadata

from soulsai.client.installed_versions import check_gymnasium

with suppress(metadata.PackageNotFoundError):
    check_gymnasium(metadata.version("gymnasium"))
