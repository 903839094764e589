// Errors are values: whatever goes wrong with a task is published on its outputs. This template is wrong.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const results = nc.subscribe(`pmq.default.set.${session}.summary`, { max: 1 });
await nc.flush();

const task = {
  type: "task.prompt",
  template: "Summarise {{text}}:\n{{summary}}", // nobody says what fills {{text}}
  outputs: { summary: { variable: "summary" } },
};
nc.publish(`pmq.default.task.${session}.summary-1`, JSON.stringify(task));

for await (const message of results) {
  if (message.headers?.get("Pmq-Status") === "error") {
    console.log(JSON.stringify({ error: message.json() }));
  } else {
    console.log(JSON.stringify({ summary: message.string() }));
  }
}
await nc.close();
