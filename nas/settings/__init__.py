"""What defines a search or an evaluation: files and options to checked settings, and back."""
