// Submit a task as JSON, and receive its result.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const results = nc.subscribe(`pmq.default.set.${session}.haiku`, { max: 1 });
await nc.flush(); // first listen, then submit

const task = {
  type: "task.prompt",
  template: "You are a poet.\nWrite a haiku about {{topic}}:\n{{haiku}}",
  inputs: { topic: { variable: "topic" } },
  outputs: { haiku: { variable: "haiku", sampling: { max_tokens: 48, stop: ["\n\n"] } } },
  timeout_s: 60,
};
const stored = await nc.request(`pmq.default.task.${session}.haiku-1`, JSON.stringify(task), { timeout: 5000 });
console.log(JSON.stringify({ stored: stored.json().stream }));

nc.publish(`pmq.default.var.${session}.topic`, "parrots"); // the last input: now the task is ready

for await (const message of results) {
  console.log(JSON.stringify({ haiku: message.string() }));
}
await nc.close();
