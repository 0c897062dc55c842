"""How a read gets its value: from this process, from the shared store, or from a load that all who want it share."""
