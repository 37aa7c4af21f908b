"""The version of this package, as installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("sparkd")
except PackageNotFoundError:  # run from a folder that was never installed
    VERSION = "0"
