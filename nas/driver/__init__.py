"""The driver of a search: propose, run, record, observe."""
