"""Neural architecture search for few-shot learning, as a service.

The package imports nothing heavy: `import nas` costs no torch, no ray and no SQL.
"""

from importlib.metadata import version

__version__ = version("nas-service")
__all__ = ["__version__"]
