// Let a model choose which native function runs, without this program in between.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const results = nc.subscribe(`pmq.default.set.${session}.answer`, { max: 1 });
await nc.flush();

const choose = {
  template: "Which tool finds it, capital_of or currency_of?\nQuestion: {{question}}\nTool: {{tool}}",
  inputs: { question: "What is the capital of Peru?" },
  outputs: { tool: { variable: "tool", sampling: { max_tokens: 16, stop: ["\n"] } } },
};
const use = {
  type: "task.native",
  function: { variable: "tool" }, // its text, without white space around it, is one of the choices
  choices: ["capital_of", "currency_of"],
  inputs: { country: "Peru" },
  outputs: { answer: { variable: "answer" } },
};
nc.publish(`pmq.default.task.${session}.use-1`, JSON.stringify(use));
nc.publish(`pmq.default.task.${session}.choose-1`, JSON.stringify(choose));

for await (const message of results) console.log(JSON.stringify({ answer: message.string() }));
await nc.close();
