"""All errors that quire raises on purpose.

QuireError
├── ConfigError (ValueError)            the arguments are wrong, before anything is loaded
│   └── UnknownArgumentError            an unknown key; its text names the nearest known one
├── ModelError                          the model's folder cannot be used
│   ├── ModelNotFoundError              no such folder, or a file of it is missing
│   ├── UnsupportedModelError           an architecture or a format that this engine does not run
│   ├── WeightsError                    weights truncated, of a wrong shape, or in an unsafe format
│   └── AdapterError                    a LoRA adapter that does not fit, or changes nothing
├── RequestError (ValueError)           one request is wrong; the engine goes on
│   ├── MessageError                    empty conversation, unknown role, roles out of order
│   ├── TemplateError                   the conversation cannot be rendered with this template
│   ├── ToolError                       the list of tools cannot be read
│   ├── SamplingError                   an option is out of its range
│   ├── UnsupportedOptionError          this engine cannot honour an option
│   ├── UnknownAdapterError             the request names an adapter that is not served
│   ├── PromptTooLongError              the prompt leaves no room in the context
│   └── MediaError                      an image, a video or a sound cannot be used
├── BatchError                          a batch cannot begin, or cannot go on
│   ├── JobChangedError                 the files are of another job, or its input has changed
│   └── JobRunningError                 another process works on the same job
└── EngineError (RuntimeError)          the engine failed at a request, or cannot serve any
    ├── EngineClosedError               the engine was closed
    ├── EngineStartError                the engine did not start
    ├── EngineDeadError                 the engine has failed for good
    ├── GenerationError                 a fault in a step ended this request
    ├── EngineBusyError                 no room for this request now; it may be tried again
    ├── OutOfMemoryError                not enough KV memory, even for one sequence
    └── RequestTimeoutError             the request's own time limit has passed

A `RequestError` affects no other request. Each error's text says what is wrong and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuireError(Exception):
    """The base class of all errors that quire raises on purpose."""


class ConfigError(QuireError, ValueError):
    """The arguments are wrong."""


class UnknownArgumentError(ConfigError):
    """An argument has an unknown name."""


class ModelError(QuireError):
    """The model's folder cannot be used."""


class ModelNotFoundError(ModelError):
    """No such model, or a file of it is missing."""


class UnsupportedModelError(ModelError):
    """This engine does not run the model's architecture, or its weights' format."""


class WeightsError(ModelError):
    """Weights are truncated, of a wrong shape, or in an unsafe format."""


class AdapterError(ModelError):
    """A LoRA adapter does not fit the model, changes nothing, or is in an unsafe format."""


class RequestError(QuireError, ValueError):
    """One request is wrong; the engine goes on."""


class MessageError(RequestError):
    """The messages form no conversation."""


class TemplateError(RequestError):
    """The conversation cannot be rendered with this template."""


class ToolError(RequestError):
    """The list of tools cannot be read."""


class SamplingError(RequestError):
    """An option is out of its range."""


class UnsupportedOptionError(RequestError):
    """This engine cannot honour an option."""


class UnknownAdapterError(RequestError):
    """The request names an adapter that is not served."""


class PromptTooLongError(RequestError):
    """The prompt leaves no room in the context."""


class MediaError(RequestError):
    """An image, a video or a sound cannot be used."""


class BatchError(QuireError):
    """A batch cannot begin, or cannot go on."""


class JobChangedError(BatchError, ValueError):
    """The files are of another job, or the job's input or settings have changed."""


class JobRunningError(BatchError):
    """Another process works on the same job."""


class EngineError(QuireError, RuntimeError):
    """The engine failed at a request, or cannot serve any."""


class EngineClosedError(EngineError):
    """The engine was closed."""


class EngineStartError(EngineError):
    """The engine did not start: it failed, or took too long."""


class EngineDeadError(EngineError):
    """The engine has failed for good."""


class GenerationError(EngineError):
    """A fault in a step ended this request."""


class EngineBusyError(EngineError):
    """The engine has no room for this request now; it may be tried again."""


class OutOfMemoryError(EngineError):
    """Not enough KV memory, even for one sequence."""


class RequestTimeoutError(EngineError):
    """The request's own time limit has passed."""


_LONGEST_NAME = 200


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    if len(name) > _LONGEST_NAME:  # a client's, of any length: comparing takes time in proportion
        return ""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def sentence(text: str) -> str:
    """Return `text` with a full stop, unless it ends with one or with a question mark."""
    return text if text.endswith((".", "?")) else f"{text}."
