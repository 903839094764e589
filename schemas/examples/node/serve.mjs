// Serve a native function. All programs that listen in the queue group `native` share the calls; stop it with Ctrl-C.
import { connect, headers } from "@nats-io/transport-node";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const CAPITALS = { France: "Paris", Peru: "Lima" };

function capitalOf({ country }) {
  const capital = CAPITALS[country];
  if (capital === undefined) throw new Error(`no capital of ${country} is known`);
  return capital;
}

const calls = nc.subscribe("pmq.default.call.*.capital_of", { queue: "native" }); // `*`: of all sessions
await nc.flush();
console.log(JSON.stringify({ serving: "capital_of" }));
for await (const message of calls) {
  const { arguments: given } = message.json();
  try {
    message.respond(capitalOf(given)); // a text, as on a variable
  } catch (error) {
    const head = headers();
    head.set("Pmq-Status", "error");
    message.respond(JSON.stringify({ code: "function_failed", message: error.message }), { headers: head });
  }
}
