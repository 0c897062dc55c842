"""Log-in, and what a signed-in person may ask about themselves."""
