"""Who belongs where: the look-up behind every principal."""
