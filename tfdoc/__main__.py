"""``python -m tfdoc``: the command line."""

from tfdoc.cli import main

if __name__ == "__main__":
    main()
