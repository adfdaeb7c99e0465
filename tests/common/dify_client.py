"""Asks the box's model with Dify's own code for OpenAI-compatible models, and prints what came of it as one line of JSON.
Arguments: the URL up to /v1, a token of the role model, a token of another role, a picture."""

import base64
import json
import logging
import os
import sys

from dify_plugin.entities.model.message import (
    AssistantPromptMessage,
    ImagePromptMessageContent,
    SystemPromptMessage,
    TextPromptMessageContent,
    UserPromptMessage,
)
from dify_plugin.errors.model import CredentialsValidateFailedError, InvokeError
from dify_plugin.interfaces.model.openai_compatible.llm import OAICompatLargeLanguageModel

import requests

url, token, foreign, path = sys.argv[1:5]
model = requests.get(url + "/models", headers={"Authorization": f"Bearer {token}"}, timeout=60).json()["data"][0]["id"]
dify = OAICompatLargeLanguageModel(model_schemas=[])
credentials = {"endpoint_url": url, "api_key": token, "mode": "chat", "vision_support": "support"}
with open(path, "rb") as file:
    data = base64.b64encode(file.read()).decode()
image = ImagePromptMessageContent(
    format="png", mime_type="image/png", base64_data=data, detail=ImagePromptMessageContent.DETAIL.LOW
)
text = TextPromptMessageContent(data="Which defects are there? Reply with a JSON list.")
messages = [SystemPromptMessage(content="Be brief."), UserPromptMessage(content=[image, text])]


def refused(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    return "nothing"


def ask(stream, more=None, said=messages):
    parameters = {"max_tokens": 24, "temperature": 0, **(more or {})}
    return dify._invoke(model, credentials, said, parameters, stop=["\n\n\n"], stream=stream, user="u1")


heard = {"model": model}
dify.validate_credentials(model, dict(credentials))
dify.validate_credentials(model, {**credentials, "stream_mode_auth": "use"})
whole = ask(False)
heard["whole"] = whole.message.content
heard["usage"] = [whole.usage.prompt_tokens, whole.usage.completion_tokens]
chunks = list(ask(True))
heard["streamed"] = "".join(chunk.delta.message.content for chunk in chunks)
heard["finish"] = chunks[-1].delta.finish_reason
heard["stream_usage"] = [chunks[-1].delta.usage.prompt_tokens, chunks[-1].delta.usage.completion_tokens]
schema = json.dumps({"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"],
                     "additionalProperties": False})
heard["held"] = json.loads(ask(False, {"response_format": "json_schema", "json_schema": schema}).message.content)
again = messages + [AssistantPromptMessage(content=heard["whole"]), UserPromptMessage(content="Are you sure?")]
heard["again"] = ask(False, said=again).usage.prompt_tokens
heard["refused"] = {
    "endpoint": refused(CredentialsValidateFailedError,
                        lambda: dify.validate_credentials(model, {**credentials, "endpoint_url": url[:-3]})),
    "name": refused(CredentialsValidateFailedError, lambda: dify.validate_credentials("gpt-4", dict(credentials))),
    "role": refused(CredentialsValidateFailedError,
                    lambda: dify.validate_credentials(model, {**credentials, "api_key": foreign})),
    "penalty": refused(InvokeError, lambda: ask(True, {"presence_penalty": 1})),
}
print(json.dumps(heard), flush=True)
# What Dify leaves running complains about its end.
logging.shutdown()
os._exit(0)
