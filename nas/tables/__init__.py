"""Tables of published scores, and the evaluator that looks scores up."""
