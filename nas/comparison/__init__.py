"""Controllers compared: the same protocol, several seeds, equal cost."""
