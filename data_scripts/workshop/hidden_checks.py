"""The hidden checks of lessons and exercises. The grading imports this file.

Participants do not receive it: it is neither in a notebook nor in a folder that nbgrader releases.
Each check gets the participant's global variables and raises ``AssertionError`` or ``NotYet`` with
a message in the participant's terms. The feedback shows the message but not the code of the check.
Random inputs depend on ``HIDDEN_CHECKS_SEED``, which each course chooses anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from helpers.views.lessons import NotYet

SEED = int(os.environ.get("HIDDEN_CHECKS_SEED", "1"))

Names = Mapping[str, Any]
CHECKS: dict[str, Callable[[Names], None]] = {}


def check(name: str, names: Names) -> None:
    """Run the hidden checks of an exercise ("02.1") or of a lesson (the name of its function).

    ``names`` contains the participant's global variables. Raises ``NotYet`` if a check fails, if
    the participant's code raises an exception, or if the grading stops it.
    """
    try:
        CHECKS[name](names)
        return
    except NotYet:
        raise
    except AssertionError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "did not finish in time"
    except Exception as error:
        message = f"raised {type(error).__name__}: {error}"
    raise NotYet(f"{name}: {message}")  # without a traceback, which would show the check


def value(names: Names, name: str) -> Any:
    """Return one of the participant's variables. Raises ``NotYet`` if it does not exist."""
    if name not in names:
        raise NotYet(f"`{name}` is not defined")
    return names[name]
