"""`python -m farflung`."""

from farflung.cli.main import main

if __name__ == "__main__":
    main()
