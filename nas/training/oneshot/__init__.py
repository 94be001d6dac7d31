"""One-shot search: what a worker does to train a supernet and derive architectures from it."""
