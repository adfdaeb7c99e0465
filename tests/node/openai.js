// OpenAI's client for Node.js, which shares no code with the one for Python.
//
//   openai.js URL TOKEN FOREIGN PICTURE    asks the box's model, and prints what it has heard as one JSON object

const fs = require("fs");
const OpenAI = require("openai");

async function refused(call) {
  try {
    await call();
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param];
  }
  return ["nothing"];
}

async function main(baseURL, apiKey, foreign, path) {
  const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
  const url = `data:image/png;base64,${fs.readFileSync(path).toString("base64")}`;
  const [{ id: model }] = (await client.models.list()).data;
  const content = [{ type: "image_url", image_url: { url, detail: "high" } }, { type: "text", text: "Which defects are there?" }];
  const body = { model, max_tokens: 24, messages: [{ role: "developer", content: "Be brief." }, { role: "user", content }] };

  const whole = await client.chat.completions.create(body);
  let streamed = "", usage = null;
  const stream = await client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  const runner = client.chat.completions.stream(body);
  const schema = { type: "object", properties: { sure: { type: "boolean" } }, required: ["sure"], additionalProperties: false };
  const response_format = { type: "json_schema", json_schema: { name: "judged", strict: true, schema } };
  const parsed = await client.chat.completions.parse({ ...body, response_format });

  const numbers = { type: "array", items: { type: "integer", minimum: 1000, maximum: 9999 }, minItems: 150 };
  const long = await client.chat.completions.create({
    ...body, max_tokens: 1000, stream: true, response_format: { type: "json_schema", json_schema: { name: "n", schema: numbers } },
  });
  let heard = 0;
  for await (const _ of long) if ((heard += 1) === 5) break;
  console.log(JSON.stringify({
    model, whole: whole.choices[0].message.content, usage: whole.usage, streamed, stream_usage: usage,
    accumulated: (await runner.finalChatCompletion()).choices[0].message.content,
    parsed: parsed.choices[0].message.parsed ?? JSON.parse(parsed.choices[0].message.content),
    refused: {
      n: await refused(() => client.chat.completions.create({ ...body, n: 2 })),
      model: await refused(() => client.chat.completions.create({ ...body, model: "gpt-4o" })),
      role: await refused(() => new OpenAI({ baseURL, apiKey: foreign, maxRetries: 0 }).models.list()),
      key: await refused(() => new OpenAI({ baseURL, apiKey: "ispd_wrong", maxRetries: 0 }).models.list()),
    },
  }));
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
