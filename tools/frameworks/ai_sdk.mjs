// The AI SDK over its four providers. `node ai_sdk.mjs ADDRESS`; one JSON line for each thing that was tried.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.argv[2]}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "none" });
const models = {
  compatible: createOpenAICompatible({ name: "quire", baseURL, supportsStructuredOutputs: true })("demo"),
  chat: openai.chat("demo"),
  responses: openai.responses("demo"),
  messages: createAnthropic({ baseURL, apiKey: "none" })("demo"),
};
const tools = {
  get_weather: tool({
    description: "Get the current weather for a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async () => "21 degrees and sunny",
  }),
};
const person = Output.object({ schema: z.object({ name: z.string(), age: z.number() }) });

async function attempt(what, expected, action) {
  let wrong = "";
  try {
    const said = await action();
    if (!said.includes(expected)) wrong = `said ${said.slice(0, 200)}`;
  } catch (error) {
    wrong = `${error.name}: ${error.message}`.slice(0, 300);
  }
  console.log(JSON.stringify({ what, wrong }));
}

globalThis.AI_SDK_LOG_WARNINGS = false;
for (const [name, model] of Object.entries(models)) {
  const given = { model, temperature: 0, maxOutputTokens: 200 };
  await attempt(`${name}: an answer`, "5", async () => (await generateText({ ...given, prompt: "What is 2 plus 3?" })).text);
  await attempt(`${name}: a stream`, "quire", async () => {
    let text = "";
    for await (const piece of streamText({ ...given, prompt: "What is quire?" }).textStream) text += piece;
    return text;
  });
  const weather = { ...given, prompt: "What is the weather in Oslo?", tools, stopWhen: stepCountIs(4) };
  await attempt(`${name}: tools`, "21 degrees", async () => (await generateText(weather)).text);
  await attempt(`${name}: tools, streamed`, "21 degrees", async () => streamText(weather).text);
  const prompt = "Anna is 31 years old. Extract name and age as JSON.";
  await attempt(`${name}: a typed answer`, "31", async () =>
    JSON.stringify((await generateText({ ...given, prompt, output: person })).output),
  );
}
