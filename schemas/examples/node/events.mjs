// Watch what happens in a session, until Ctrl-C.
import { decode } from "@msgpack/msgpack";
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const read = (message) => (message.data[0] === 0x7b ? message.json() : decode(message.data)); // 0x7b is "{"

const events = nc.subscribe(`pmq.default.event.${session}.*`);
await nc.flush();
console.log(JSON.stringify({ watching: session }));
for await (const message of events) console.log(JSON.stringify(read(message)));
