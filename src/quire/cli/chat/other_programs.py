"""Words that people bring along from other programs: put into this chat's own, or told what does the same.

They are those of Ollama (`/set parameter num_predict 5`, `/show system`, `/bye`), llama.cpp's `llama-cli`
(`/regen`, `/read`), `llm` (`!multi`, `exit`) and aichat (`.file`, `.copy`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from quire.cli.chat.files import shell_words
from quire.errors import ConfigError, RequestError

NAMES: Mapping[str, str] = {
    "/?": "/help",
    "/bye": "/exit",
    "/glob": "/file",
    "/new": "/clear",
    "/q": "/exit",
    "/quit": "/exit",
    "/read": "/file",
    "/regen": "/retry",
    "/regenerate": "/retry",
    "/reset": "/clear",
    "/show": "/info",
}
_WORDS: Mapping[str, str] = {"exit": "/exit", "quit": "/exit"}
"""Without a slash, as `llm` has them."""
_DOTTED = re.compile(
    r"\.(?:continue|copy|exit|file|help|info|model|regenerate|set)(?!\S)", re.IGNORECASE
)
"""aichat's commands that are some here, too; what else begins with a dot is sent."""
_TOLD: Mapping[str, str] = {
    "clear": "/clear begins a new conversation, Ctrl-L clears the screen.",
    "help": "/help lists the commands.",
    "!multi": 'Several lines stand between """ and """, or Alt-Enter begins a new one.',
    "!edit": "Ctrl-X Ctrl-E opens the editor.",
    "!fragment": "/file attaches files, and so does @ before a path.",
    ".session": "/resume goes on with a kept conversation.",
    ".empty session": "/clear begins a new conversation.",
    ".role": "/system TEXT sets the system message.",
    ".prompt": "/system TEXT sets the system message.",
    ".edit session": "/edit changes the last answer, /edit question the last question.",
    ".save session": "/save FILE writes the conversation.",
}
"""What other programs take for a command, and what does the same here."""
_COMMANDS_TOLD: Mapping[str, str] = {
    "/list": "quire list shows the models of the hub that are here; /model NAME changes to one.",
    "/models": "quire list shows the models of the hub that are here; /model NAME changes to one.",
    "/history": "/resume shows a kept conversation; the arrow keys bring what you typed.",
    "/undo": "/edit question changes the last question, and forgets what came of it.",
}
_SET: Mapping[str, str] = {
    "verbose": "/stats on",
    "quiet": "/stats off",
    "nothink": "/think off",
    "noformat": "/set response_format default",
}
_SET_TOLD: Mapping[str, str] = {
    "wordwrap": "The terminal itself wraps code; other text is wrapped between words.",
    "nowordwrap": "The terminal itself wraps code; other text is wrapped between words.",
    "history": "/keep on or off says whether conversations are kept.",
    "nohistory": "/keep off keeps no conversations.",
}
_PARAMETERS: Mapping[str, str] = {
    "num_predict": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "repeat_penalty": "repetition_penalty",
    "temp": "temperature",
}
_STARTED_WITH: Mapping[str, str] = {
    "num_ctx": "The context's length is given at the start: quire chat MODEL vllm_maxlen=8192.",
    "num_gpu": "Where the model runs is said at the start, by infer_backend.",
    "num_thread": "quire uses all cores that the process may use; OMP_NUM_THREADS has no say.",
    "repeat_last_n": "The penalties look at all of the conversation and the answer.",
}
_FIRST = "The model stands first: quire chat FOLDER (or a name)."
_KEY_VALUE = "Options of an answer are key=value: temperature=0, max_new_tokens=100, top_p=0.9."
_FILES = "--file PATH sends a file, of whatever kind; several times for several."
_LEAVE_OUT = "Without a prompt it is a chat: leave the option out."
_THINK = "enable_thinking=true has the model think first, enable_thinking=false not."
_OPTIONS_TOLD: Mapping[str, str] = {
    "-a": _FILES,
    "--attachment": _FILES,
    "--image": _FILES,
    "--audio": _FILES,
    "-cnv": _LEAVE_OUT,
    "--conversation": _LEAVE_OUT,
    "--ctx-size": "The context's length is vllm_maxlen=8192.",
    "--extract": "--code, or -x, writes the first block of code alone.",
    "--format": "--schema SCHEMA has the answer follow a JSON schema; --json writes all of it as JSON.",
    "--grammar": 'A grammar is response_format=\'{"type": "grammar", "grammar": "..."}\'.',
    "--hidethinking": "The answer to a prompt is shown without its thought; in a chat /think hide.",
    "-i": _LEAVE_OUT,
    "--interactive": _LEAVE_OUT,
    "-j": "--schema SCHEMA has the answer follow a JSON schema.",
    "--json-schema": "--schema SCHEMA has the answer follow a JSON schema.",
    "-m": _FIRST,
    "--model": _FIRST,
    "-n": "max_new_tokens=100 bounds the answer.",
    "--n-predict": "max_new_tokens=100 bounds the answer.",
    "--no-stream": "--json writes the answer once it is whole.",
    "-S": "--json writes the answer once it is whole.",
    "-o": _KEY_VALUE,
    "--option": _KEY_VALUE,
    "-sys": "--system TEXT is the system message.",
    "--system-prompt": "--system TEXT is the system message.",
    "--temp": "temperature=0.5 sets the temperature.",
    "--think": _THINK,
    "--nothink": _THINK,
    "-u": "--stats says how many tokens an answer has.",
    "--usage": "--stats says how many tokens an answer has.",
    "--verbose": "--stats says how many tokens an answer has, and how fast they came.",
}
"""Options of other programs on the command line, and what does the same here."""
_SHOW: Mapping[str, str] = {
    "": "/info",
    "info": "/info",
    "parameters": "/set",
    "system": "/system",
}
_SHOW_TOLD: Mapping[str, str] = {
    "template": "quire prompt MODEL shows what the template makes of a message.",
    "license": "The licence stands in the model's folder, or on its page.",
    "modelfile": "There is no Modelfile: /info, /set and /system say what one would.",
}


