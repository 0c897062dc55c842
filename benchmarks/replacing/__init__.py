"""How `replacements.py` measures: application, servers, ways to replace, a load that counts every loss, a census."""
