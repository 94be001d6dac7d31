"""The web page: what the database holds, as HTML, read-only (extra `web`)."""
