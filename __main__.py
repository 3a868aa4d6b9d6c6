"""The command line as a program: `planish`, or `python -m planish`."""

import sys

from .ir.errors import TargetError
from .ir.extras import require_build


def main() -> None:
    """Run the command line, or say what it lacks where only what runs artifacts is installed."""
    try:
        require_build("the command line")
    except TargetError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    from .driver import cli

    cli.main()


if __name__ == "__main__":
    main()
