"""``flowkit``: one verb a file. This module is light: no torch before a verb needs it.

Exit codes: 0 done, 1 a fault of FlowKit's (with traceback), 2 a mistake of the user's (one line), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from flowkit.config import plugins
from flowkit.config.overrides import Override, split_overrides
from flowkit.errors import UserError, nearest
from flowkit.version import __version__

#: Verbs of the core and what they do; each is a module of this package. Plugins add theirs.
VERBS = {
    "train": "train a recipe, or go on with a run",
    "reflow": "straighten a trained flow on its own pairs, so that few steps suffice",
    "finetune": "fit a trained model to data of your own: adapters, the output layer, or everything",
    "merge": "make a plain model of adapters and their base",
    "export": "make programs of a trained model that run without FlowKit: ONNX or torch.export",
    "compare": "train objectives on the same data for the same time, and tabulate them by network calls",
    "app": "open a local web page that speaks, rolls out, predicts or samples with trained models",
    "sample": "draw samples from a run or a pretrained model",
    "evaluate": "measure a run or a pretrained model on a split of its data",
    "list": "list methods, recipes, data, solvers, paths, couplings, pretrained models and more",
    "show": "explain a run, a recipe or a class",
    "data": "prepare a recipe's data, write them as shards, or print their statistics",
    "new": "write a working skeleton of a method or a domain, with its test",
}


class VerbModule(Protocol):
    """What a verb's module has. ``parser.set_defaults(overrides=True)`` makes it accept dotted overrides."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The options of the verb."""
        ...

    def run(self, args: argparse.Namespace) -> int | None:
        """Do it; None is exit code 0."""
        ...


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are a :class:`UserError` with the nearest option."""

    #: Plugins' verbs of two words that begin with this one.
    also: Sequence[str] = ()

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of printing the usage."""
        raise UserError(message + (f"; plugins add: {', '.join(self.also)}" if self.also else ""))

    def check_no_extras(self, extras: Sequence[str]) -> None:
        """Refuse what is left over."""
        if extras:
            known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
            name = extras[0].split("=")[0]
            hint = f"; {nearest(name, known)}" if name.startswith("-") else f"; see {self.prog} --help"
            raise UserError(f"unknown argument {name!r}{hint}")


def all_verbs() -> dict[str, tuple[str, str]]:
    """Verb -> (module, summary), plugins' verbs included. A verb may have two words: ``data record``."""
    verbs = {name: (f"flowkit.cli.{name}", summary) for name, summary in VERBS.items()}
    for plugin in plugins.plugins().values():
        for name in plugin.verbs:
            verb = plugin.verb(name)
            verbs.setdefault(name, (verb.module, verb.summary or f"a verb of {plugin.name}"))
    return verbs


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except UserError as error:
        line = plugins.one_line(error)
        process = f"process {os.environ.get('RANK')}"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not line.startswith("process "):
            line = f"{process}: {line}"
        # One write: several processes speak at once.
        sys.stderr.write(f"flowkit: {line}\n")
        return 2
    except KeyboardInterrupt:
        print("flowkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (flowkit list ... | head). Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as stop:  # argparse's --help and --version
        return stop.code if isinstance(stop.code, int) else 0


def _run(arguments: list[str]) -> int:
    arguments = _load_plugins(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        print(f"flowkit {__version__}")
        return 0
    verbs = all_verbs()
    words = 2 if " ".join(arguments[:2]) in verbs else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in verbs:
        raise UserError(f"no verb {name!r}; {nearest(name, verbs)}{plugins.failure_note()}")
    module: VerbModule = importlib.import_module(verbs[name][0])  # type: ignore[assignment]
    longer = {f"flowkit {verb}": summary for verb, (_, summary) in verbs.items() if verb.startswith(f"{name} ")}
    epilog = [getattr(module, "EXAMPLE", ""), *(f"see also: {verb} --help  ({told})" for verb, told in longer.items())]
    parser = Parser(
        prog=f"flowkit {name}", description=verbs[name][1].rstrip(".") + ".", epilog="\n\n".join(filter(None, epilog)),
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.also = list(longer)
    parser.set_defaults(overrides=False)
    module.add_arguments(parser)
    parser.add_argument(
        "--plugin", action="append", metavar="FILE", help="opt a plugin file in (my.py); may be repeated"
    )
    overrides: list[Override] = []
    if parser.get_default("overrides"):
        rest, overrides = split_overrides(rest)
    args, extras = parser.parse_known_args(rest)
    parser.check_no_extras(extras)
    args.overrides = overrides
    code = module.run(args) or 0
    if (engine := sys.modules.get("flowkit.train.engine")) is not None:  # the verb has trained
        engine.leave()
    return code


def _load_plugins(arguments: list[str]) -> list[str]:
    """Take ``--plugin FILE`` out, wherever it stands, and load the files: they may add the very verb that is called."""
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument == "--plugin":
            if not queue:
                raise UserError("--plugin needs a file: --plugin my.py")
            plugins.add_plugin_file(queue.pop(0))
        elif argument.startswith("--plugin="):
            plugins.add_plugin_file(argument.partition("=")[2])
        else:
            rest.append(argument)
    return rest


def _overview() -> str:
    lines = [
        "usage: flowkit VERB ... [--plugin my.py]",
        "",
        "Flow matching from a recipe: train, sample, listen, look.",
        "",
        "verbs:",
    ]
    lines += [f"  {name:<12} {summary}" for name, (_, summary) in all_verbs().items()]
    lines += ["", "flowkit VERB --help shows the options of a verb, with an example.", "", "examples:"]
    lines += [
        "  flowkit list recipes",
        "  flowkit train generic/mixture-flow-matching --trainer.steps 500",
        "  flowkit --version",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
