"""A conversation in the terminal and the settings of its requests; what /save writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quire.characters import harmless
from quire.cli.chat.attachments import Attachment, shown_text, user_content
from quire.cli.chat.files import write_whole
from quire.errors import ConfigError, MessageError, UnsupportedOptionError
from quire.messages import (
    Message,
    ToolCall,
    read_conversation,
    read_message,
    read_tools,
)
from quire.options import REQUEST_OPTIONS
from quire.sampling import OptionResolver

_NOT_SHOWN = frozenset({"n", "num_return_sequences", "logprobs", "prompt_logprobs", "request_id"})
_BY_COMMAND = {
    "enable_thinking": "enable_thinking is set with /think on or /think off.",
    "continue_final_message": "/continue has the last answer continued.",
    "add_generation_prompt": "An answer follows each message; /continue has the last one continued.",
}
SETTINGS = REQUEST_OPTIONS - _NOT_SHOWN - _BY_COMMAND.keys()
"""What /set takes: one answer is shown, without log-probabilities; what has a command is set by that."""

_KEYS = frozenset({"messages", "system", "tools", "settings", "enable_thinking"})


@dataclass
class Turn:
    """One message in OpenAI's form, and whether the user stopped it half-way."""

    message: dict[str, Any]
    interrupted: bool = False


