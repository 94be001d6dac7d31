"""Conformance suites: inherit one, fill in its fixture, and a plugin is tested like ours (extra `dev`)."""
