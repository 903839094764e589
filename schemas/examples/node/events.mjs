// Watch what happens in a session, until Ctrl-C.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const events = nc.subscribe(`pmq.default.event.${session}.*`);
await nc.flush();
console.log(JSON.stringify({ watching: session }));
for await (const message of events) console.log(JSON.stringify(message.json()));
