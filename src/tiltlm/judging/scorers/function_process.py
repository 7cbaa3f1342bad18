"""The other process of a verifier: it reads requests as JSON lines, calls a function, and writes its scores.

It is started as `python -m tiltlm.judging.scorers.function_process module:function`, so that a function that hangs or
crashes does not take the judging process with it. It is no sandbox: the function has all rights of the user.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(name: str) -> None:
    """Answer requests until the input ends.

    Args:
        name: `module:function`; the function takes prompt, response and row.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the function prints is no reply
    try:
        function = _load(name)
    except BaseException as error:
        replies.write(json.dumps({"fatal": _text(error)}) + "\n")
        return
    module = sys.modules[name.partition(":")[0]]
    replies.write(json.dumps({"ready": getattr(module, "__file__", None) or ""}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps(_call(function, request)) + "\n")


def _load(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # modules of the folder in which the command was started
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    if not callable(function):
        raise TypeError(f"{name} is not a function")
    return function


def _call(function: Callable[..., Any], request: dict[str, Any]) -> dict[str, Any]:
    try:
        value = function(request["prompt"], request["response"], request["row"])
    except Exception as error:  # an error of the function belongs to this response
        return {"error": _text(error)}
    if value is None:
        return {"error": "the function returned None, which is no score"}
    try:
        return {"value": float(value)}
    except (TypeError, ValueError, OverflowError) as error:
        return {"error": _text(error)}


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    serve(sys.argv[1])
