"""Entry point: choose the command, run it, and turn what went wrong into one sentence and an exit code."""

from __future__ import annotations

import difflib
import errno
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from frolic import __version__
from frolic.errors import FrolicError, RequestError, is_out_of_memory

COMMANDS = {
    "generate": "frolic.cli.generate",
    "info": "frolic.cli.info",
    "train": "frolic.cli.train",
    "data": "frolic.cli.data",
    "eval": "frolic.cli.evaluate",
    "models": "frolic.cli.models",
    "convert": "frolic.cli.convert",
    "lora": "frolic.cli.lora",
    "reward": "frolic.cli.reward",
    "doctor": "frolic.cli.doctor",
}
GROUPS = {  # of which a second word says what is asked
    "data": "starter starter-video",
    "eval": "fid reconstruction sheet starter starter-sprint starter-video table train-judge",
    "lora": "add blend convert explore info list merge remove",
    "models": "info list pull rm verify",
    "reward": "label score train",
}
_ROOT_OPTIONS = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
_FLAGS = {"--json", "--quiet", "-q"}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Codes: 0 done, 2 bad request, 3 bad file or model, 4 memory or disk, 5 network, 130 interrupted; 1 is our mistake.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be text
    end = given.index("--") if "--" in given else len(given)
    options = given[:end]
    try:
        code = _run([word for word in options if word != "--debug"] + given[end:])
    except KeyboardInterrupt:
        _say("Interrupted.", INTERRUPTED, options)
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if "--debug" in options:
            raise
        message, code = _explain(error)
        _say(message, code, options)
    sys.exit(code)


def dispatch(given: Sequence[str]) -> list[str]:
    """``frolic PROMPT`` is ``frolic generate PROMPT``: what does not start with a command's name is a request.

    Raises:
        RequestError: a word that is nearly a command, alone or before what that command is followed by.
    """
    given = list(given)
    if not given or given[0] in _ROOT_OPTIONS:
        return given or ["--help"]
    first = next((word for word in given if word not in _FLAGS), "")
    if first in COMMANDS:
        place = given.index(first)
        flags, rest = given[:place], given[place + 1 :]
        asked = 1 if first in GROUPS and rest and not rest[0].startswith("-") else 0
        return [first, *rest[:asked], *flags, *rest[asked:]]
    near = difflib.get_close_matches(first, COMMANDS, n=1, cutoff=0.75)
    if near and (given == [first] or _follows(given[given.index(first) + 1 :], near[0])):
        raise RequestError(
            f"There is no command {first!r}, did you mean {near[0]!r}? To draw it, write: frolic generate {first}"
        )
    return ["generate", *given]


def _follows(rest: Sequence[str], command: str) -> bool:
    """Whether the next word is one that ``command`` is followed by, and hardly a prompt: a command of that group, or
    the path of a recipe."""
    word = next((each for each in rest if each not in _FLAGS), "")
    if command in GROUPS:
        return word in GROUPS[command].split()
    return command == "train" and "/" in word and " " not in word


def _run(given: Sequence[str]) -> int:
    arguments = dispatch(given)
    if arguments[0] == "generate":
        from frolic.cli.generate import run

        run(arguments[1:])
        return 0
    code = _application(arguments[0])(arguments, prog_name="frolic", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _application(command: str) -> Any:
    """The typer application with one command's module, or with all of them where there is something to list."""
    import typer

    app = typer.Typer(
        name="frolic",
        help="Text to pictures. `frolic PROMPT` draws one; it is short for `frolic generate PROMPT`.",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="Print the version and exit."),
        debug: bool = typer.Option(False, "--debug", help="With any command: show the trace of an error."),
    ) -> None:
        del debug  # read by main, before there is a parser
        if version:
            typer.echo(f"frolic {__version__}")

    for name in [command] if command in COMMANDS else COMMANDS:
        import_module(COMMANDS[name]).register(app)
    return app


def _explain(error: Exception) -> tuple[str, int]:
    """One sentence and the exit code for anything that was raised."""
    if isinstance(error, FrolicError):
        return str(error), error.exit_code
    # typer carries its own copy of click in new versions and uses the real one in old ones; the names are the same.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "ClickException" in kinds:
        return f"{getattr(error, 'format_message', error.__str__)().rstrip('.')}; see frolic --help.", 2
    if "Abort" in kinds:
        return "Interrupted.", INTERRUPTED
    if is_out_of_memory(error):
        return "Memory ran out; ask for a smaller size or fewer pictures at a time.", 4
    if isinstance(error, OSError):
        code = 4 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM) else 3
        return f"The system refused: {error}; free some room or choose another place.", code
    return (
        f"frolic failed in a way it should not ({type(error).__name__}: {error}); report what --debug shows.",
        1,
    )


def _say(message: str, code: int, options: Sequence[str]) -> None:
    as_json = "--json" in options
    from frolic.cli.report import printable

    message = printable(message)
    text = json.dumps({"event": "error", "message": message, "code": code}) if as_json else message
    (sys.stdout if as_json else sys.stderr).write(text + "\n")
