"""`python -m deltafx`, and the console script `deltafx`."""

import sys


def main() -> None:
    try:
        from deltafx.cli import app
    except ImportError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"deltafx: the command line needs {error.name}: pip install 'deltafx[demo]' (or: pip install typer rich)"
        )
    app()


if __name__ == "__main__":
    main()
