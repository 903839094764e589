// Set a variable and hear of it as a browser would: over WebSocket.
import { wsconnect } from "@nats-io/nats-core";
import { WebSocket } from "ws";

globalThis.WebSocket ??= WebSocket; // browsers have it, and Node from version 22 on

const session = process.argv[2] ?? "demo";
const nc = await wsconnect({ servers: process.env.WEBSOCKET_URL ?? "ws://127.0.0.1:8080" });

const values = nc.subscribe(`pmq.default.set.${session}.topic`, { max: 1 });
await nc.flush();
const stored = await nc.request(`pmq.default.var.${session}.topic`, "parrots", { timeout: 5000 });
console.log(JSON.stringify({ stored: stored.json().stream }));
for await (const message of values) console.log(JSON.stringify({ topic: message.string() }));

await nc.close();
