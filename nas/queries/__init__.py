"""What the database is asked: typed rows, and what they say."""