@dataclass
class Session:
    """The state of one chat. `configured` are the sampling settings of the configuration."""

    configured: Mapping[str, Any] = field(default_factory=dict[str, Any])
    turns: list[Turn] = field(default_factory=list[Turn])
    system: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    enable_thinking: bool | None = None
    taken_back: list[Turn] = field(default_factory=list[Turn])
    """The user's turns that got no answer; /retry sends them again."""
    cut_thought: Turn | None = None
    """The answer to those, stopped in its thought; /continue goes on with it."""
    attached: list[Attachment] = field(default_factory=list[Attachment])
    """Goes with the user's next message."""

    def request(self, *, continues: bool = False) -> dict[str, Any]:
        """The arguments of `ChatModel.stream` for the next answer, or for the rest of the last."""
        return {
            "messages": [dict(turn.message) for turn in self.turns],
            "system": self.system,
            "tools": self.tools or None,
            "enable_thinking": self.enable_thinking,
            **self.settings,
            **({"continue_final_message": True} if continues else {}),
        }

    # --- turns -----------------------------------------------------------------------------------

    def add_user(self, text: str) -> None:
        """Add a message with what is attached."""
        self.taken_back, self.cut_thought = [], None
        self.turns.append(Turn({"role": "user", "content": user_content(self.attached, text)}))
        self.attached = []

    def add_tool_result(self, call: ToolCall, text: str) -> None:
        message = {"role": "tool", "content": text, "name": call.name}
        self.turns.append(Turn({**message, **({"tool_call_id": call.id} if call.id else {})}))

    def add_answer(
        self,
        content: str,
        reasoning: str = "",
        calls: Sequence[ToolCall] = (),
        *,
        interrupted: bool = False,
    ) -> None:
        """Keep an answer; one that was stopped before it began takes the user's turn back."""
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [call_as_dict(call) for call in calls]
        turn = Turn(message, interrupted)
        if interrupted and not (content or calls):
            self.take_back()
            self.cut_thought = turn if reasoning else None
            return
        self.turns.append(turn)

    def add_continuation(
        self,
        content: str,
        reasoning: str = "",
        calls: Sequence[ToolCall] = (),
        *,
        interrupted: bool = False,
    ) -> None:
        """Add to the last answer what continues it."""
        before = self.turns.pop().message
        self.add_answer(
            str(before.get("content") or "") + content,
            str(before.get("reasoning_content") or "") + reasoning,
            calls,
            interrupted=interrupted,
        )

    def reopen(self) -> bool:
        """Make ready to continue the last answer, or the thought that was stopped; False if none is."""
        if self.cut_thought is not None and self.taken_back:
            self.turns += [*self.taken_back, self.cut_thought]
            self.taken_back, self.cut_thought = [], None
        return self.answer is not None

    # --- changing what was said ------------------------------------------------------------------

    @property
    def answer(self) -> str | None:
        """The text of the last answer, if it ends the conversation and calls no tools."""
        last = self.turns[-1].message if self.turns else {}
        if last.get("role") != "assistant" or last.get("tool_calls"):
            return None
        return str(last.get("content") or "")

    @property
    def last_text(self) -> str:
        """The text of the last answer that has any."""
        for turn in reversed(self.turns):
            if turn.message["role"] == "assistant" and turn.message.get("content"):
                return str(turn.message["content"])
        return ""

    def change_answer(self, text: str) -> None:
        """Give the last answer another text."""
        last = self.turns.pop()
        self.turns.append(Turn({**last.message, "content": text}, last.interrupted))

    @property
    def question(self) -> str | None:
        """The text of the user's last message, if it is text alone."""
        for turn in reversed([*self.turns, *self.taken_back]):
            if turn.message["role"] == "user":
                content = turn.message.get("content")
                return content if isinstance(content, str) else None
        return None

    def change_question(self, text: str) -> None:
        """Give the user's last message another text, and forget what came of it."""
        while self.turns and not self.taken_back:
            if self.turns.pop().message["role"] == "user":
                break
        self.add_user(text)

    def take_back(self) -> None:
        """Remove the turns that got no answer, so that the next question does not follow them."""
        taken: list[Turn] = []
        while self.turns and self.turns[-1].message["role"] in ("user", "tool"):
            taken.insert(0, self.turns.pop())
        self.taken_back = taken or self.taken_back

    def retry(self) -> bool:
        """Make ready to answer the last question again; False if there is none."""
        if self.taken_back:
            self.turns += self.taken_back
            self.taken_back, self.cut_thought = [], None
        elif self.turns and self.turns[-1].message["role"] == "assistant":
            self.turns.pop()
        return bool(self.turns)

    def clear(self) -> None:
        """Forget the conversation and what is attached; system, tools and settings stay."""
        self.turns, self.taken_back, self.attached = [], [], []
        self.cut_thought = None

    # --- settings --------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Change one setting of the requests to come; None unsets it.

        Raises:
            SamplingError: a value out of its range.
            UnsupportedOptionError: no such option, or one that the terminal does not show.
        """
        check_settings({**self.settings, name: value}, self.configured)
        self.settings.pop(name, None)
        if value is not None:
            self.settings[name] = value

    # --- files -----------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write the session as JSON, whole or not at all; only a session is overwritten.

        Raises:
            ConfigError: the file cannot be written, or is something else.
        """
        if path.exists():
            load_file(path)
        write_whole(path, json.dumps(self.to_dict(), ensure_ascii=False, indent=2) + "\n")

    def to_dict(self) -> dict[str, Any]:
        """The session as `/save` writes it and `/load` and `quire prompt` read it."""
        messages = [
            {**turn.message, **({"interrupted": True} if turn.interrupted else {})}
            for turn in self.turns
        ]
        content = {
            "system": self.system,
            "messages": messages,
            "tools": self.tools,
            "settings": self.settings,
            "enable_thinking": self.enable_thinking,
        }
        return {key: value for key, value in content.items() if value or key == "messages"} | (
            {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        )

    def load(self, path: Path) -> None:
        """Take over a saved session; a wrong file leaves this one as it is.

        Raises:
            ConfigError, RequestError: the file cannot be read, or holds no conversation.
        """
        self.take_over(load_file(path))

    def take_over(self, content: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave; what is wrong leaves this session as it is.

        Raises:
            RequestError: a setting or a tool is wrong.
        """
        settings = dict(content.get("settings") or {})
        check_settings(settings, self.configured)
        self.tools = [dict(tool) for tool in read_tools(content.get("tools"))]
        self.turns = [_turn(message) for message in content["messages"]]
        self.system = content.get("system")
        self.settings = settings
        self.enable_thinking = content.get("enable_thinking")
        self.taken_back, self.cut_thought = [], None
        self.take_back()  # a question that got no answer waits for /retry

    @property
    def title(self) -> str:
        """The first line of the first question."""
        for turn in self.turns:
            if turn.message["role"] == "user" and (text := shown_text(read_message(turn.message))):
                return harmless(text.strip().partition("\n")[0])
        return ""


def check_settings(settings: Mapping[str, Any], configured: Mapping[str, Any]) -> None:
    """Check the settings of a chat in the terminal.

    Raises:
        SamplingError: a value is out of its range.
        UnsupportedOptionError: there is no such option, or a chat has no use for it.
    """
    for name in settings:
        if name in _NOT_SHOWN:
            raise UnsupportedOptionError(
                f"{name} cannot be set here: a chat shows one answer, as text."
            )
        if name in _BY_COMMAND:
            raise UnsupportedOptionError(_BY_COMMAND[name])
    # No model is asked here; a length beyond any context lets every other limit speak.
    OptionResolver(configured, {}, context_length=2**31).resolve(settings, 1)


def load_file(path: Path) -> dict[str, Any]:
    """Read a conversation's JSON file: `messages`, and perhaps the rest.

    Raises:
        ConfigError: not readable as JSON.
        MessageError, ToolError: no conversation.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"No such file: {path}.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no saved chat: {error}.") from None
    return check_content(content, str(path))


def check_content(content: Any, source: str) -> dict[str, Any]:
    """Check a conversation's JSON, in the form that `/save` writes.

    Raises:
        MessageError, ToolError: no conversation.
    """
    if not isinstance(content, dict) or not isinstance(content.get("messages"), list):
        raise MessageError(f'{source} holds no "messages".')
    for key in content:
        if key not in _KEYS:
            raise MessageError(
                f"{source} holds an unknown key {key!r}; known are {', '.join(sorted(_KEYS))}."
            )
    turns: list[Any] = [_turn(message).message for message in content["messages"]]
    for key, kind in (("system", str), ("enable_thinking", bool), ("settings", dict)):
        if not isinstance(content.get(key), (kind, type(None))):
            raise MessageError(f"{source}: {key} must be {kind.__name__}.")
    if turns:
        ends_with_answer = isinstance(turns[-1], dict) and turns[-1].get("role") == "assistant"
        following = [{"role": "user", "content": "?"}] if ends_with_answer else []
        read_conversation([*turns, *following], None, content.get("tools"))
    return content


def _turn(message: Any) -> Turn:
    if not isinstance(message, dict) or isinstance(message, Message):
        raise MessageError("Each of the messages must be a dictionary.")
    kept = {key: value for key, value in message.items() if key != "interrupted"}
    return Turn(kept, bool(message.get("interrupted")))


def call_as_dict(call: ToolCall) -> dict[str, Any]:
    """A call in OpenAI's form."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"type": "function", "function": function, **({"id": call.id} if call.id else {})}
