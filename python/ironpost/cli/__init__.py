"""The command line.

Exit codes: 0 success, 1 failure, 2 configuration or usage, 3 daemon not reachable, 4 findings at or above the limit,
10 input or output.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command of ``sys.argv`` and ends the process with its exit code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        sys.stdout.write(f"ironpost {_version()}\n")
        return
    sys.exit(_run())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ironpost")
    except PackageNotFoundError:  # run from a source tree: the native module knows it too, and loads more slowly
        from ironpost.pipeline.native import VERSION

        return VERSION


def _run() -> int:
    import os

    from ironpost.cli.app import app
    from ironpost.cli.output import print_error
    from ironpost.errors import IronpostError

    try:
        app()
    except IronpostError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader went away (`ironpost alerts | head`): nothing left to say, and nowhere to say it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 10
    except OSError as error:
        print_error(error)
        return 10
    except KeyboardInterrupt:
        return 130
    return 0
