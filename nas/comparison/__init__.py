"""Controllers beside each other: the same protocol, several seeds, at equal cost."""
