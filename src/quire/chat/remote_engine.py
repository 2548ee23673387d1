"""RemoteEngine: chat over running vLLM or quire servers."""

from __future__ import annotations

from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    InferArgs,
    ModelArguments,
)
from quire.chat.base_engine import BaseEngine
from quire.chat.preparation import ChatFormat, Preparation
from quire.chat.token_chat import TokenChat
from quire.engines.remote.chat_engine import RemoteChatEngine
from quire.engines.remote.connection import RemoteConnection, check_arguments, sends_tokens
from quire.engines.remote.token_engine import RemoteTokenEngine
from quire.engines.seam import ChatEngine
from quire.model_folder import find_model_folder, with_model_defaults


class RemoteEngine(BaseEngine):
    """One model on one or several servers. Each request goes to the least loaded of them.

    If the model's folder is local, conversations are rendered in this process and token ids are sent;
    otherwise messages are sent to the servers' chat API. `remote_api` overrides this choice.

    Raises:
        ConfigError: this engine cannot honour an argument, or httpx is not installed.
        EngineStartError: no server can be reached.
        ModelError: the servers do not serve the model, or its local folder cannot be used.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        arguments = InferArgs(model_args, data_args, finetuning_args, generating_args)
        check_arguments(model_args, finetuning_args)
        in_tokens = sends_tokens(model_args)
        connection = self.connection = RemoteConnection(model_args)
        chat: ChatEngine
        if in_tokens:
            folder = find_model_folder(model_args)
            arguments = with_model_defaults(arguments, folder)
            engine = RemoteTokenEngine(connection, folder, model_args)
            chat_format = ChatFormat.of_folder(folder, arguments)
            chat = TokenChat(Preparation(chat_format, arguments, engine.info), engine)
        else:
            chat = RemoteChatEngine(connection, arguments)
        super().__init__(arguments, chat)
