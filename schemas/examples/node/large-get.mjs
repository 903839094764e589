// Read a variable that may be a claim check.
import { createHash } from "node:crypto";
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

async function get(stream, subject) {
  const message = await nc.request(`$JS.API.DIRECT.GET.${stream}.${subject}`, "", { timeout: 5000 });
  if (message.headers?.code === 404) throw new Error(`nothing stands on ${subject}`);
  return message;
}

async function getText(variable) {
  const message = await get("PMQ_VARS", `pmq.default.var.${session}.${variable}`);
  if (!message.headers?.get("Pmq-Blob")) return message.string();
  const { digest } = message.json();
  const first = await get("PMQ_BLOBS", `pmq.default.blob.${digest}.0`);
  const chunks = [first.data];
  for (let index = 1; index < Number(first.headers.get("Pmq-Chunks")); index++) {
    chunks.push((await get("PMQ_BLOBS", `pmq.default.blob.${digest}.${index}`)).data);
  }
  const bytes = Buffer.concat(chunks);
  if (createHash("sha256").update(bytes).digest("hex") !== digest) throw new Error(`blob ${digest} is damaged`);
  return bytes.toString("utf8");
}

const text = await getText("book");
console.log(JSON.stringify({ length: [...text].length, begins: text.slice(0, 17) }));
await nc.close();
