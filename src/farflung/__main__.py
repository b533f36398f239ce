"""The program `farflung`, and `python -m farflung`."""

from __future__ import annotations

import sys


def main() -> None:
    """Ctrl-C while the command's modules are loaded ends it as quietly as later on."""
    try:
        from farflung.cli.main import main as command

        command()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
