// See a text while it is generated; what was missed of it is asked for.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222", maxReconnectAttempts: -1 });

let seen = []; // Unicode code points, as `offset` counts them; "🦜".length is 2, [..."🦜"].length is 1
let isAsking = false;

function take(message) {
  const { offset, text } = message.json();
  if (offset > seen.length) return ask(); // something before it was missed
  const news = [...text].slice(seen.length - offset); // what a second attempt repeats is known already
  seen = [...seen, ...news];
  if (news.length) console.log(JSON.stringify({ piece: news.join("") }));
}

async function ask() {
  if (isAsking) return;
  isAsking = true;
  const request = JSON.stringify({ offset: seen.length });
  try {
    take(await nc.request(`pmq.default.replay.${session}.story`, request, { timeout: 1000 }));
  } catch {
    // nobody generates it at this moment: the next piece, or the value, will show what is missing
  } finally {
    isAsking = false;
  }
}

nc.subscribe(`pmq.default.stream.${session}.story`, { callback: (error, message) => error ?? take(message) });
const results = nc.subscribe(`pmq.default.set.${session}.story`, { max: 1 });
await nc.flush();

(async () => {
  for await (const { type } of nc.status()) if (type === "reconnect") ask();
})();

const task = {
  type: "task.prompt",
  template: "Once upon a time {{story}}",
  outputs: { story: { variable: "story", sampling: { max_tokens: 64 } } },
};
nc.publish(`pmq.default.task.${session}.story-1`, JSON.stringify(task));

for await (const message of results) {
  console.log(JSON.stringify({ story: message.string() })); // what counts, whatever was seen of it before
}
await nc.close();
