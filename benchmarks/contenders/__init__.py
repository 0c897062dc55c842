"""The servers that are compared. Those of the peers run in a virtual environment of their own, so nothing here imports b1
except `ours`."""
