// Set a variable and know that it is stored. The first value wins; the second is refused with err_code 10077.
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const js = jetstream(nc);

for (const text of ["green", "red"]) {
  try {
    await js.publish(`pmq.default.var.${session}.colour`, text);
    console.log(JSON.stringify({ stored: text }));
  } catch (error) {
    console.log(JSON.stringify({ refused: text, err_code: error.code }));
  }
}

await nc.close();
