"""What overload.py measures and how: the application, the contenders, one cell, its figures, and the plot."""
