"""Architectures as pictures: small graphs, one layout, and what draws it in files and in a terminal."""
