"""``python -m ironpost`` is the command line."""

from ironpost.cli import main

if __name__ == "__main__":
    main()
