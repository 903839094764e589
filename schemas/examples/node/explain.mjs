// Ask what happened to each output of a session, and why. A long answer comes in parts.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

let begin = 0;
do {
  const request = JSON.stringify({ begin });
  const answer = await nc.request(`pmq.default.control.${session}.explain`, request, { timeout: 30_000 });
  if (answer.headers?.get("Pmq-Status") === "error") throw new Error(answer.json().message);
  const { stories = [], next_begin = 0 } = answer.json();
  for (const story of stories) console.log(JSON.stringify(story));
  begin = next_begin;
} while (begin > 0);

await nc.close();
