"""Live progress of searches and evaluations: a panel on a terminal, a line in a notebook, lines elsewhere."""
