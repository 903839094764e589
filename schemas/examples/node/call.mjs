// Have a native function called as soon as its argument is set. Whoever serves it answers: see serve.mjs.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const results = nc.subscribe(`pmq.default.set.${session}.capital`, { max: 1 });
await nc.flush();

const task = {
  type: "task.native", // needed here: without it a task is a prompt
  function: "capital_of",
  inputs: { country: { variable: "country" } },
  outputs: { capital: { variable: "capital" } },
  timeout_s: 60,
};
await nc.request(`pmq.default.task.${session}.capital-1`, JSON.stringify(task), { timeout: 5000 });
nc.publish(`pmq.default.var.${session}.country`, process.argv[3] ?? "France");

for await (const message of results) {
  const isError = message.headers?.get("Pmq-Status") === "error";
  console.log(JSON.stringify(isError ? { error: message.json() } : { capital: message.string() }));
}
await nc.close();
