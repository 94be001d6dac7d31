"""Searches that leave a database as a file, and come into another."""
