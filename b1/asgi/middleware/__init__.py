"""HTTP: the only place of b1 that knows scopes, headers and status codes."""
