// A producer in Node: three tasks on the bus, the tokens as they come, and the result. Runs on the tiny model.
// It knows NATS, and nothing of parrot-mq; what it says on the bus is explained in schemas/README.md.
//
//     parrot-mq up
//     npm install --prefix examples/node
//     node examples/node/producer.mjs

import { randomUUID } from "node:crypto";
import { connect } from "@nats-io/transport-node";

const RECORD = "name: Elbrus\nheight: 5642\ncountry: Russia\nrange: Caucasus";

const nc = await connect({ servers: process.env.PARROT_MQ_SERVERS ?? "nats://127.0.0.1:4222" });
const session = `node-${randomUUID()}`;

/** Have a text written: the last placeholder of the template. It runs as soon as what it reads is set. */
async function submit(template, inputs = {}) {
  const variable = template.match(/{{(\w+)}}$/)[1];
  const sampling = { max_tokens: 48, stop: ["\n"] };
  const task = { type: "task.prompt", template, inputs, outputs: { [variable]: { variable, sampling } } };
  const subject = `pmq.default.task.${session}.write-${variable}`;
  const { error } = (await nc.request(subject, JSON.stringify(task), { timeout: 5000 })).json(); // stored, or not
  if (error) throw new Error(error.description);
}

// First listen: to the values, and to the pieces of one text while it is generated.
const values = nc.subscribe(`pmq.default.set.${session}.*`, { max: 3 });
let seen = ""; // offsets count code points; in these texts each is one code unit
nc.subscribe(`pmq.default.stream.${session}.label`, {
  callback: (error, message) => {
    const { offset, text } = error ? { offset: Infinity } : message.json();
    if (offset > seen.length) return; // something was missed: the value will have it
    const news = text.slice(seen.length - offset); // what a second attempt repeats is known already
    process.stdout.write(news);
    seen += news;
  },
});
await nc.flush();

// Then submit, in any order, and wait for nothing in between.
await submit("Join the two texts with a space.\nFirst: {{capitals}}\nSecond: {{height}}\nAnswer: {{label}}", {
  capitals: { variable: "capitals" },
  height: { variable: "height" },
});
await submit("Write the text in upper case.\nText: Elbrus\nAnswer: {{capitals}}");
await submit(
  "Read the record and answer with the value only.\n\nRecord:\n{{record}}\n\n" +
    "Question: What is the height?\nAnswer: {{height}}",
  { record: RECORD },
);

for await (const message of values) {
  if (message.headers?.get("Pmq-Status") === "error") throw new Error(message.json().message);
  if (message.subject.endsWith(".label")) console.log("\nlabel:", message.string()); // reads the others: it is the last
}
await nc.close();