def in_our_words(text: str) -> str:
    """A message as it is, or the command of this chat that a word of another program stands for.

    Raises:
        RequestError: a word of another program that is no command here; it says what does the same.
    """
    if not text.startswith("/"):
        word = text.rstrip().lower()
        first = word.partition(" ")[0] if word.startswith(("!", ".")) else word
        if told := _TOLD.get(word) or _TOLD.get(first):
            raise RequestError(f"{told} With a blank before it the word is sent.")
        if word in _WORDS:
            return _WORDS[word]
        if not _DOTTED.match(text):
            return text
        text = f"/{text[1:]}"
    name, _, argument = text.partition(" ")
    name, argument = name.rstrip(), argument.strip()
    if name in _COMMANDS_TOLD:
        raise RequestError(_COMMANDS_TOLD[name])
    if name == "/set":
        return _setting(argument)
    if name == "/show":
        return _shown(argument)
    return f"{NAMES.get(name, name)} {argument}".rstrip()


def refuse_other_options(words: Iterable[str]) -> None:
    """Raise ConfigError for an option of another program; it says what does the same here."""
    for word in words:
        name = word.partition("=")[0]
        if told := _OPTIONS_TOLD.get(name.replace("_", "-")):
            raise ConfigError(f"There is no option {name}. {told}")


def _setting(argument: str) -> str:
    first, _, rest = argument.partition(" ")
    rest = rest.strip()
    if first in _SET_TOLD:
        raise RequestError(_SET_TOLD[first])
    if first in _SET:
        return _SET[first]
    if first == "system":
        return f"/system {_unquoted(rest)}"
    if first == "think":
        return f"/think {rest or 'on'}"
    if first == "format":
        if rest != "json":
            raise RequestError(
                'A form is set so: /set response_format {"type": "json_schema", ...}.'
            )
        return '/set response_format {"type": "json_object"}'
    if first == "parameter":
        return _parameter(rest)
    return f"/set {argument}".rstrip()


def _parameter(argument: str) -> str:
    """Ollama's form of it, in which the stop strings stand one after the other."""
    name, _, value = argument.partition(" ")
    if name in _STARTED_WITH:
        raise RequestError(_STARTED_WITH[name])
    if name == "stop" and value and not value.lstrip().startswith("["):
        value = json.dumps(shell_words(value), ensure_ascii=False)
    return f"/set {_PARAMETERS.get(name, name)} {value}".rstrip()


def _shown(argument: str) -> str:
    if argument in _SHOW_TOLD:
        raise RequestError(_SHOW_TOLD[argument])
    if argument not in _SHOW:
        raise RequestError(f"/show takes {', '.join(filter(None, _SHOW))}, not {argument!r}")
    return _SHOW[argument]


def _unquoted(text: str) -> str:
    marks = '"' * 3
    if len(text) >= 6 and text.startswith(marks) and text.endswith(marks):
        return text[3:-3].strip()
    return text
