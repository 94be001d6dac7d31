"""Names of measurements that one part of the service takes and another looks for."""

TEST_SCORE = "test_score"
"""A trial's score on test data, where an evaluator knows it: recorded, never shown to a controller."""

SKIPS = "skips"
"""How many choices of the architecture that a supernet would derive are skip connections."""
