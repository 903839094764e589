// Set a variable to a large text: its bytes go into chunks under their SHA-256, the variable gets a claim check.
import { createHash } from "node:crypto";
import { connect, headers } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });

const CHUNK_BYTES = 128 * 1024;
const bytes = new TextEncoder().encode(`All about parrots 🦜, told in session ${session}. `.repeat(10_000));
const digest = createHash("sha256").update(bytes).digest("hex");
const count = Math.ceil(bytes.length / CHUNK_BYTES);

async function store(subject, payload, fields) {
  const head = headers();
  for (const [name, value] of Object.entries(fields)) head.set(name, value);
  const { error } = (await nc.request(subject, payload, { headers: head, timeout: 5000 })).json();
  if (error && error.err_code !== 10077) throw new Error(error.description); // 10077: it stands there already
}

for (let index = count - 1; index >= 0; index--) {
  // chunk 0 comes last: where it stands, the others stand too
  const chunk = bytes.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
  await store(`pmq.default.blob.${digest}.${index}`, chunk, { "Pmq-Chunks": String(count) });
}
const claim = { type: "blob", digest, size_bytes: bytes.length };
await store(`pmq.default.var.${session}.book`, JSON.stringify(claim), { "Pmq-Blob": digest });

console.log(JSON.stringify({ digest, size_bytes: bytes.length, chunks: count }));
await nc.close();
