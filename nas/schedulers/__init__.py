"""How long each trial trains: what is weak is stopped, or only what is good is trained longer."""
