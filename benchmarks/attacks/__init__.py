"""Attacks on memory: the routes that are attacked, the clients, the box they run in, and what was seen."""
