// One answer becomes a list, a function runs for each of its items, and one prompt reads all that comes of it.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const values = nc.subscribe(`pmq.default.set.${session}.*`);
await nc.flush();

const list = {
  template: "Which countries are named here, separated by commas?\n{{text}}\nCountries: {{countries}}",
  inputs: { text: "We flew from France to Peru." },
  outputs: {
    countries: {
      variable: "countries", // ["France","Peru"], and countries-0, countries-1; the model's text is in countries-raw
      transforms: [{ op: "regex", pattern: "[^\\n]+" }, { op: "split", separator: "," }, { op: "strip" }],
    },
  },
};
const each = {
  type: "task.native",
  function: "capital_of",
  each: ["country"], // a call for each item of the list, as soon as it is known
  inputs: { country: { variable: "countries" } },
  outputs: { capital: { variable: "capitals" } }, // ["Paris","Lima"], and capitals-0, capitals-1
};
const combine = {
  template: "Write a sentence about {{capitals}}:{{sentence}}",
  inputs: { capitals: { variable: "capitals", items: true } }, // its items stand here, and not the JSON
  separators: { capitals: " and " },
  outputs: { sentence: { variable: "sentence" } },
};
for (const [id, task] of Object.entries({ list, each, combine })) {
  nc.publish(`pmq.default.task.${session}.${id}-1`, JSON.stringify(task)); // in any order
}

for await (const message of values) {
  const variable = message.subject.split(".").at(-1);
  console.log(JSON.stringify({ [variable]: message.string() }));
  if (variable === "sentence") break;
}
await nc.close();
