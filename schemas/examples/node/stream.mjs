// See a text while it is generated.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

let seen = []; // Unicode code points, as `offset` counts them; "🦜".length is 2, [..."🦜"].length is 1
nc.subscribe(`pmq.default.stream.${session}.story`, {
  callback: (error, message) => {
    if (error) return;
    const { offset, text } = message.json();
    if (offset > seen.length) return; // something was missed: the value will have it
    const news = [...text].slice(seen.length - offset); // what a second attempt repeats is known already
    seen = [...seen, ...news];
    if (news.length) console.log(JSON.stringify({ piece: news.join("") }));
  },
});
const results = nc.subscribe(`pmq.default.set.${session}.story`, { max: 1 });
await nc.flush();

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
