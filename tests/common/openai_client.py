"""What a plant's program does with OpenAI's own client: asks the box's model, and prints what it has heard as one line of
JSON. Arguments: the URL up to /v1, a token of the role model, a token of another role, a picture."""

import base64
import json
import sys
import threading
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

url, token, foreign, path = sys.argv[1:5]
client = OpenAI(base_url=url, api_key=token, max_retries=0, timeout=300)
with open(path, "rb") as file:
    data = "data:image/png;base64," + base64.b64encode(file.read()).decode()
model = client.models.list().data[0].id
image = {"type": "image_url", "image_url": {"url": data, "detail": "low"}}
question = {"type": "text", "text": "Which surface defects are there? Reply with a JSON list, or []."}
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [image, question]}]
heard = {"model": model, "retrieved": client.models.retrieve(model).id}


def ask(**more):
    return client.chat.completions.create(**{"model": model, "messages": messages, "max_tokens": 24, **more})


def refused(call):
    """The class of the client's error, and what it says of the request."""
    try:
        call()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code, error.param]
    return ["nothing", 0, None, None]


whole = ask(logprobs=True)
heard["whole"] = whole.choices[0].message.content
heard["finish"] = whole.choices[0].finish_reason
heard["usage"] = whole.usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"})
heard["logprobs"] = [token.logprob for token in whole.choices[0].logprobs.content]
heard["tokens"] = "".join(token.token for token in whole.choices[0].logprobs.content)

chunks = list(ask(stream=True, stream_options={"include_usage": True}))
heard["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
heard["stream_usage"] = chunks[-1].usage.model_dump(include={"prompt_tokens", "completion_tokens", "total_tokens"})
heard["stream_finish"] = [c.choices[0].finish_reason for c in chunks if c.choices][-1]
with client.chat.completions.stream(model=model, messages=messages, max_tokens=24) as stream:
    for event in stream:
        pass
    heard["accumulated"] = stream.get_final_completion().choices[0].message.content


class Judged(BaseModel):
    verdict: Literal["good", "scratched", "dented"]
    sure: bool


parsed = client.chat.completions.parse(model=model, messages=messages, max_tokens=64, response_format=Judged)
heard["parsed"] = parsed.choices[0].message.parsed.model_dump()
form = {"type": "json_object"}
answer = ask(response_format=form, max_tokens=256)
heard["object_finish"] = answer.choices[0].finish_reason
heard["object"] = answer.choices[0].message.content
# As Dify sends it: the schema by itself.
bare = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"],
        "additionalProperties": False}
answer = ask(response_format={"type": "json_schema", "json_schema": bare}, max_tokens=32)
heard["bare"] = json.loads(answer.choices[0].message.content)

heard["cut"] = ask(max_tokens=1).choices[0].finish_reason
heard["sampled"] = [ask(temperature=1.5, top_p=0.95, seed=7).choices[0].message.content for _ in range(2)]
first = heard["whole"][:1]
heard["stopped"] = ask(stop=[first]).choices[0].message.content if first else ""
again = messages + [{"role": "assistant", "content": heard["whole"]}, {"role": "user", "content": "Are you sure?"}]
heard["again_usage"] = ask(messages=again).usage.prompt_tokens
video = [{"role": "user", "content": [{"type": "video", "video": [data, data], "fps": 2}, question]}]
heard["video_usage"] = ask(messages=video).usage.prompt_tokens

broken = {"type": "image_url", "image_url": {"url": data[: len(data) // 2]}}
far = {"type": "image_url", "image_url": {"url": "https://pictures.example/part.png"}}
schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "$ref": "#/nowhere"}}}
heard["refused"] = {
    "n": refused(lambda: ask(n=2)),
    "broken": refused(lambda: ask(messages=[{"role": "user", "content": [broken, question]}])),
    "far": refused(lambda: ask(messages=[{"role": "user", "content": [far, question]}])),
    "model": refused(lambda: ask(model="gpt-4o")),
    "schema": refused(lambda: ask(response_format=schema)),
    "long": refused(lambda: ask(messages=[{"role": "user", "content": "word " * 20000}], max_tokens=8192)),
    "large": refused(lambda: ask(messages=[{"role": "user", "content": "x" * (17 << 20)}])),
    "key": refused(lambda: client.with_options(api_key="ispd_wrong").models.list()),
    "role": refused(lambda: client.with_options(api_key=foreign).models.list()),
}

# More than the box takes at once: some are told to come again, with the class of error that callers wait for.
outcomes = []


def flood():
    body = [{"role": "user", "content": [image, {"type": "text", "text": "Say anything, at length."}]}]
    numbers = {"type": "array", "items": {"type": "integer", "minimum": 1000, "maximum": 9999}, "minItems": 60}
    form = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": numbers}}
    outcomes.append(refused(lambda: ask(messages=body, max_tokens=300, response_format=form))[0])


for _ in range(20):
    threads = [threading.Thread(target=flood) for _ in range(24)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if "RateLimitError" in outcomes:
        break
heard["flood"] = {kind: outcomes.count(kind) for kind in set(outcomes)}

# A stream that is closed in the middle.
stream = ask(stream=True, max_tokens=1000, response_format={"type": "json_schema", "json_schema": {
    "name": "numbers", "schema": {"type": "array", "items": {"type": "integer", "minimum": 1000, "maximum": 9999},
                                  "minItems": 150}}})
for count, chunk in enumerate(stream):
    if count == 5:
        break
stream.close()
print(json.dumps(heard))
