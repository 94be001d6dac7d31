"""The search spaces that come with nas: one module a space, registered as entry points like any plugin."""
