"""Command-line entry: ``python -m edgespa``."""

from edgespa.cli import main

if __name__ == "__main__":
    main()
