"""How a learner is trained and scored."""
