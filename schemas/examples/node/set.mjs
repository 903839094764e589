// Set a variable: publish a text. Any NATS client can do it, without headers and without knowing of streams.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

nc.publish(`pmq.default.var.${session}.topic`, "parrots");

await nc.drain();
