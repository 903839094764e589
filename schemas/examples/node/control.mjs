// Open a session, cancel its work, close it.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

async function ask(verb, request = {}) {
  const subject = `pmq.default.control.${session}.${verb}`;
  const answer = await nc.request(subject, JSON.stringify(request), { timeout: 30_000 });
  if (answer.headers?.get("Pmq-Status") === "error") throw new Error(answer.json().message);
  return { num_cancelled: 0, ...answer.json() };
}

console.log(JSON.stringify({ opened: await ask("open") }));

const results = nc.subscribe(`pmq.default.set.${session}.reply`, { max: 1 });
const accepted = nc.subscribe(`pmq.default.event.${session}.submitted`, { max: 1 });
await nc.flush();
const task = {
  type: "task.prompt",
  template: "{{question}}\n{{reply}}",
  inputs: { question: { variable: "question" } }, // nobody sets it
  outputs: { reply: { variable: "reply" } },
};
nc.publish(`pmq.default.task.${session}.reply-1`, JSON.stringify(task));
for await (const message of accepted) console.log(JSON.stringify({ waits_for: message.json().reads }));

console.log(JSON.stringify({ cancelled: await ask("cancel", { variables: ["reply"] }) }));
for await (const message of results) console.log(JSON.stringify({ code: message.json().code }));

console.log(JSON.stringify({ closed: await ask("close") }));
await nc.close();
