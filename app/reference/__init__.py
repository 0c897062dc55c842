"""Data that is the same for every tenant."""
