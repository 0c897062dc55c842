"""`python -m b1`: the same as the `b1` script, for platforms where no script is installed."""

from b1.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
