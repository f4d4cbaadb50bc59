"""The version, where everything below the package's door finds it."""

__version__ = "0.1.0"
