"""The command line: `main` runs one command and turns errors into one line and an exit code.

Exit codes: 0 it worked, 1 it failed (one line on stderr says why and what to do), 2 wrong usage, 130
stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys

from ..errors import AdaphiError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write may meet, long after its file was opened; the error no longer knows which."""


def main() -> None:
    """Run the command that `sys.argv` names."""
    try:
        from .app import app  # here, so that Ctrl-C is clean while it is still being imported

        app()
    except AdaphiError as error:
        message = f"adaphi: {error.message}" + (f"; {error.help}" if error.help else "")
        print(" ".join(message.split()), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: `adaphi … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"adaphi: {where}{error.strerror}", file=sys.stderr)
        sys.exit(1)
