"""The SQL database of every result.

Only the driver process of a search writes it, one transaction a fact; anyone may read it at any time. Nothing
here imports torch.
"""

DEFAULT_DB = "sqlite:///nas.db"
"""The database where nobody names another."""
