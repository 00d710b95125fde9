"""The installed version, from the package's own metadata."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("llm-bridge")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0+unknown"
