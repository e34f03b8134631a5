"""Where the program ``hogshead`` begins: ^C is answered in words from its first lines on, not by a traceback of an import."""

from __future__ import annotations


def main() -> int:
    """Run the command line of this process and return its exit code."""
    try:
        from deploy import cli
    except KeyboardInterrupt:
        import sys

        print("hogshead: interrupted", file=sys.stderr)
        return 130
    return cli.main()
