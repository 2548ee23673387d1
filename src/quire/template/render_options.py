"""How conversations are rendered: a request's options over the configuration's, for one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.arguments import DataArguments
from quire.errors import ConfigError, RequestError, SamplingError, UnsupportedOptionError, nearest
from quire.messages import read_conversation
from quire.options import OPTIONS_BY_NAME, ThinkingChoices, read_option
from quire.prompt import Element
from quire.template.template import RenderOptions, Template

_SWITCHES = ("enable_thinking", "preserve_thinking")
_HINTS = ("reasoning_effort", "thinking_budget")
"""Options that have an effect of their own, and are variables of the templates that read them."""
_OWN_OPTIONS = frozenset({"add_generation_prompt", "continue_final_message", "messages", "tools"})

_QUESTION = read_conversation([{"role": "user", "content": "Hello"}])
_EFFORTS = ("low", "medium", "high")


class RenderOptionResolver:
    """Merges the options of a model's requests for its template with the configuration's.

    `enable_thinking` and `preserve_thinking` may stand among the variables too, where clients of
    vLLM give them, and with any template: `thinking` is another name for the first.
    """

    def __init__(self, template: Template, data: DataArguments) -> None:
        """Check the configuration.

        Raises:
            ConfigError: it gives a variable that the template never reads, or contradicts itself.
        """
        self._template = template
        try:
            kwargs = OPTIONS_BY_NAME["chat_template_kwargs"].type
            given = kwargs.read("chat_template_kwargs", data.chat_template_kwargs or {})
            self._variables, switches = self._split(given)
            configured = _agreed(switches, data.explicit())
        except RequestError as error:
            raise ConfigError(f"The configuration: {error}") from None
        unset = None if template.is_models_own or "enable_thinking" in data.explicit() else True
        self.enable_thinking = configured.get("enable_thinking", unset)
        """What the configuration says, else what holds without a word: LLaMA-Factory's named templates
        let the model think, and a model's own does what its author chose, which is None."""
        self._preserve_thinking = configured.get("preserve_thinking", False)

    def wants_thinking(self, options: Mapping[str, Any]) -> bool | None:
        """Whether a request asks for a thought, or for none; None where it says nothing.

        Raises:
            SamplingError: a value is of a wrong type, or two contradict each other.
        """
        effort = read_option(options, "reasoning_effort")
        wanted = self._switches(options).get("enable_thinking")
        return effort != "none" if wanted is None and effort is not None else wanted

    def thinking_choices(self) -> ThinkingChoices | None:
        """What a request can choose of thoughts; None where it can choose nothing.

        What a template reads does not say what it obeys, and many read the same name with opposite
        defaults: so a question is rendered with each choice, and the prompts are compared.
        """
        on, off = (self._question({"enable_thinking": value}) for value in (True, False))
        unset = self._question({})
        switch = on is not None and off is not None and on != off
        default = unset == on if switch and unset in (on, off) else None
        efforts: dict[str, Sequence[Element]] = {}
        for word in _EFFORTS:
            prompt = self._question({"reasoning_effort": word})
            if prompt is not None and prompt not in efforts.values():
                efforts[word] = prompt
        words = tuple(efforts) if len(efforts) > 1 else ()
        return ThinkingChoices(switch, default, words) if switch or words else None

    def _question(self, options: Mapping[str, Any]) -> Sequence[Element] | None:
        """The prompt of a question with these options; None where the template refuses them."""
        wanted = self.wants_thinking(options)
        thinking = self.enable_thinking if wanted is None else wanted
        try:
            return self._template.render(_QUESTION, **self.resolve(options, thinking))
        except RequestError:
            return None

    def resolve(self, options: Mapping[str, Any], thinking: bool | None) -> RenderOptions:
        """The options of `Template.render` for a request, for which `thinking` is decided already.

        Raises:
            SamplingError: a value is of a wrong type, or two contradict each other.
            UnsupportedOptionError: the template never reads a variable that the request gives.
        """
        variables, preserve = self._variables, self._switches(options).get("preserve_thinking")
        if options.get("chat_template_kwargs") is not None:
            variables = {**variables, **self._split(_kwargs(options))[0]}
        if documents := read_option(options, "documents"):
            self._check_read("documents")
            variables = {**variables, "documents": list(documents)}
        for name in _HINTS:
            hint = read_option(options, name)
            if hint is not None and name in self._template.variables:
                variables = {**variables, name: hint}
        continues = read_option(options, "continue_final_message")
        if continues and options.get("add_generation_prompt"):
            raise SamplingError(
                "add_generation_prompt begins an answer and continue_final_message continues one: "
                "give one of them."
            )
        return RenderOptions(
            enable_thinking=thinking,
            preserve_thinking=self._preserve_thinking if preserve is None else preserve,
            variables=variables,
            add_generation_prompt=read_option(options, "add_generation_prompt"),
            continue_final_message=continues,
        )

    def _switches(self, options: Mapping[str, Any]) -> dict[str, bool]:
        """The switches for thoughts that a request gives, as options or among its variables."""
        own = {name: options[name] for name in _SWITCHES if options.get(name) is not None}
        own = {name: read_option(own, name) for name in own}
        if options.get("chat_template_kwargs") is None:
            return own
        return _agreed(self._split(_kwargs(options))[1], own)

    def _split(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bool]]:
        """The variables for the template, and the switches among them."""
        variables: dict[str, Any] = {}
        switches: dict[str, bool] = {}
        read = self._template.variables
        for name, value in given.items():
            is_other_name = name == "thinking" and name not in read
            switch = "enable_thinking" if is_other_name else name
            if switch not in _SWITCHES or (name in read and not isinstance(value, bool)):
                self._check_read(name)
                variables[name] = value
            elif value is not None:
                value = OPTIONS_BY_NAME[switch].type.read(name, value)
                switches = _agreed(switches, {switch: value})
        return variables, switches

    def _check_read(self, name: str) -> None:
        """Raise UnsupportedOptionError for a variable that the template never reads."""
        template = self._template
        if name in template.variables:
            return
        if name in _OWN_OPTIONS:
            raise UnsupportedOptionError(
                f"{name} is no variable of its own for a chat template: give it beside "
                "chat_template_kwargs."
            )
        if not template.is_models_own:
            raise UnsupportedOptionError(
                f"The named template {template.name!r} reads no variables, and so not {name!r}: only "
                "a model's own chat template does."
            )
        known = ", ".join(sorted(template.variables)) or "none"
        raise UnsupportedOptionError(
            f"The model's chat template never reads the variable {name!r}"
            f"{nearest(name, template.variables)}. It reads: {known}."
        )


def _kwargs(options: Mapping[str, Any]) -> Mapping[str, Any]:
    return read_option(options, "chat_template_kwargs")


def _agreed(one: Mapping[str, bool], other: Mapping[str, Any]) -> dict[str, bool]:
    """The switches of both; raises SamplingError where they contradict each other."""
    given = {name: other[name] for name in _SWITCHES if other.get(name) is not None}
    for name, value in given.items():
        if one.get(name, value) != value:
            raise SamplingError(f"{name} is given in two ways that contradict each other.")
    return {**one, **given}
